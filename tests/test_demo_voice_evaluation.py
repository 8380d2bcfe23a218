"""How the demo voice is measured: the judges on speech whose words are known, and the arithmetic of the figures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tritone_client import ControlledVoice, ReferenceVoice

from build_engines.checkpoint import Checkpoint
from build_engines.demo_voice import texts
from build_engines.demo_voice.evaluation import _compared
from build_engines.demo_voice.figures import Figure, as_often, share, word_error
from build_engines.demo_voice.identification import VoiceClassifier, voice_features
from build_engines.demo_voice.measures import f0_hz, hz_to_mel, mel_to_hz, pitch_label, speech_duration_s, speed_label
from build_engines.demo_voice.recognition import Recognizer, num_word_errors
from build_engines.demo_voice.speakers import TorchSpeaker
from build_engines.qwen2_reference import Qwen2Reference
from demo.lines import DEMO_SENTENCES, REFERENCE_WAV
from tritone.spark_tts.prompts import Prompts, Style

DATA_DIR = Path(__file__).parent / "data"
RECORDED = ("where is the train", "the new engine is very fast", "please open the door")


def recording(sentence: str) -> np.ndarray:
    return soundfile.read(DATA_DIR / f"{sentence.replace(' ', '_')}.wav", dtype="float32")[0]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    generator = np.random.default_rng(0)
    training = [texts.plain_words(texts.training_text(generator)) for _ in range(2000)]
    return Recognizer(texts.VOCABULARY, training, DEMO_SENTENCES)


@pytest.fixture(scope="module")
def speaker(demo_checkpoint: Path) -> TorchSpeaker:
    return TorchSpeaker(demo_checkpoint)


def test_the_recogniser_hears_the_words_and_the_sentence(recognizer: Recognizer) -> None:
    num_errors = sum(num_word_errors(recognizer.transcribe(recording(line)), line.split()) for line in RECORDED)
    assert num_errors <= 3  # of 14: it understands espeak badly, which is why espeak's own row is measured too
    assert [recognizer.choose(recording(line)) for line in RECORDED] == list(RECORDED)


def test_the_recogniser_hears_no_sentence_in_speech_played_backwards(recognizer: Recognizer) -> None:
    line = RECORDED[0]
    assert num_word_errors(recognizer.transcribe(recording(line)[::-1]), line.split()) >= 3
    assert recognizer.choose(recording(line)[::-1]) != line


def test_a_word_that_the_dictionary_lacks_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sparktts"):
        Recognizer(["sparktts"], [], ["sparktts"])


@pytest.mark.parametrize(
    ("found", "num_errors"),
    [("a b c", 0), ("a c", 1), ("a x c", 1), ("a b x c", 1), ("", 3), ("c b a", 2), ("x y z w", 4)],
)
def test_word_errors_are_the_fewest_edits(found: str, num_errors: int) -> None:
    assert num_word_errors(found.split(), ["a", "b", "c"]) == num_errors


def test_a_share_has_wilsons_interval() -> None:
    figure = share("x", [True] * 95 + [False] * 5, at_least=0.95)
    assert (figure.value, round(figure.low, 3), round(figure.high, 3)) == (0.95, 0.888, 0.978)
    assert not figure.is_missed
    assert share("x", [True] * 94 + [False] * 6, at_least=0.95).is_missed


def test_a_share_is_as_high_as_another_unless_chance_does_not_explain_why_it_is_lower() -> None:
    def hits(count: int, of: int) -> Figure:
        return share("x", [True] * count + [False] * (of - count))

    assert not as_often(hits(100, 100), hits(100, 100)).is_missed
    assert not as_often(hits(97, 100), hits(99, 100)).is_missed
    assert as_often(hits(970, 1000), hits(990, 1000)).is_missed
    assert not as_often(hits(990, 1000), hits(970, 1000)).is_missed


def test_a_word_error_counts_words_and_not_utterances() -> None:
    figure = word_error("x", errors=[0, 3], words=[9, 3], at_most=0.25)
    assert figure.value == 0.25
    assert figure.low == 0.0 and figure.high == 1.0
    assert not figure.is_missed
    assert word_error("x", [0, 4], [9, 3], at_most=0.25).is_missed


def test_a_figure_that_is_not_a_number_is_missed() -> None:
    assert Figure("x", float("nan"), 0, 1, at_least=0.5).is_missed


def test_what_the_server_loses_has_the_right_sign_for_errors_and_for_hits() -> None:
    served = [Figure("error", 0.25, 0.24, 0.26, at_most=0.3), Figure("hits", 0.90, 0.8, 0.95, at_least=0.95)]
    pytorch = [Figure("error", 0.20, 0.19, 0.21, at_most=0.3), Figure("hits", 0.89, 0.8, 0.95, at_least=0.95)]
    error, hits, on_average = _compared(served, pytorch)
    assert error.value == pytest.approx(0.05) and error.is_missed
    assert hits.value == pytest.approx(-0.01) and not hits.is_missed
    assert on_average.value == pytest.approx(0.02)
    for figure in (error, hits, on_average):
        assert figure.low < figure.value < figure.high


def test_equal_figures_differ_by_zero_without_a_sign() -> None:
    hits = Figure("hits", 0.99, 0.97, 1.0, at_least=0.95)
    assert "  0.0%" in str(_compared([hits], [hits])[0])


def test_a_loss_is_missed_where_chance_does_not_explain_it() -> None:
    def loss(num_better: int, num_worse: int, count: int) -> Figure:
        better, worse = (share("hits", [True] * num + [False] * (count - num), 0.5) for num in (num_better, num_worse))
        return _compared([worse], [better])[0]

    assert not loss(95, 89, 100).is_missed
    assert loss(95, 80, 100).is_missed
    assert loss(950, 890, 1000).is_missed
    assert not loss(890, 950, 1000).is_missed


def test_many_losses_that_chance_explains_one_by_one_are_missed_on_average() -> None:
    served, pytorch = ([share("hits", [True] * num + [False] * (100 - num), 0.5)] * 10 for num in (86, 90))
    *each, on_average = _compared(served, pytorch)
    assert not any(figure.is_missed for figure in each)
    assert on_average.value == pytest.approx(0.04) and on_average.is_missed
    assert on_average.high - on_average.low < each[0].high - each[0].low


def test_voices_are_told_apart_by_their_colour_at_each_pitch() -> None:
    """Each voice lies to both sides of the others."""

    def voice(number: int, pitch: int, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        f0_hz, centre_hz = 100.0 * (1 + pitch) * generator.uniform(0.97, 1.03), 500.0 * (number + 1) + 2500.0 * pitch
        pulses = np.diff(np.floor(np.arange(16_001) * f0_hz / 16_000)) + 0.1 * generator.normal(size=16_000)
        spectrum = np.fft.rfft(pulses)
        return np.fft.irfft(spectrum * (0.1 + np.exp(-(((np.arange(len(spectrum)) - centre_hz) / 800) ** 2))))

    voices, pitches = np.mgrid[:4, :2, :12][:2].reshape(2, -1)
    clips = [voice(number, pitch, seed) for seed, (number, pitch) in enumerate(zip(voices, pitches, strict=True))]
    classifier = VoiceClassifier(np.stack([voice_features(clip) for clip in clips]), voices, num_neighbours=12)
    for pitch in range(2):
        found = [classifier.identify(voice(number, pitch, 100 + number)) for number in range(4)]
        assert found == [0, 1, 2, 3]


def test_labels_have_the_published_cutoffs() -> None:
    assert [pitch_label(mel, 1) for mel in (144.2, 144.4, 163.3, 211.1, 249.6)] == [0, 1, 2, 3, 4]
    assert [pitch_label(mel, 0) for mel in (224.2, 224.4, 257.6, 313.3, 352.7)] == [0, 1, 2, 3, 4]
    assert [speed_label(speed) for speed in (2.5, 2.6, 3.4, 4.8, 5.5)] == [0, 1, 2, 3, 4]
    assert mel_to_hz(hz_to_mel(80.0)) == pytest.approx(80.0)


def test_silence_around_speech_does_not_count_as_speech() -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000)
    assert speech_duration_s(np.pad(tone, (4_000, 8_000))) == pytest.approx(1.0, abs=0.02)


def test_a_torch_speaker_says_what_it_is_asked_to(recognizer: Recognizer, speaker: TorchSpeaker) -> None:
    line = "the black dog is behind the house"
    said = speaker.say(line, ControlledVoice("female", pitch_value=300), seed=1)
    assert said.is_complete
    assert recognizer.choose(said.samples) == line
    assert hz_to_mel(f0_hz(said.samples)) == pytest.approx(300, abs=30)
    again = speaker.say(line, ControlledVoice("female", pitch_value=300), seed=1)
    assert np.array_equal(said.samples, again.samples)


@pytest.mark.parametrize("transcript", [None])
def test_a_torch_speaker_clones(recognizer: Recognizer, speaker: TorchSpeaker, transcript: str | None) -> None:
    line = "the student can hear the teacher"
    said = speaker.say(line, ReferenceVoice.from_file(REFERENCE_WAV, transcript), seed=3)
    assert said.is_complete
    assert recognizer.choose(said.samples) == line


def test_a_torch_speakers_language_model_is_the_checkpoints(speaker: TorchSpeaker, demo_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(demo_checkpoint)
    prompt = Prompts(checkpoint.tokenizer_path).controlled("hello world", Style(0, 2, 2))
    with torch.inference_mode():
        found, _cache = speaker._lm.step(torch.tensor(prompt), None)
    expected = Qwen2Reference(checkpoint.lm, checkpoint.lm_file).logits(prompt)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_measured_sentences_are_never_trained_on() -> None:
    generator = np.random.default_rng(0)
    trained = {
        " ".join(texts.plain_words(sentence))
        for _ in range(5000)
        for sentence in texts.training_text(generator).replace("?", ".").replace("!", ".").split(".")
    }
    fresh = {texts.fresh_sentence(generator) for _ in range(500)}
    assert not fresh & trained
    assert len(fresh) > 400


def test_training_texts_have_everything_that_people_write() -> None:
    generator = np.random.default_rng(0)
    written = [texts.training_text(generator) for _ in range(4000)]
    assert len(texts.VOCABULARY) >= 500
    assert {word for text in written for word in texts.plain_words(text)} >= set(texts.VOCABULARY)
    assert set(DEMO_SENTENCES) <= {" ".join(texts.plain_words(text)) for text in written}
    for feature in ("?", "!", ",", ". "):
        assert any(feature in text for text in written)
    assert any(word.isdigit() and len(word) == 3 for text in written for word in text.split())


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (40, "forty"), (42, "forty two"), (100, "one hundred"), (105, "one hundred five")],
)
def test_numbers_are_read_as_espeak_reads_them(number: int, words: str) -> None:
    assert texts.number_words(number) == words


def test_plain_words_are_what_is_said() -> None:
    assert texts.plain_words("Hello, world. It's 512!") == ["hello", "world", "it's", "five", "hundred", "twelve"]
