"""The demo voice's training at a tiny size, on tones that stand for speech: every part, and the checkpoint of them."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn

from build_engines import synthetic
from build_engines.checkpoint import Checkpoint
from build_engines.codec import reference
from build_engines.demo_voice import __main__ as command_line
from build_engines.demo_voice import data, measures
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.codebook import codebook
from build_engines.demo_voice.codes import SAMPLES_PER_FRAME, SemanticCodes, global_digits, tells_f0, told_f0_hz
from build_engines.demo_voice.data import VOICES, Utterance, write_shard
from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ, Espeak, EspeakMissing, Mark
from build_engines.demo_voice.language_model import Examples
from build_engines.demo_voice.listening import load_heard
from build_engines.demo_voice.parts import PARTS, Workshop
from build_engines.demo_voice.settings import Budget, Settings
from build_engines.demo_voice.spectra import NUM_PULSES, Features, WaveLoss
from build_engines.demo_voice.training import OtherSettings, _learning_rate_factor, fuse, muon_and_adam
from build_engines.demo_voice.vocoder import alike_utterances
from build_engines.networks.wave_generator import Snake
from build_engines.qwen2_reference import Qwen2Reference
from tests.waiting import wait_until
from tritone.spark_tts.prompts import Prompts, Style

NUM_UTTERANCES = 12
PHONEMES = ("a", "n", "s", "o")
ENDED_TIMEOUT_S = 60.0
TRAINED_PARTS = ("wave", "prenet", "speaker", "semantic", "vocoder", "language_model", "adaptation")

SETTINGS = Settings(
    size=dataclasses.replace(
        synthetic.SIZES["tiny"],
        vocab_size=13771,
        codec_channels=128,  # the features between the vocoder's halves are 128 mels at every size
        wave_channels=32,
        lm_num_heads=2,
        lm_num_key_value_heads=1,
    ),
    fuses=False,
    guided_lm_layers=(1,),
    num_utterances=NUM_UTTERANCES,
    num_heard=4,
    wave=Budget(6, 2, 16, 2e-3, save_every=3),
    prenet=Budget(16, 4, 16, 2e-4, save_every=3),
    vocoder=Budget(4, 2, 8, 1e-4, save_every=3),
    speaker=Budget(8, 4, 20, 2e-3, save_every=3),
    semantic=Budget(8, 2, 20, 3e-3, save_every=3),
    language_model=Budget(16, 1, 320, 1e-2, save_every=3),
    adaptation=Budget(8, 1, 320, 5e-3, save_every=3),
)


def tone(index: int) -> tuple[Utterance, np.ndarray]:
    """An "utterance" of four sounds of 0.1 s: harmonics whose colour is the sound's and whose F0 is the voice's."""
    generator = np.random.default_rng(index)
    voice, f0_hz = index % len(VOICES), 90.0 + 15 * index
    order = generator.permutation(len(PHONEMES))
    num_samples = SAMPLE_RATE_HZ // 10
    time_s = np.arange(len(PHONEMES) * num_samples) / SAMPLE_RATE_HZ
    colour = np.repeat(300.0 + 500 * order, num_samples)
    wave = sum(
        np.exp(-(((k * f0_hz - colour) / 400) ** 2)) * np.sin(2 * np.pi * k * f0_hz * time_s) for k in range(1, 12)
    )
    samples = np.round(8000 * wave / np.abs(wave).max()).astype(np.int16)
    marks = [Mark(0.1 * place, PHONEMES[sound]) for place, sound in enumerate(order)]
    utterance = Utterance(
        text="one two",
        voice=voice,
        gender=int("+m" in VOICES[voice]),
        words_per_minute=160,
        pitch=50,
        shift=1.0,
        f0_hz=f0_hz,
        syllables_per_s=4.0,
        phonemes=[*marks, Mark(0.4, "_:")],
        words=[Mark(0.0, "one", 0), Mark(0.2, "two", 4)],
    )
    return utterance, np.pad(samples, (0, 5 * SAMPLES_PER_FRAME))


def prepare(directory: Path) -> Workshop:
    """A workshop with the tones as its data."""
    (directory / "data").mkdir(parents=True)
    write_shard(directory / "data" / "000000.jsonl", [tone(index) for index in range(NUM_UTTERANCES)])
    return Workshop(directory, SETTINGS)


@pytest.fixture(scope="module")
def single_thread() -> None:
    torch.set_num_threads(1)  # as the training itself: sums have one order


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, single_thread: None) -> Workshop:
    """Every part trained to its end, in the order of their needs."""
    workshop = prepare(tmp_path_factory.mktemp("workshop"))
    for name in sorted(set(PARTS) - {"data"}, key=lambda name: len(needs_of(name))):
        PARTS[name].run(workshop)
    return workshop


@pytest.fixture(scope="module")
def checkpoint(trained: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(trained.assemble(tmp_path_factory.mktemp("checkpoints") / "tones"))


def needs_of(name: str) -> set[str]:
    """All parts that must come before one."""
    return {name}.union(*(needs_of(needed) for needed in PARTS[name].needs))


def test_all_parts_are_done_after_a_run_and_not_before(trained: Workshop, tmp_path: Path) -> None:
    assert all(trained.is_done(name) for name in PARTS)
    new = prepare(tmp_path / "new")
    assert [name for name in PARTS if new.is_done(name)] == ["data"]


@pytest.mark.parametrize("name", TRAINED_PARTS)
def test_the_loss_falls(trained: Workshop, name: str) -> None:
    history = trained.train(name)
    assert np.isfinite(history).all()
    assert len(history) == getattr(SETTINGS, name).num_steps
    training = trained.training(name)

    def loss() -> float:  # on the same batches: the steps' own differ by what is in them
        return np.mean([training.losses(np.random.default_rng(seed))["total"].item() for seed in range(8)])

    before = loss()
    training.module.load_state_dict(trained.state(name))
    assert loss() < before


@pytest.mark.parametrize("name", TRAINED_PARTS)
def test_an_interrupted_part_ends_in_the_same_state(trained: Workshop, tmp_path: Path, name: str) -> None:
    """The workshop of an interrupted run has all but the part itself."""
    for path in trained.directory.iterdir():
        if path.name != f"{name}.pt":
            (tmp_path / path.name).symlink_to(path)
    Workshop(tmp_path, SETTINGS).train(name, max_steps=2)
    Workshop(tmp_path, SETTINGS).train(name)
    found, expected = Workshop(tmp_path, SETTINGS).state(name), trained.state(name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


def test_a_state_of_other_settings_is_not_gone_on_from(trained: Workshop) -> None:
    other = dataclasses.replace(SETTINGS, wave=dataclasses.replace(SETTINGS.wave, num_steps=9))
    with pytest.raises(OtherSettings, match=r"wave\.pt was trained with other settings: remove it"):
        Workshop(trained.directory, other).train("wave")


def test_the_codec_of_the_checkpoint_runs(checkpoint: Checkpoint, trained: Workshop) -> None:
    wav = torch.from_numpy(trained.data.waveform(0))[None]
    with torch.inference_mode():
        clip = wav.repeat(1, 13)[:, : checkpoint.num_reference_samples]
        global_tokens = reference(checkpoint, "speaker_encoder")(clip)
        semantic_tokens = reference(checkpoint, "semantic_encoder")(wav)
        found = reference(checkpoint, "vocoder")(global_tokens, semantic_tokens)
    assert global_tokens.shape == (1, 32)
    assert semantic_tokens.shape == (1, wav.shape[1] // SAMPLES_PER_FRAME - 1)
    assert found.shape == (1, SAMPLES_PER_FRAME * semantic_tokens.shape[1])


def test_the_checkpoint_hears_and_says_what_was_trained(checkpoint: Checkpoint, trained: Workshop) -> None:
    """Half precision and the folded weights change little: what the files hold is what the parts ended with."""
    clip = trained.data.waveform(1)
    training = trained.training("vocoder")
    training.module.load_state_dict(trained.state("vocoder"))
    tokens = torch.arange(32)[None] * 7, torch.from_numpy(trained.data.codes.codes[trained.data.classes[1]])[None]
    with torch.inference_mode():
        found, expected = reference(checkpoint, "vocoder")(*tokens), training.module(*tokens)
    assert len(clip) == found.shape[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_the_language_model_of_the_checkpoint_is_the_trained_one(checkpoint: Checkpoint, trained: Workshop) -> None:
    prompt = Prompts(checkpoint.tokenizer_path).controlled("one two", Style(0, 2, 2))
    model = trained.training("adaptation").module
    model.load_state_dict(trained.state("adaptation"))
    vocabulary = trained.vocabulary
    with torch.inference_mode():
        compact, _cache = model.step(torch.from_numpy(vocabulary.rows(prompt)), None)
    found = Qwen2Reference(checkpoint.lm, checkpoint.lm_file).logits(prompt)[0]
    np.testing.assert_allclose(found, compact.numpy()[vocabulary.row_of_id], atol=0.02 * np.abs(found).max())


def test_examples_learn_the_speech_and_its_end_and_point_at_the_letters_that_are_said(trained: Workshop) -> None:
    heard = load_heard(trained.directory / "heard", 32)
    examples = Examples(trained.data, heard, trained.prompts, max_tokens=400)
    t = trained.prompts.tokens
    generator = np.random.default_rng(0)
    drawn = [examples.draw(generator) for _ in range(60)]
    for example in drawn:
        assert example.ids[-1] == t.im_end
        is_voice = np.isin(example.ids, t.global_tokens)
        # where no voice is given, there is a pace to learn, and what comes before at another one is not learnt
        is_controlled = is_voice.any() and example.weights[is_voice].all()
        letters, ends = example.characters
        says = (letters >= 0) & ~is_voice
        follows = says & (example.weights > 0)
        assert set(example.ids[says]) <= set(t.semantic_tokens)
        num_given = int((says & ~follows).sum())
        text_end = list(example.ids).index(t.end_content)
        assert not example.weights[: text_end + 1].any()
        assert (follows[says] == (np.arange(says.sum()) >= num_given)).all()
        follows_transcript = bool(num_given) and not is_controlled
        is_first = np.arange(follows.sum()) < (40 if is_controlled else 30 if follows_transcript else 0)
        assert (example.weights[follows] == np.where(is_first, 4, 1)).all()
        assert (example.stress[follows] == np.where(is_first & follows_transcript, 4, 1)).all()
        assert (example.stress[~follows] == 1).all()
        assert example.weights[-1] == 1
        has_rate, has_syllables, *of_words = (np.flatnonzero(~np.isnan(column)) for column in example.pace.T)
        assert has_rate.size == 0 or is_controlled
        assert not is_controlled or has_rate[0] == np.flatnonzero(follows)[0] - 1
        assert has_syllables[0] == np.flatnonzero(says if is_controlled else follows)[0] - 1
        word_ends = [text_end - len(" two"), text_end]
        if follows_transcript:
            word_ends = [2 + len("one"), 2 + len("one two"), *word_ends]  # of the transcript
        assert [list(places) for places in of_words] == [word_ends] * 2
        # the last letters of the text are said last, also behind a transcript, whose own are said before
        assert text_end - 3 <= letters[says].max() <= text_end - 1
        own = says if is_controlled else follows
        assert letters[own].min() == text_end - len("one two")
        assert letters[says][0] == 2 and (np.diff(letters[says]) >= 0).all()
        # each is said while the end of its own word is looked at
        assert (ends[says] > letters[says]).all() and (ends[~says] == -1).all()
        assert set(ends[own]) == {text_end - len(" two"), text_end}
        assert list(np.flatnonzero((example.phonemes >= 0).all(axis=1))) == word_ends
    assert any(example.pitch_at >= 0 for example in drawn)
    assert any((example.weights[np.isin(example.ids, t.semantic_tokens)] == 0)[0] for example in drawn)
    for example in drawn:
        if example.pitch_at >= 0:
            assert example.ids[example.pitch_at] in t.pitch_values
            assert example.weights[example.pitch_at] == 0
            # each token of the made-up voice has the pitch to look at
            is_voice = np.isin(example.ids, t.global_tokens)
            assert (example.characters[0, is_voice] == example.pitch_at).all()


def test_a_word_s_letters_are_said_at_an_even_pace_and_its_last_until_the_next_word(trained: Workshop) -> None:
    assert [(word.label, word.begin) for word in trained.data.utterances[0].words] == [("one", 0), ("two", 4)]
    # each word is said in ten frames; silence follows the second
    letters = np.repeat([0, 1, 2, 4, 5, 6], [3, 4, 3, 3, 4, 3 + 5])
    ends = np.repeat([3, 7], [10, 15])
    np.testing.assert_array_equal(trained.data.characters(0), [letters, ends])


def test_words_last_as_long_as_they_are_said_and_have_their_sounds_and_vowels(trained: Workshop) -> None:
    sounds = [mark.label for mark in trained.data.utterances[0].phonemes]
    words, codes = trained.data.words(0), trained.data.codes
    of_words = sounds[:2], sounds[2:4]
    np.testing.assert_array_equal(words.ends, [len("one"), len("one two")])
    np.testing.assert_allclose(words.durations_s, [0.2, 0.2])
    np.testing.assert_array_equal(words.nums_syllables, [sum(sound in "ao" for sound in own) for own in of_words])
    for found, own in zip(words.phonemes, of_words, strict=True):
        assert [codes.phonemes[index] for index in found[:2]] == own
        assert (found[2:] == codes.silence).all()


def test_every_sound_begins_with_its_first_class(trained: Workshop) -> None:
    codes, utterance = trained.data.codes, trained.data.utterances[0]
    classes = trained.data.classes[0]
    begun = classes[codes.ages(classes) == 0]
    np.testing.assert_array_equal(begun, codes.first_classes[[*codes.indices(utterance.phonemes), codes.silence]])


def test_a_code_is_nearest_to_the_next_ages_of_its_own_phoneme_and_far_from_the_unused_ones(trained: Workshop) -> None:
    codes = trained.data.codes
    directions = codebook(codes)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    phonemes, ages = codes.phonemes_and_ages
    assert codes.num_phonemes == len(PHONEMES) + 4  # a pause is four
    used = directions[torch.from_numpy(codes.codes)]
    similarities = (used @ used.T).fill_diagonal_(-1).numpy()
    nearest = similarities.argmax(axis=1)
    assert (phonemes[nearest] == phonemes).all() and (np.abs(ages[nearest] - ages) == 1).all()
    unused = np.setdiff1d(np.arange(len(directions)), codes.codes)
    assert (directions[unused] @ used.T).max() < 0


def test_references_have_the_voice_and_the_pace_of_what_is_said(trained: Workshop) -> None:
    examples = Examples(trained.data, {}, trained.prompts, max_tokens=400)
    generator = np.random.default_rng(0)
    utterances = trained.data.utterances
    for index, utterance in enumerate(utterances):
        reference = utterances[examples._reference(index, with_transcript=True, generator=generator)]
        assert reference.voice == utterance.voice
        assert reference.f0_hz == pytest.approx(utterance.f0_hz, rel=0.03)
        assert reference.syllables_per_s == pytest.approx(utterance.syllables_per_s, rel=0.1)
        assert examples._clone(index, with_transcript=True, generator=generator) is not None


def test_clones_whose_reference_tells_no_pace_have_a_moderate_one(trained: Workshop) -> None:
    utterance, samples = tone(0)
    paces = (2.0, 3.0, 4.0, 5.0, 6.0)
    utterances = [dataclasses.replace(utterance, syllables_per_s=pace) for pace in paces]
    examples = Examples(data.Dataset(utterances, [samples] * len(paces)), {}, trained.prompts, max_tokens=400)
    generator = np.random.default_rng(0)
    drawn = [examples._clone(index, with_transcript=False, generator=generator) for index in range(len(paces))]
    assert [pace for pace, example in zip(paces, drawn, strict=True) if example] == [4.0]


def test_every_label_of_speed_is_often_learnt_and_only_from_what_is_clearly_of_it(trained: Workshop) -> None:
    utterance, samples = tone(0)
    paces = [2.0] * 12 + [3.0, 4.0, 5.0, 6.4, 2.5, 5.6]  # the last two are near the borders of theirs
    utterances = [dataclasses.replace(utterance, syllables_per_s=pace) for pace in paces]
    own_data = data.Dataset(utterances, [samples] * len(paces))
    examples = Examples(own_data, {}, trained.prompts, max_tokens=400, voices_share=1.0)
    t = trained.prompts.tokens
    generator = np.random.default_rng(0)
    learnt = []
    for example in (examples.draw(generator) for _ in range(400)):
        (speed_at,) = np.flatnonzero(np.isin(example.ids, t.speed_values))
        if example.weights[speed_at]:  # no value is given
            (label,) = np.intersect1d(example.ids, t.speed_labels) - t.speed_labels.start
            learnt.append((label, int(example.ids[speed_at]) - t.speed_values.start))
    assert set(learnt) == {(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)}
    assert min(Counter(learnt).values()) > 0.1 * len(learnt)  # of an utterance among 18, which most labels have


def test_transcripts_often_have_words_of_the_text(trained: Workshop) -> None:
    utterance, samples = tone(0)
    utterances = [dataclasses.replace(utterance, text=text) for text in ("one two", "six ten") * 12]
    examples = Examples(data.Dataset(utterances, [samples] * len(utterances)), {}, trained.prompts, max_tokens=400)
    generator = np.random.default_rng(0)
    texts = [utterances[examples._reference(0, True, generator)].text for _ in range(200)]
    assert 0.62 < texts.count("one two") / len(texts) < 0.78  # in 0.4 of the cases nearly surely, else by half


def test_stretched_speech_says_the_same_at_another_pace(trained: Workshop) -> None:
    codes, classes = trained.data.codes, trained.data.classes[0]
    same, frames = codes.stretched(classes, np.ones(len(classes)))
    np.testing.assert_array_equal(same, classes)
    np.testing.assert_array_equal(frames, np.arange(len(classes)))
    is_first_half = np.arange(len(classes)) < 10  # two sounds of five frames
    slower, frames = codes.stretched(classes, np.where(is_first_half, 2.0, 1.0))
    np.testing.assert_array_equal(slower[20:], classes[10:])
    phonemes, ages = codes.phonemes_and_ages
    np.testing.assert_array_equal(phonemes[slower], phonemes[classes[frames]])
    np.testing.assert_array_equal(ages[slower[:20]], [0, 1, 2, 3, 4, 5, 6, 7, 7, 7] * 2)


def test_a_sound_is_as_old_as_its_frames_are_many() -> None:
    codes = SemanticCodes(("a", "b"))  # of eight ages each; a pause of 32 follows them
    sounds = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 0, 1, 8, 9, 0, 0]
    pause = [*range(16, 48), 47, 47]
    expected = [*range(10), 0, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(codes.ages(np.array(sounds + pause + sounds)), [*expected, *range(34), *expected])


def test_long_pauses_are_stretched_as_one_sound() -> None:
    codes = SemanticCodes(("a", "b"))
    speech = np.array([0, 1, 8, *range(16, 38), 0, 1])
    slower, frames = codes.stretched(speech, np.full(len(speech), 2.0))
    np.testing.assert_array_equal(slower, [0, 1, 2, 3, 8, 9, *range(16, 48), *[47] * 12, 0, 1, 2, 3])
    np.testing.assert_array_equal(frames, np.repeat(np.arange(len(speech)), 2))


@pytest.fixture(scope="module")
def features() -> Features:
    return Features(synthetic.bicodec_config(SETTINGS.size)["mel_params"])


@pytest.mark.parametrize("is_rough", [False, True])
@pytest.mark.parametrize("f0_hz", [80.0, 107.5, 210.0, 310.0])
def test_a_voice_s_pulses_are_counted_as_they_are_heard(features: Features, f0_hz: float, is_rough: bool) -> None:
    num_frames = 20
    angles = 2 * np.pi * f0_hz * np.arange(num_frames * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ
    # every other pulse is softer when there is half of the fundamental too
    samples = np.cos(angles) + 2 * np.cos(5 * angles) + 0.05 * is_rough * np.cos(angles / 2)
    f0s_hz = torch.tensor([f0_hz])
    inner = slice(5, -5)  # where the windows reach nowhere beyond the samples
    waveform = torch.from_numpy(samples).float()[None]
    heard = features(waveform, f0s_hz)[0, inner]
    counted = features(waveform, f0s_hz, torch.arange(num_frames)[None])[0, inner]
    torch.testing.assert_close(counted, heard, atol=0.02, rtol=0)

    def told(frequency_hz: float, num_moments: int) -> list[np.ndarray]:
        """At a frame's moments, which lie around its first sample."""
        places = np.arange(inner.start, num_frames + inner.stop)[:, None]
        places = places + (np.arange(num_moments) + 0.5) / num_moments - 0.5
        phases = 2 * np.pi * frequency_hz * places * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
        return [np.sin(phases), np.cos(phases)]

    expected = np.concatenate(told(f0_hz, 8) + [is_rough * wave for wave in told(f0_hz / 2, 4)], axis=1)
    np.testing.assert_allclose(heard[:, -NUM_PULSES:].numpy(), expected, atol=0.02)


def test_what_the_tokens_tell_of_an_f0_is_less_than_a_step_off_and_has_the_same_tokens() -> None:
    f0s_hz = np.linspace(66, 440, 500)
    told = np.array([told_f0_hz(f0_hz) for f0_hz in f0s_hz])
    assert np.abs(told / f0s_hz - 1).max() < 0.006  # a half step is 1%
    for pair in zip(f0s_hz, told, strict=True):
        np.testing.assert_array_equal(*(global_digits(0, f0_hz) for f0_hz in pair))


def test_digits_that_tell_an_f0_are_all_that_a_neighbouring_one_changes() -> None:
    digits = np.stack([global_digits(0, f0_hz) for f0_hz in (65, 80, 97, 151, 300, 450)])
    nearby = np.stack([global_digits(0, 1.04 * f0_hz) for f0_hz in (65, 80, 97, 151, 300, 450)])
    telling = tells_f0(digits)
    assert telling.shape == digits.shape
    assert telling.sum(axis=(1, 2)).max() == 6
    np.testing.assert_array_equal(digits[~telling], nearby[~telling])
    assert (digits[:-1] != nearby[:-1]).any(axis=(1, 2)).all()


def test_tint_is_what_the_colours_of_all_clips_have_too_much_of() -> None:
    distance = WaveLoss(synthetic.bicodec_config(SETTINGS.size)["mel_params"])
    wanted = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8000), scale=0.1).astype(np.float32))
    softer, softer_and_louder = (
        distance(wanted * torch.tensor(gains).unsqueeze(1), wanted) for gains in ((0.5, 0.5), (0.5, 2.0))
    )
    assert softer["tint"].item() == pytest.approx(softer["colour"].item(), rel=0.01)
    assert softer_and_louder["colour"].item() == pytest.approx(softer["colour"].item(), rel=0.01)
    assert softer_and_louder["tint"] < 0.01 * softer["tint"]


def test_the_colour_tells_how_much_a_spectrum_s_shape_varies_not_each_band_alone() -> None:
    distance = WaveLoss(synthetic.bicodec_config(SETTINGS.size)["mel_params"])
    num_bands = len(distance.bands)
    swell = torch.sin(torch.linspace(0, 2 * np.pi, 101)[:-1])
    is_high = torch.arange(num_bands)[:, None] > num_bands / 2
    together, in_turns = (
        distance._colour(torch.where(is_high, sign * swell, swell)[None], torch.ones(1, len(swell)))[0]
        for sign in (1, -1)
    )
    means, deviations = (together - in_turns).abs().chunk(2)
    assert means.sum() + deviations[:num_bands].sum() < 0.1 * deviations[num_bands:].sum()


def test_only_voices_of_the_same_pulses_are_compared_sample_by_sample() -> None:
    waves = torch.sin(torch.arange(16 * SAMPLES_PER_FRAME) / 20)[None].repeat(2, 1)
    distance = WaveLoss(synthetic.bicodec_config(SETTINGS.size)["mel_params"])
    signs = torch.tensor([[1.0], [-1.0]])
    assert distance(signs * waves, waves)["samples"].item() == pytest.approx(0.5 * 4, rel=1e-3)
    found = distance(signs * waves, waves, num_same=1)
    assert found["samples"].item() == found["spectral"].item() == 0
    assert distance(-signs * waves, waves, num_same=1)["samples"].item() == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("compiler", ["g++", "/missing/g++"])
def test_fused_arithmetic_is_the_same_with_and_without_a_compiler(compiler: str) -> None:
    given = torch.linspace(-3, 3, 40).reshape(1, 4, 10)
    plain, fused = Snake(4), Snake(4)
    fuse(fused, Settings())
    with torch._inductor.config.patch({"cpp.cxx": (compiler,)}):
        torch.testing.assert_close(fused(given), plain(given))


def test_the_vocoder_s_batches_are_of_one_voice_at_one_pitch(trained: Workshop) -> None:
    data = trained.data
    alike = alike_utterances(data)
    assert sorted(np.concatenate(alike)) == list(range(len(data)))
    kinds = [{(data.utterances[index].voice, data.utterances[index].pitch_label) for index in some} for some in alike]
    assert all(len(kind) == 1 for kind in kinds) and len(set.union(*kinds)) == len(kinds)
    for some in alike:
        clips = draw_clips(data, 4, 8, np.random.default_rng(0), torch.device("cpu"), some)
        assert set(clips.f0s_hz.tolist()) <= {np.float32(data.utterances[index].f0_hz) for index in some}


@pytest.mark.parametrize("frequency_hz", [300.0, 3_100.0, 5_500.0, 7_800.0])
def test_a_vocoder_is_told_of_every_frequency(features: Features, frequency_hz: float) -> None:
    angles = 2 * np.pi * frequency_hz * np.arange(20 * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ
    tone = torch.from_numpy(0.1 * np.cos(angles)).float()[None]
    f0s_hz = torch.tensor([100.0])
    difference = features(tone, f0s_hz) - features(torch.zeros_like(tone), f0s_hz)
    assert difference[0, 5:-5, :-NUM_PULSES].amax(dim=1).min() > 1


def test_noise_has_hardly_pulses(features: Features) -> None:
    noise = torch.randn(1, 40 * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(0)).mul(0.1).diff(n=4)
    assert features(noise, torch.tensor([80.0]))[..., -NUM_PULSES:].abs().mean() < 0.1


def test_voices_alone_end_before_the_speech(trained: Workshop) -> None:
    examples = Examples(trained.data, {}, trained.prompts, max_tokens=400, voices_share=1.0)
    generator = np.random.default_rng(0)
    t = trained.prompts.tokens
    for example in (examples.draw(generator) for _ in range(10)):
        assert example.ids[-1] == t.end_global
        lengths = {len(example.ids), *map(len, (example.weights, example.stress, example.pace, example.phonemes))}
        assert lengths == {example.characters.shape[1]}
        assert np.isin(example.ids, t.global_tokens).sum() == 32


def test_a_kernel_learns_as_the_matrix_that_it_is() -> None:
    given = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    kernel, matrix = nn.Conv1d(4, 2, 3), nn.Linear(12, 2)
    matrix.load_state_dict({"weight": kernel.weight.detach().flatten(1), "bias": kernel.bias.detach()})
    for module, values in ((kernel, given), (matrix, given.flatten(1))):
        optimizers = muon_and_adam(module, [module.weight], 0.1, 0.1, beta2=0.99)
        for _ in range(3):
            module(values).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    torch.testing.assert_close(kernel.weight.flatten(1), matrix.weight)
    torch.testing.assert_close(kernel.bias, matrix.bias)


def test_learning_rates_rise_at_once_and_fall_to_their_final_share() -> None:
    budget = Budget(100, 1, 1, 1e-2, final_learning_rate_share=0.5)
    factors = np.array([_learning_rate_factor(step, budget) for step in range(101)])
    np.testing.assert_allclose(factors[[0, 1, 2, 51, 100]], [0.5, 1, 1, 0.75, 0.5])
    assert (np.diff(factors[2:]) <= 0).all()


def test_the_unused_tokens_weigh_as_much_in_training_as_in_the_checkpoint(trained: Workshop) -> None:
    vocabulary = trained.vocabulary
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    compact = torch.randn(vocabulary.num_rows, 64, generator=torch.Generator().manual_seed(1))
    full = (hidden @ vocabulary.embedding(compact).T).log_softmax(dim=1)
    logits = hidden @ compact.T
    logits[:, -1] += np.log(vocabulary.num_unused)
    torch.testing.assert_close(
        logits.log_softmax(dim=1)[:, :-1], full[:, torch.from_numpy(vocabulary.ids)], rtol=0, atol=1e-3
    )


def test_a_cached_language_model_says_what_an_uncached_one_says(trained: Workshop) -> None:
    model = trained.training("language_model").module
    ids = torch.arange(20) * 3
    with torch.inference_mode():
        hidden, _attention, _read = model(ids, [20])
        _logits, cache = model.step(ids[:12], None)
        for begin in range(12, 20, 2):
            logits, cache = model.step(ids[begin : begin + 2], cache)
        expected = hidden[-1] @ model.embed_tokens.weight.T
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_sequences_that_are_learnt_together_do_not_see_each_other(trained: Workshop) -> None:
    model = trained.training("language_model").module
    ids = torch.arange(30) * 3
    with torch.inference_mode():
        together, attention, read = model(ids, [12, 18], (1,))
        alone, own_attention, own_read = model(ids[12:], [18], (1,))
    torch.testing.assert_close(together[12:], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(read[12:], own_read, rtol=0, atol=1e-5)
    torch.testing.assert_close(attention[0][1], own_attention[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(attention[0][0].sum(dim=2), torch.ones(2, 12))


@pytest.mark.parametrize("f0_hz", [80.0, 123.0, 250.0])
def test_f0_is_measured_within_one_percent(f0_hz: float) -> None:
    phase = 2 * np.pi * f0_hz * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    assert measures.f0_hz(sum(np.sin(k * phase) / k for k in range(1, 20))) == pytest.approx(f0_hz, rel=0.01)


def test_a_loud_second_harmonic_is_not_taken_for_f0() -> None:
    phase = 2 * np.pi * 118 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    wave = sum((0.26 if k % 2 else 1.0) * np.sin(k * phase) for k in range(1, 9))
    assert measures.f0_hz(wave) == pytest.approx(118, rel=0.01)


def test_noise_has_no_f0() -> None:
    assert np.isnan(measures.f0_hz(np.random.default_rng(0).normal(size=SAMPLE_RATE_HZ)))


@pytest.fixture
def espeak() -> Espeak:
    try:
        return Espeak.open()
    except EspeakMissing as error:
        pytest.skip(str(error))


def test_espeak_marks_words_and_phonemes(espeak: Espeak) -> None:
    spoken = espeak.speak("hello world", "en-us+m3", 160, 50, 10)
    assert [(word.label, word.begin) for word in spoken.words] == [("hello", 0), ("world", 6)]
    assert next(mark.label for mark in spoken.phonemes if not data.is_pause(mark)) == "h"
    assert data.count_syllables(spoken.phonemes) == 3
    times_s = [mark.time_s for mark in spoken.phonemes]
    assert times_s == sorted(times_s)
    assert times_s[-1] <= len(spoken.samples) / SAMPLE_RATE_HZ


def test_espeak_s_words_are_those_of_the_text_and_no_ends_of_clauses(espeak: Espeak) -> None:
    text = "Wait, my friend. They will read page 741, again."
    spoken = espeak.speak(text, "en-us+m3", 160, 50, 10)
    words = [(word.label.strip(" ,"), word.begin) for word in spoken.words]
    # a number's hundreds are a word, and what follows them is one
    expected = ["Wait", "my", "friend", "They", "will", "read", "page", "741", "41", "again"]
    assert words == [(word, text.index(word)) for word in expected]


@pytest.mark.parametrize("voice", [0, len(VOICES) - 1])
@pytest.mark.parametrize("wanted_hz", [85.0, 200.0])
def test_rendering_follows_the_wanted_f0(espeak: Espeak, voice: int, wanted_hz: float) -> None:
    wanted_hz = max(wanted_hz, 145.0) if "+f" in VOICES[voice] else wanted_hz
    utterance, samples = data.speak_at("the river is near the mountain", voice, wanted_hz, 4.0)
    assert utterance.f0_hz == pytest.approx(wanted_hz, rel=0.08)
    assert len(samples) % SAMPLES_PER_FRAME == 0


def test_a_rendering_that_was_interrupted_goes_on_with_the_same(
    espeak: Espeak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD_UTTERANCES", 2)
    data.render(tmp_path, 4, 6.0, seed=1)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path in tmp_path.glob("000002.*"):
        path.unlink()
    data.render(tmp_path, 4, 6.0, seed=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert len(whole) == 4


def test_without_espeak_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_engines.demo_voice.espeak._LIBRARY", "libespeak-ng-missing.so.1")
    with pytest.raises(EspeakMissing, match="apt-get install libespeak-ng1"):
        Espeak()


def test_parts_run_after_what_they_need_two_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended: set[str] = set()
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(_workshop: Workshop, name: str, _line: int, num_threads: int) -> subprocess.Popen[bytes]:
        ended.update(other for other, process in running.items() if process.poll() is not None)
        assert num_threads == 1 or len(ended) == len(PARTS) - 1  # both cores are the last part's alone
        assert ended.issuperset(PARTS[name].needs)
        assert len(running.keys() - ended) < 2
        running[name] = subprocess.Popen(["true"])
        return running[name]

    monkeypatch.setattr(command_line, "_start", start)
    monkeypatch.setattr(command_line, "_POLL_S", 0.01)
    command_line._run_all(Workshop(tmp_path, SETTINGS))
    assert running.keys() == PARTS.keys()


def test_a_part_that_fails_is_named_and_stops_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []

    def start(_workshop: Workshop, name: str, *_others: int) -> subprocess.Popen[bytes]:
        started.append(name)
        return subprocess.Popen(["false"])

    monkeypatch.setattr(command_line, "_start", start)
    monkeypatch.setattr(command_line, "_POLL_S", 0.01)
    with pytest.raises(command_line.PartFailed, match=r"data failed.*training\.log"):
        command_line._run_all(Workshop(tmp_path, SETTINGS))
    assert started == ["data"]


def test_a_call_that_is_ended_leaves_no_part_at_work(espeak: Espeak, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build_engines.demo_voice", "--work-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as call:
        try:
            wait_until(lambda: is_at_work(tmp_path / "data.lock"))
            call.send_signal(signal.SIGTERM)
            assert call.wait(ENDED_TIMEOUT_S) == 128 + signal.SIGTERM
            wait_until(lambda: not is_at_work(tmp_path / "data.lock"))
        finally:
            with contextlib.suppress(ProcessLookupError):  # nobody is left of the session
                os.killpg(call.pid, signal.SIGKILL)


def is_at_work(lock_path: Path) -> bool:
    """Whether a process holds a part's lock."""
    if not lock_path.exists():
        return False
    with lock_path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
