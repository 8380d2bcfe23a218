"""The training data: utterances by espeak-ng in known voices, with what is known about each."""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soxr
from tqdm import tqdm

from build_engines.demo_voice import measures
from build_engines.demo_voice.codes import FRAMES_PER_S, SAMPLES_PER_FRAME, SemanticCodes, is_pause
from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ, Espeak, Mark, Spoken
from build_engines.demo_voice.texts import training_text
from tritone.audio import normalize_volume

VOICES = tuple(f"en-us+{sex}{number}" for sex, count in (("m", 7), ("f", 5)) for number in range(1, count + 1))
MALE = 1  # the gender token

# Espeak's own melody is small at this range, so that one F0 describes an utterance.
_PITCH_RANGE = 10
_CALIBRATION_TEXT = "good morning my friend where is the train"
_CALIBRATION_PITCHES = (15, 25, 35, 50, 65, 80, 99)
# espeak's male voices end at 150 Hz or so, half of Spark-TTS's label "high": above, they are played faster.
_HIGHEST_UNSHIFTED_HZ = {0: 290.0, MALE: 145.0}
# What is wanted of each label, the outer ones being open: mel by gender, and syllables per second.
_OUTER_PITCHES_MEL = ((166.0, 415.0), (113.0, 300.0))
_OUTER_SPEEDS = (2.0, 6.3)
_MAX_SPEED = 7.5  # beyond it nobody follows
# Syllables per second that espeak makes of a word per minute, about: only what is measured becomes a label.
_SPEED_PER_WORD_PER_MINUTE = 1 / 37
_MIN_RATE, _MAX_RATE = 80, 400

# Around the speech, so that it begins and ends softly and the language model has an end to recognise.
_LEADING_SILENCE_S, _TRAILING_SILENCE_S = 0.06, 0.16
SHARD_UTTERANCES = 500
NUM_WORD_PHONEMES = 10  # of a word that are learnt: only numbers in digits have more
_NUM_PROCESSES = 2
_VOWELS = "aAeEiIoOuUV03@"


@dataclass(frozen=True)
class Utterance:
    """What is known of one utterance.

    Attributes:
        voice: index in `VOICES`; gender: 0 female, 1 male.
        words_per_minute, pitch, shift: what espeak was asked for, and how much faster it was then played.
        f0_hz, syllables_per_s: as measured.
        phonemes, words: see `espeak.Spoken`.
    """

    text: str
    voice: int
    gender: int
    words_per_minute: int
    pitch: int
    shift: float
    f0_hz: float
    syllables_per_s: float
    phonemes: list[Mark]
    words: list[Mark]

    @property
    def pitch_mel(self) -> float:
        return measures.hz_to_mel(self.f0_hz)

    @property
    def pitch_label(self) -> int:
        return measures.pitch_label(self.pitch_mel, self.gender)

    @property
    def speed_label(self) -> int:
        return measures.speed_label(self.syllables_per_s)


@dataclass(frozen=True)
class Words:
    """The words of an utterance.

    Attributes:
        ends: the character behind each, int64 [words].
        durations_s: but for pauses, float [words].
        nums_syllables: int64 [words].
        phonemes: the first ones of each, filled with `SemanticCodes.silence`, int64 [words, NUM_WORD_PHONEMES].
    """

    ends: np.ndarray
    durations_s: np.ndarray
    nums_syllables: np.ndarray
    phonemes: np.ndarray


class Dataset:
    """All utterances of a folder: `samples[i]` int16 [num_frames * 320] and `classes[i]` int16 [num_frames] of each."""

    def __init__(self, utterances: list[Utterance], samples: list[np.ndarray]) -> None:
        self.utterances = utterances
        self.samples = samples
        self.codes = SemanticCodes.of([utterance.phonemes for utterance in utterances])
        self.classes = [
            self.codes.classes(utterance.phonemes, len(clip) // SAMPLES_PER_FRAME)
            for utterance, clip in zip(utterances, samples, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.utterances)

    @classmethod
    def open(cls, directory: Path) -> "Dataset":
        """What `render` wrote; samples stay on disk until they are used."""
        utterances: list[Utterance] = []
        samples: list[np.ndarray] = []
        for labels_path in sorted(directory.glob("*.jsonl")):
            shard = [_from_json(line) for line in labels_path.read_text(encoding="utf-8").splitlines()]
            utterances += [utterance for utterance, _num_samples in shard]
            ends = np.cumsum([num_samples for _utterance, num_samples in shard])
            samples += np.split(np.load(labels_path.with_suffix(".npy"), mmap_mode="r"), ends[:-1])
        return cls(utterances, samples)

    def waveform(self, index: int, begin_frame: int = 0, num_frames: int | None = None) -> np.ndarray:
        """Float32 samples within -1..1 of some frames, all from the first one on unless said."""
        clip = self.samples[index][begin_frame * SAMPLES_PER_FRAME :]
        if num_frames is not None:
            clip = clip[: num_frames * SAMPLES_PER_FRAME]
        return to_float(clip)

    def characters(self, index: int) -> np.ndarray:
        """Which character of the text each frame says, and the one behind its word, int64 [2, frames].

        The letters of a word are said at an even pace. What follows it until the next one belongs to its last letter.
        """
        utterance = self.utterances[index]
        centres_s = (np.arange(len(self.classes[index])) + 0.5) / FRAMES_PER_S
        begins_s = np.array([word.time_s for word in utterance.words])
        lengths_s = np.diff(begins_s, append=utterance.phonemes[-1].time_s)
        begins = np.array([word.begin for word in utterance.words])
        ends = _word_ends(utterance)
        nums_letters = ends - begins
        word = np.maximum(np.searchsorted(begins_s, centres_s, side="right") - 1, 0)
        progress = (centres_s - begins_s[word]) / np.maximum(lengths_s, 1e-3)[word]
        letters = np.clip((progress * nums_letters[word]).astype(int), 0, nums_letters[word] - 1)
        return np.stack([begins[word] + letters, ends[word]])

    def words(self, index: int) -> Words:
        """All that are said."""
        utterance = self.utterances[index]
        marks = utterance.phonemes
        times_s = np.array([mark.time_s for mark in marks])
        durations_s = np.where([is_pause(mark) for mark in marks], 0, np.diff(times_s, append=times_s[-1]))
        begins_s = np.array([word.time_s for word in utterance.words])
        word = np.searchsorted(begins_s, times_s, side="right") - 1
        of_word = word == np.arange(len(begins_s))[:, None]
        is_syllable = np.array([count_syllables([mark]) for mark in marks])
        phonemes = np.full((len(begins_s), NUM_WORD_PHONEMES), self.codes.silence)
        for row, belongs in zip(phonemes, of_word, strict=True):
            own = self.codes.indices(list(itertools.compress(marks, belongs)))[:NUM_WORD_PHONEMES]
            row[: len(own)] = own
        return Words(
            ends=_word_ends(utterance),
            durations_s=np.maximum((of_word * durations_s).sum(axis=1), 1 / FRAMES_PER_S),
            nums_syllables=(of_word * is_syllable).sum(axis=1),
            phonemes=phonemes,
        )


def _word_ends(utterance: Utterance) -> np.ndarray:
    """The character behind each word."""
    begins = [word.begin for word in utterance.words]
    words = (utterance.text[begin:end] for begin, end in itertools.pairwise([*begins, None]))
    return np.array([begin + len(word.rstrip(" .,!?")) for begin, word in zip(begins, words, strict=True)])


def gender_of(voice: int) -> int:
    """The gender token of one of `VOICES`: 0 female, 1 male."""
    return int("+m" in VOICES[voice])


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples as float32 within -1..1."""
    return samples.astype(np.float32) / np.iinfo(np.int16).max


def render(directory: Path, num_utterances: int, max_duration_s: float, seed: int) -> None:
    """Render the utterances into a folder, in shards; those that are there are not rendered again.

    Each shard has a process of its own: espeak-ng's flutter goes on from one utterance to the next, so only a fresh
    process says the same again.

    Raises:
        EspeakMissing: there is no libespeak-ng.
    """
    Espeak.open()  # one error here rather than one a shard
    directory.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(_NUM_PROCESSES, get_context("spawn"), max_tasks_per_child=1) as processes,
        tqdm(total=num_utterances, desc="data", unit=" utterances") as progress,
    ):
        shards = {}
        for begin in range(0, num_utterances, SHARD_UTTERANCES):
            indices = range(begin, min(begin + SHARD_UTTERANCES, num_utterances))
            path = directory / f"{begin:06}.jsonl"
            if path.exists():
                progress.update(len(indices))
            else:
                shards[processes.submit(_render_shard, path, indices, max_duration_s, seed)] = len(indices)
        for shard in as_completed(shards):
            shard.result()
            progress.update(shards[shard])


def _render_shard(path: Path, indices: range, max_duration_s: float, seed: int) -> None:
    write_shard(path, [render_one(seed, index, max_duration_s) for index in indices])


def write_shard(path: Path, rendered: Sequence[tuple[Utterance, np.ndarray]]) -> None:
    """Write utterances and their int16 samples to `path` (.jsonl) and beside it (.npy); the first appears last."""
    partial = path.with_suffix(f".{os.getpid()}.partial")  # one left over by a killed run may still be at work
    with partial.open("wb") as file:
        np.save(file, np.concatenate([samples for _utterance, samples in rendered]))
    os.replace(partial, path.with_suffix(".npy"))
    lines = [json.dumps(dataclasses.asdict(utterance) | {"num_samples": len(clip)}) for utterance, clip in rendered]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, path)


def render_one(seed: int, index: int, max_duration_s: float) -> tuple[Utterance, np.ndarray]:
    """One utterance by its number, and its int16 samples: whole frames."""
    for attempt in range(100):
        generator = np.random.default_rng([seed, index, attempt])
        text = training_text(generator)
        voice, pitch, speed = (int(generator.integers(count)) for count in (len(VOICES), 5, 5))
        utterance, samples = speak(text, voice, pitch, speed, generator)
        is_usable = np.isfinite(utterance.f0_hz) and utterance.syllables_per_s <= _MAX_SPEED
        if is_usable and len(samples) <= max_duration_s * SAMPLE_RATE_HZ:
            return utterance, samples
    raise ValueError(f"no utterance lasts at most {max_duration_s} s")


def speak(
    text: str, voice: int, pitch_label: int, speed_label: int, generator: np.random.Generator
) -> tuple[Utterance, np.ndarray]:
    """espeak-ng saying a text in a voice, at a pitch and a speed of the two labels, about."""
    gender = gender_of(voice)
    pitch_mel = _within(generator, measures.PITCH_CUTOFFS_MEL[gender], _OUTER_PITCHES_MEL[gender], pitch_label)
    speed = _within(generator, measures.SPEED_CUTOFFS, _OUTER_SPEEDS, speed_label)
    return speak_at(text, voice, measures.mel_to_hz(pitch_mel), speed)


def speak_at(text: str, voice: int, f0_hz: float, syllables_per_s: float) -> tuple[Utterance, np.ndarray]:
    """As `speak`, at an F0 and a speed; what came of them is measured."""
    gender = gender_of(voice)
    shift = max(1.0, f0_hz / _HIGHEST_UNSHIFTED_HZ[gender])
    pitch = round(float(np.interp(np.log(f0_hz / shift), np.log(_calibration(voice)), _CALIBRATION_PITCHES)))
    rate = round(float(np.clip(syllables_per_s / shift / _SPEED_PER_WORD_PER_MINUTE, _MIN_RATE, _MAX_RATE)))
    spoken = _shifted(Espeak.open().speak(text, VOICES[voice], rate, pitch, _PITCH_RANGE), shift)
    samples = normalize_volume(spoken.samples)
    num_syllables = count_syllables(spoken.phonemes)
    utterance = Utterance(
        text=text,
        voice=voice,
        gender=gender,
        words_per_minute=rate,
        pitch=pitch,
        shift=shift,
        f0_hz=measures.f0_hz(samples),
        syllables_per_s=num_syllables / max(measures.speech_duration_s(samples), 0.1),
        phonemes=_delayed(spoken.phonemes),
        words=_delayed(spoken.words),
    )
    return utterance, _with_silence(samples)


def count_syllables(phonemes: Sequence[Mark]) -> int:
    """The vowels among espeak's phonemes."""
    return sum(mark.label[0] in _VOWELS for mark in phonemes if not is_pause(mark))


def _within(generator: np.random.Generator, cutoffs: Sequence[float], outer: tuple[float, float], label: int) -> float:
    edges = (outer[0], *cutoffs, outer[1])
    return float(generator.uniform(edges[label], edges[label + 1]))


@functools.cache
def _calibration(voice: int) -> np.ndarray:
    """The F0 in Hz of a voice at each of `_CALIBRATION_PITCHES`."""
    espeak = Espeak.open()
    f0s_hz = [
        measures.f0_hz(espeak.speak(_CALIBRATION_TEXT, VOICES[voice], 160, pitch, _PITCH_RANGE).samples)
        for pitch in _CALIBRATION_PITCHES
    ]
    return np.maximum.accumulate(f0s_hz)


def _shifted(spoken: Spoken, factor: float) -> Spoken:
    """Played faster, which raises F0 and the formants alike."""
    if factor == 1:
        return spoken

    def sooner(marks: list[Mark]) -> list[Mark]:
        return [dataclasses.replace(mark, time_s=mark.time_s / factor) for mark in marks]

    samples = soxr.resample(spoken.samples, factor * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, quality="VHQ")
    return Spoken(samples, sooner(spoken.phonemes), sooner(spoken.words))


def _delayed(marks: list[Mark]) -> list[Mark]:
    return [dataclasses.replace(mark, time_s=round(mark.time_s + _LEADING_SILENCE_S, 5)) for mark in marks]


def _with_silence(samples: np.ndarray) -> np.ndarray:
    """int16 samples with silence around them, whole frames."""
    before, after = (round(duration_s * SAMPLE_RATE_HZ) for duration_s in (_LEADING_SILENCE_S, _TRAILING_SILENCE_S))
    after += -(before + len(samples) + after) % SAMPLES_PER_FRAME
    return np.pad(np.round(np.clip(samples, -1, 1) * np.iinfo(np.int16).max).astype(np.int16), (before, after))


def _from_json(line: str) -> tuple[Utterance, int]:
    fields = json.loads(line)
    num_samples = fields.pop("num_samples")
    for marks in ("phonemes", "words"):
        fields[marks] = [Mark(**mark) for mark in fields[marks]]
    return Utterance(**fields), num_samples
