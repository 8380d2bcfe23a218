"""Texts of several sentences: split, spoken in their order with one voice, in bounded memory."""

from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from tritone_client import ControlledVoice, Speech, Tritone

from build_engines.codec import signal_to_noise_db
from demo.lines import DEMO_SENTENCES
from tests.live.counters import counters
from tests.recognizer import SAMPLE_RATE_HZ, Recognizer
from tritone.run_on import token_budget
from tritone.serve import TritonServer
from tritone.spark_tts.pipeline import PipelineSettings
from tritone.text import PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S, split_text

VOICE = ControlledVoice("female", pitch="high")
SEED = 1
PARAGRAPHS = [DEMO_SENTENCES[first : first + 16 : 4] for first in range(3)]
TEXT = "\n".join(" ".join(f"{sentence}." for sentence in paragraph) for paragraph in PARAGRAPHS)
SEGMENTS = [segment.text for segment in split_text(TEXT, PipelineSettings().max_segment_s)]  # two sentences each
MIN_PAUSE_S = 0.1  # a vocoder's own silence is not quite silent, and never for so long


def text_of(num_chars: int) -> str:
    """So many characters of sentences, in paragraphs."""
    paragraph = " ".join(f"{sentence}." for sentence in DEMO_SENTENCES[:7])
    num_paragraphs = -(-num_chars // (len(paragraph) + 1))
    return "\n".join([paragraph] * num_paragraphs)[:num_chars]


def pauses(waveform: np.ndarray) -> list[tuple[int, int]]:
    """From where to where (samples) nothing at all is heard, for MIN_PAUSE_S or longer."""
    is_zero = np.concatenate([[False], waveform == 0, [False]])
    runs = np.flatnonzero(np.diff(is_zero)).reshape(-1, 2).tolist()
    return [(begin, end) for begin, end in runs if end - begin >= MIN_PAUSE_S * SAMPLE_RATE_HZ]


def spoken_segments(waveform: np.ndarray) -> list[np.ndarray]:
    """The waveform between its pauses."""
    borders = [0, *(position for pause in pauses(waveform) for position in pause), len(waveform)]
    return [waveform[begin:end] for begin, end in zip(borders[::2], borders[1::2], strict=True)]


def tenths(waveform: np.ndarray) -> list[np.ndarray]:
    """What is said in each tenth of a second."""
    return np.array_split(waveform, max(1, len(waveform) * 10 // SAMPLE_RATE_HZ))


@pytest.fixture(scope="module")
def tritone(small_server: TritonServer) -> Iterator[Tritone]:
    with Tritone(small_server.grpc_url, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="module")
def whole(tritone: Tritone) -> Speech:
    return tritone.synthesize(TEXT, voice=VOICE, seed=SEED, keep_tokens=True)


@pytest.fixture(scope="module")
def pieces(tritone: Tritone) -> list[Speech]:
    return list(tritone.stream(TEXT, voice=VOICE, seed=SEED, keep_tokens=True))


@pytest.fixture(scope="module")
def streamed(pieces: list[Speech]) -> Speech:
    return Speech.join(pieces)


def test_stream_and_whole_say_the_same(whole: Speech, streamed: Speech) -> None:
    np.testing.assert_array_equal(streamed.semantic_tokens, whole.semantic_tokens)
    np.testing.assert_array_equal(streamed.global_tokens, whole.global_tokens)
    assert pauses(streamed.waveform) == pauses(whole.waveform)
    segments = zip(spoken_segments(streamed.waveform), spoken_segments(whole.waveform), strict=True)
    # The look-ahead ends before the vocoder's field does, and what lies beyond it matters now and then.
    snrs_db = [signal_to_noise_db(*both) for pair in segments for both in zip(*map(tenths, pair), strict=True)]
    assert np.median(snrs_db) > 35
    assert np.percentile(snrs_db, 5) > 10, sorted(snrs_db)


def test_the_same_seed_gives_the_same_samples_of_a_whole(tritone: Tritone, whole: Speech) -> None:
    again = tritone.synthesize(TEXT, voice=VOICE, seed=SEED)
    np.testing.assert_array_equal(again.waveform, whole.waveform)


def test_only_the_last_piece_of_a_stream_says_how_it_ended(pieces: list[Speech], whole: Speech) -> None:
    assert whole.end_reason == "complete"
    assert [piece.end_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["complete"]
    assert [piece.semantic_tokens is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def test_pauses_are_those_of_sentences_and_paragraphs(whole: Speech) -> None:
    num_samples = [end - begin for begin, end in pauses(whole.waveform)]
    expected_s = [SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S]
    # a sample more where the fade to a border reaches zero
    np.testing.assert_allclose(num_samples, np.multiply(expected_s, SAMPLE_RATE_HZ), atol=2)
    assert whole.semantic_tokens is not None
    num_pause_samples = round(sum(expected_s) * SAMPLE_RATE_HZ)
    assert len(whole.waveform) == 320 * len(whole.semantic_tokens) + num_pause_samples


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_every_sentence_is_heard_in_its_order(way: str, request: pytest.FixtureRequest) -> None:
    """With one mistake allowed: another processor's rounding is like another seed (see test_speech_live.py)."""
    meant = [segment.replace(".", "") for segment in SEGMENTS]
    swapped = [" ".join(reversed(segment.rstrip(".").split(". "))) for segment in SEGMENTS]
    recognizer = Recognizer([*meant, *swapped, *DEMO_SENTENCES])
    speech: Speech = request.getfixturevalue(way)
    heard = [recognizer.choose(waveform) for waveform in spoken_segments(speech.waveform)]
    assert len(heard) == len(meant)
    assert sum(map(str.__eq__, heard, meant)) >= len(meant) - 1, heard


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_numbers_are_read_as_words_where_that_is_asked_for(tritone: Tritone, way: str) -> None:
    def say(text: str, normalize_text: bool) -> list[int]:
        wanted = {"voice": VOICE, "seed": SEED, "keep_tokens": True, "normalize_text": normalize_text}
        speech = tritone.synthesize(text, **wanted) if way == "whole" else Speech.join(tritone.stream(text, **wanted))
        assert speech.semantic_tokens is not None
        return speech.semantic_tokens.tolist()

    in_words = say("the number is fifty", normalize_text=False)
    assert say("the number is 50", normalize_text=True) == in_words
    assert say("the number is 50", normalize_text=False) != in_words


@pytest.mark.parametrize("max_audio_s", [0.6, 4.0])  # within the first segment, and within another one
def test_speech_ends_at_its_limit_and_says_so(tritone: Tritone, max_audio_s: float) -> None:
    whole = tritone.synthesize(TEXT, voice=VOICE, seed=SEED, max_audio_s=max_audio_s)
    streamed = Speech.join(tritone.stream(TEXT, voice=VOICE, seed=SEED, max_audio_s=max_audio_s))
    for speech in (whole, streamed):
        assert speech.duration_s == max_audio_s
        assert speech.end_reason == "max_audio_s"


def test_speech_without_an_end_is_cut_and_marked(parity_server: TritonServer) -> None:
    """Weights of no meaning never end by themselves."""
    text = "a few words"
    with Tritone(parity_server.grpc_url, timeout_s=60) as tritone:
        whole = tritone.synthesize(text, voice=VOICE, seed=SEED, keep_tokens=True)
        streamed = Speech.join(tritone.stream(text, voice=VOICE, seed=SEED, keep_tokens=True))
    for speech in (whole, streamed):
        assert speech.end_reason == "run_on"
        assert speech.semantic_tokens is not None
        assert 0 < len(speech.semantic_tokens) <= token_budget(text, tokens_per_s=50)
        assert len(speech.waveform) == 320 * len(speech.semantic_tokens)


def test_a_long_text_begins_as_early_as_a_short_one(server: TritonServer) -> None:
    """Most of it is not even begun: nine minutes are 27,000 tokens."""
    tokens_before = counters(server).lm_tokens
    with Tritone(server.grpc_url, timeout_s=120) as tritone:
        pieces = tritone.stream(text_of(9000), voice=VOICE, seed=SEED)
        assert 0 < next(pieces).duration_s < 1
        num_tokens = counters(server).lm_tokens - tokens_before
        pieces.close()
    assert num_tokens < 1000


def test_memory_does_not_grow_with_the_length_of_a_stream(server: TritonServer) -> None:
    """Two minutes of speech are 7.7 MB: if the pipeline kept them it would show."""
    (pipeline,) = [
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if any("/spark_tts_stream/" in argument for argument in process.cmdline())
    ]
    with Tritone(server.grpc_url, timeout_s=120) as tritone:
        for _ in tritone.stream(text_of(500), voice=VOICE, seed=SEED):
            pass  # buffers and caches reach their size
        before = pipeline.memory_info().rss
        num_samples = peak = 0
        for piece in tritone.stream(text_of(2000), voice=VOICE, seed=SEED):
            num_samples += len(piece.waveform)
            peak = max(peak, pipeline.memory_info().rss)
    assert num_samples > 90 * SAMPLE_RATE_HZ
    assert peak - before < 0.5 * num_samples * np.dtype(np.float32).itemsize


@pytest.mark.parametrize("fixed_tokens", [7, 431])  # less and more than the text takes
def test_a_fixed_length_is_kept_whatever_the_text(tritone: Tritone, fixed_tokens: int) -> None:
    whole = tritone.synthesize("good morning", voice=VOICE, seed=SEED, fixed_tokens=fixed_tokens)
    streamed = Speech.join(tritone.stream("good morning", voice=VOICE, seed=SEED, fixed_tokens=fixed_tokens))
    assert whole.duration_s == streamed.duration_s == fixed_tokens / 50
