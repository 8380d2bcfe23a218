"""How well a checkpoint speaks: what a recogniser understands, and whether voices, pitch and speed are as wanted.

espeak-ng's own speech is measured beside it by the same recogniser, which understands espeak badly: a figure says
something only beside espeak's.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tritone_client import ControlledVoice, ReferenceVoice, Voice

from build_engines.demo_voice import data, measures
from build_engines.demo_voice.data import VOICES, Utterance
from build_engines.demo_voice.figures import Figure, as_often, average, difference, share, word_error
from build_engines.demo_voice.identification import VoiceClassifier, voice_features
from build_engines.demo_voice.measures import GENDERS, LABELS
from build_engines.demo_voice.recognition import Recognizer, num_word_errors
from build_engines.demo_voice.speakers import Said, Speaker, cpu_repository, server_speaker, torch_speakers
from build_engines.demo_voice.texts import (
    PUNCTUATED_SHARE,
    VOCABULARY,
    fresh_sentence,
    plain_words,
    punctuate,
    training_text,
)
from demo.lines import DEMO_SENTENCES

# What the demo voice is held to.
_MAX_MORE_WORD_ERROR = 0.03  # than espeak's
_MIN_ONE_OF_50 = 0.95
_MIN_LABEL_EXACT, _MIN_LABEL_WITHIN_ONE = 0.85, 0.98
_MAX_F0_ERROR, _MIN_F0_RIGHT = 0.08, 0.95
_LOW_F0S_HZ = (80.0, 85.0, 90.0, 95.0, 100.0)
_MAX_SERVER_LOSS = 0.02  # a figure through the engines against the same one without

_SEED = 2**31 - 1  # no utterance of the training data has its texts drawn with it
_NUM_LANGUAGE_MODEL_TEXTS = 20_000
_CLASSIFIER_CLIPS, _CLASSIFIER_NEIGHBOURS = 400, 150  # of each voice at each pitch; of each voice for one distribution
# What made-up voices are to say, espeak says in so many of its own: the recogniser gets between 24% and 56% of their
# words wrong, so that one voice a line would set the limit by chance.
_ESPEAK_VOICES = 3


@dataclass(frozen=True)
class _Line:
    """Something to say and in which voice; `utterance` is what espeak made of it, or of the voice's reference."""

    text: str
    voice: Voice
    utterance: Utterance


@dataclass(frozen=True)
class _Material:
    """What is said, the same by every speaker."""

    controlled: list[_Line]
    controlled_demo: list[_Line]
    styles: list[_Line]
    cloned: list[_Line]
    cloned_demo: list[_Line]
    low: list[_Line]
    punctuated: list[_Line]
    espeak: dict[str, list[np.ndarray]]  # espeak's own speech of the row of this name, some clips a line
    references: list[np.ndarray]  # of the clones, those of demo sentences last


class _Judges:
    """What listens: recognisers in `processes`, and who spoke."""

    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self._processes = processes
        voices, pitches = np.mgrid[: len(VOICES), : len(LABELS), :_CLASSIFIER_CLIPS][:2].reshape(2, -1)
        clips = processes.map(_espeak_features, voices.tolist(), pitches.tolist(), itertools.count(), chunksize=100)
        features = list(tqdm(clips, desc="learns voices", unit=" clips", total=len(voices)))
        self._classifier = VoiceClassifier(np.stack(features), voices, _CLASSIFIER_NEIGHBOURS)

    def word_error(
        self, name: str, lines: Sequence[_Line], clips: Sequence[np.ndarray], at_most: float | None = None
    ) -> Figure:
        """Of as many clips of each line one after another."""
        clips_per_line = len(clips) // len(lines)
        expected = [plain_words(line.text) for line in lines for _ in range(clips_per_line)]
        pairs = zip(self._processes.map(_transcribe, clips), expected, strict=True)
        errors = np.reshape([num_word_errors(*pair) for pair in pairs], (len(lines), clips_per_line))
        words = np.reshape([len(each) for each in expected], errors.shape)
        return word_error(name, errors.sum(axis=1), words.sum(axis=1), at_most)

    def one_of_50(
        self, name: str, lines: Sequence[_Line], clips: Iterable[np.ndarray], at_least: float | None = None
    ) -> Figure:
        chosen = self._processes.map(_choose, clips)
        hits = [choice == line.text for choice, line in zip(chosen, lines, strict=True)]
        return share(name, hits, at_least)

    def recognised(self, name: str, lines: Sequence[_Line], clips: Iterable[np.ndarray]) -> Figure:
        """Whether each clip sounds like the voice of its line's reference."""
        pairs = zip(self._voices(clips), lines, strict=True)
        return share(name, [voice == line.utterance.voice for voice, line in pairs])

    def gender(
        self, name: str, lines: Sequence[_Line], clips: Iterable[np.ndarray], at_least: float | None = None
    ) -> Figure:
        """Whether each clip sounds like a voice of its line's gender."""
        pairs = zip(self._voices(clips), lines, strict=True)
        return share(name, [data.gender_of(voice) == line.utterance.gender for voice, line in pairs], at_least)

    def _voices(self, clips: Iterable[np.ndarray]) -> Iterator[int]:
        return map(self._classifier.identify, clips)


_recognizer: Recognizer  # of a process that listens


def _open_recognizer() -> None:
    global _recognizer
    generator = np.random.default_rng([_SEED, 0])
    texts = [plain_words(training_text(generator)) for _ in range(_NUM_LANGUAGE_MODEL_TEXTS)]
    _recognizer = Recognizer(VOCABULARY, texts, DEMO_SENTENCES)


def _transcribe(clip: np.ndarray) -> list[str]:
    return _recognizer.transcribe(clip)


def _choose(clip: np.ndarray) -> str:
    return _recognizer.choose(clip)


def _espeak_features(voice: int, pitch: int, number: int) -> np.ndarray:
    """Of a fresh sentence at any speed, another one for each number."""
    generator = np.random.default_rng([_SEED, 1, number])
    speed = int(generator.integers(len(LABELS)))
    return voice_features(data.to_float(data.speak(fresh_sentence(generator), voice, pitch, speed, generator)[1]))


def evaluate_checkpoint(directory: Path, num_utterances: int, *, through_server: bool) -> bool:
    """Measure, print a table and one line of figures, and say whether all are as good as they should be.

    Args:
        num_utterances: of each row; of 100, two draws of lines differ by more than the limits allow.
        through_server: measure the CPU engines in a real server too, and hold them to what PyTorch gives.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        EspeakMissing: there is no libespeak-ng.
    """
    repository = cpu_repository(directory) if through_server else None  # what refuses to be built does so at once
    material = _material(num_utterances, np.random.default_rng(_SEED))
    figures: list[Figure] = []

    def note(measured: Sequence[Figure]) -> None:
        print("\n".join(str(figure) for figure in measured), flush=True)
        figures.extend(measured)

    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), initializer=_open_recognizer) as processes:
        judges = _Judges(processes)
        note(_espeak_figures(material, judges))
        limits = {figure.name: figure for figure in figures}
        with torch_speakers(directory) as speakers:
            pytorch = _speaker_figures("fp32", speakers, material, judges, limits)
        note(pytorch)
        if repository is not None:
            with server_speaker(repository) as speaker:
                served = _speaker_figures("server", speaker, material, judges, limits)
            note(served + _compared(served, pytorch))
    missed = [figure.name for figure in figures if figure.is_missed]
    summary = ", ".join(f"{figure.name} {100 * figure.value:z.1f}%" for figure in figures)
    print(f"demo voice, {num_utterances} utterances a row: {summary}; missed: {', '.join(missed) or 'none'}")
    return not missed


def _material(count: int, generator: np.random.Generator) -> _Material:
    def fresh() -> str:
        return fresh_sentence(generator)

    all_styles, middling_styles = (
        generator.permutation(list(itertools.product(range(2), levels, levels))) for levels in (range(5), range(1, 4))
    )

    # words are judged at middling styles: of the outer ones the recogniser understands espeak's own speech hardly
    def controlled(
        text: str, index: int, styles: np.ndarray = middling_styles, num_voices: int = 1
    ) -> tuple[_Line, list[np.ndarray]]:
        """The styles in turn; espeak says it in the same."""
        gender, pitch, speed = (int(value) for value in styles[index % len(styles)])
        voices = [voice for voice in range(len(VOICES)) if data.gender_of(voice) == gender]
        said = [
            data.speak(text, voices[place % len(voices)], pitch, speed, generator)
            for place in range(num_voices * index, num_voices * (index + 1))
        ]
        style = ControlledVoice(GENDERS[gender], LABELS[pitch], LABELS[speed])
        return _Line(text, style, said[0][0]), [data.to_float(samples) for _utterance, samples in said]

    def cloned(text: str, index: int) -> tuple[_Line, np.ndarray, np.ndarray]:
        """espeak says the reference, and the text in the same voice too."""
        voice = index % len(VOICES)
        words = fresh()  # people write them down in either way
        transcript = punctuate(words, generator) if generator.random() < PUNCTUATED_SHARE else words
        said, reference = _espeak(transcript, voice, generator)
        own = data.speak_at(text, voice, said.f0_hz, said.syllables_per_s)[1]
        return _Line(text, ReferenceVoice(reference, said.text), said), reference, data.to_float(own)

    def low(index: int) -> _Line:
        wanted_hz = _LOW_F0S_HZ[index % len(_LOW_F0S_HZ)]
        text = DEMO_SENTENCES[index % len(DEMO_SENTENCES)]
        voice = ControlledVoice(GENDERS[data.MALE], pitch_value=round(measures.hz_to_mel(wanted_hz)))
        return _Line(text, voice, data.speak_at(text, 0, wanted_hz, 4.0)[0])

    demo = [DEMO_SENTENCES[index % len(DEMO_SENTENCES)] for index in range(count)]
    several = [f"{punctuate(fresh(), generator)} {punctuate(fresh(), generator)}" for _ in range(count)]
    rows = {
        "controlled": [controlled(fresh(), index, num_voices=_ESPEAK_VOICES) for index in range(count)],
        "controlled demo": [controlled(text, index) for index, text in enumerate(demo)],
        "styles": [controlled(text, index, all_styles) for index, text in enumerate(demo)],
        "punctuated": [controlled(text, index, num_voices=_ESPEAK_VOICES) for index, text in enumerate(several)],
    }
    clones = [cloned(fresh(), index) for index in range(count)]
    demo_clones = [cloned(text, index) for index, text in enumerate(demo)]
    espeak = {name: [samples for _line, clips in row for samples in clips] for name, row in rows.items()}
    espeak |= {"cloned": [own for *_rest, own in clones], "cloned demo": [own for *_rest, own in demo_clones]}
    return _Material(
        controlled=[line for line, _clips in rows["controlled"]],
        controlled_demo=[line for line, _clips in rows["controlled demo"]],
        styles=[line for line, _clips in rows["styles"]],
        punctuated=[line for line, _clips in rows["punctuated"]],
        cloned=[line for line, *_rest in clones],
        cloned_demo=[line for line, *_rest in demo_clones],
        low=[low(index) for index in range(count)],
        espeak=espeak,
        references=[reference for _line, reference, _own in clones + demo_clones],
    )


def _espeak_figures(material: _Material, judges: _Judges) -> list[Figure]:
    clips = material.espeak
    return [
        judges.word_error("espeak controlled word error", material.controlled, clips["controlled"]),
        judges.word_error("espeak cloned word error", material.cloned, clips["cloned"]),
        judges.word_error("espeak punctuated word error", material.punctuated, clips["punctuated"]),
        judges.one_of_50("espeak controlled one of 50", material.controlled_demo, clips["controlled demo"]),
        judges.one_of_50("espeak cloned one of 50", material.cloned_demo, clips["cloned demo"]),
        judges.gender("espeak gender", material.styles, clips["styles"]),
        judges.recognised("espeak references recognised", material.cloned + material.cloned_demo, material.references),
    ]


def _speaker_figures(
    name: str, speaker: Speaker, material: _Material, judges: _Judges, espeak: dict[str, Figure]
) -> list[Figure]:
    all_said: list[Said] = []

    def say(
        row: str, lines: Sequence[_Line], voice: Callable[[_Line], Voice] = lambda line: line.voice
    ) -> list[np.ndarray]:
        answers = speaker.say_all([(line.text, voice(line)) for line in lines])
        said = list(tqdm(answers, desc=f"{name} {row}", unit=" lines", total=len(lines)))
        all_said.extend(said)
        return [one.samples for one in said]

    controlled = say("controlled", material.controlled)
    max_error = espeak["espeak controlled word error"].value + _MAX_MORE_WORD_ERROR
    figures = [judges.word_error(f"{name} controlled word error", material.controlled, controlled, max_error)]
    clips = say("controlled demo", material.controlled_demo)
    figures.append(judges.one_of_50(f"{name} controlled one of 50", material.controlled_demo, clips, _MIN_ONE_OF_50))
    clips = say("styles", material.styles)
    figures.append(judges.gender(f"{name} gender", material.styles, clips, 1.0))
    figures += _label_figures(name, material.styles, clips)

    clips = say("low F0", material.low)
    f0_errors = [
        abs(measures.f0_hz(clip) / _wanted_hz(line) - 1) for clip, line in zip(clips, material.low, strict=True)
    ]
    is_right = [bool(error <= _MAX_F0_ERROR) for error in f0_errors]
    figures.append(share(f"{name} F0 from 80 Hz right", is_right, _MIN_F0_RIGHT))

    max_error = espeak["espeak punctuated word error"].value + _MAX_MORE_WORD_ERROR
    clips = say("punctuated", material.punctuated)
    figures.append(judges.word_error(f"{name} punctuated word error", material.punctuated, clips, max_error))

    max_error = espeak["espeak cloned word error"].value + _MAX_MORE_WORD_ERROR
    for mode, choose in (("cloned", _without_transcript), ("cloned with transcript", lambda line: line.voice)):
        clips = say(mode, material.cloned, choose)
        figures.append(judges.word_error(f"{name} {mode} word error", material.cloned, clips, max_error))
        demo_clips = say(f"{mode} demo", material.cloned_demo, choose)
        figures.append(judges.one_of_50(f"{name} {mode} one of 50", material.cloned_demo, demo_clips, _MIN_ONE_OF_50))
        found = judges.recognised(
            f"{name} {mode} recognised", material.cloned + material.cloned_demo, clips + demo_clips
        )
        figures.append(as_often(found, espeak["espeak references recognised"]))
    figures.append(share(f"{name} ends by itself", [said.is_complete for said in all_said], 1.0))
    return figures


def _label_figures(name: str, lines: Sequence[_Line], clips: Sequence[np.ndarray]) -> list[Figure]:
    pitch_errors, speed_errors = [], []
    for line, clip in zip(lines, clips, strict=True):
        wanted = line.voice
        assert isinstance(wanted, ControlledVoice)
        f0_hz = measures.f0_hz(clip)
        gender = GENDERS.index(wanted.gender)
        pitch = measures.pitch_label(measures.hz_to_mel(f0_hz), gender) if np.isfinite(f0_hz) else len(LABELS) + 1
        pitch_errors.append(abs(pitch - LABELS.index(wanted.pitch)))
        num_syllables = data.count_syllables(line.utterance.phonemes)
        speed = measures.speed_label(num_syllables / max(measures.speech_duration_s(clip), 0.1))
        speed_errors.append(abs(speed - LABELS.index(wanted.speed)))
    return [
        share(f"{name} {kind} label {way}", [error <= most for error in errors], at_least)
        for kind, errors in (("pitch", pitch_errors), ("speed", speed_errors))
        for way, most, at_least in (("exact", 0, _MIN_LABEL_EXACT), ("within one", 1, _MIN_LABEL_WITHIN_ONE))
    ]


def _compared(served: Sequence[Figure], pytorch: Sequence[Figure]) -> list[Figure]:
    """How much worse each figure is through the server, and how much all are on average.

    Both draw their own tokens, so of equal speakers each figure differs by chance, at a hundred utterances by more than
    the limit. A figure is missed when chance does not explain it; the average is held to the limit itself.
    """
    losses = []
    for found, expected in zip(served, pytorch, strict=True):
        sign = 1 if found.at_most is not None else -1
        losses.append(difference(f"{found.name}: worse than fp32 by", found, expected, sign, _MAX_SERVER_LOSS))
    return [*losses, average("server: worse than fp32 on average by", losses, _MAX_SERVER_LOSS)]


def _espeak(text: str, voice: int, generator: np.random.Generator) -> tuple[Utterance, np.ndarray]:
    """espeak at a middling pitch and speed, as a recording to clone would be."""
    pitch, speed = (int(label) for label in generator.integers(1, 4, size=2))
    utterance, samples = data.speak(text, voice, pitch, speed, generator)
    return utterance, data.to_float(samples)


def _wanted_hz(line: _Line) -> float:
    assert isinstance(line.voice, ControlledVoice) and line.voice.pitch_value is not None
    return measures.mel_to_hz(line.voice.pitch_value)


def _without_transcript(line: _Line) -> Voice:
    assert isinstance(line.voice, ReferenceVoice)
    return ReferenceVoice(line.voice.waveform)
