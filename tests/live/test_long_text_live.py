"""Texts of several sentences: split, spoken in order with one voice, in bounded memory."""

from collections.abc import Iterator

import numpy as np
import pytest
from tritone_client import ControlledVoice, Speech, Tritone

from build_engines.codec import signal_to_noise_db
from demo.lines import DEMO_SENTENCES
from tests.recognizer import SAMPLE_RATE_HZ, Recognizer
from tritone.serve import TritonServer
from tritone.spark_tts.pipeline import PipelineSettings
from tritone.text import PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S, split_text

VOICE = ControlledVoice("female", pitch="high")
SEED = 1
TEXT = "\n".join(" ".join(f"{line}." for line in DEMO_SENTENCES[start : start + 16 : 4]) for start in range(3))
SEGMENTS = [segment.text.replace(".", "") for segment in split_text(TEXT, PipelineSettings().max_segment_s)]
MIN_PAUSE_S = 0.1  # a vocoder's own silence is not quite silent, and never so long


def text_of(num_chars: int) -> str:
    """Sentences in paragraphs of seven, at least `num_chars` long."""
    paragraph = " ".join(f"{line}." for line in DEMO_SENTENCES[:7])
    return "\n".join([paragraph] * -(-num_chars // len(paragraph)))


def pauses(waveform: np.ndarray) -> list[tuple[int, int]]:
    """Where it begins and ends (samples) that nothing at all is heard for MIN_PAUSE_S or longer."""
    is_zero = np.concatenate([[False], waveform == 0, [False]])
    begins, ends = np.flatnonzero(np.diff(is_zero)).reshape(-1, 2).T
    return [(b, e) for b, e in zip(begins, ends, strict=True) if e - b >= MIN_PAUSE_S * SAMPLE_RATE_HZ]


def spoken_segments(waveform: np.ndarray) -> list[np.ndarray]:
    """The waveform between its pauses."""
    borders = [0, *(position for pause in pauses(waveform) for position in pause), len(waveform)]
    return [waveform[begin:end] for begin, end in zip(borders[::2], borders[1::2], strict=True)]


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
    assert min(signal_to_noise_db(*both) for both in segments) > 35


def test_only_the_last_piece_of_a_stream_says_how_it_ended(pieces: list[Speech], whole: Speech) -> None:
    assert [piece.end_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["complete"]
    assert whole.end_reason == "complete"
    assert len(pieces) > len(SEGMENTS)


def test_pauses_are_those_of_sentences_and_paragraphs(whole: Speech) -> None:
    durations_s = [(end - begin) / SAMPLE_RATE_HZ for begin, end in pauses(whole.waveform)]
    assert durations_s == pytest.approx([SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S] * 2 + [SENTENCE_PAUSE_S], abs=0.001)
    num_spoken = len(whole.waveform) - round(sum(durations_s) * SAMPLE_RATE_HZ)
    assert num_spoken == pytest.approx(320 * len(whole.semantic_tokens), abs=len(durations_s))


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_every_sentence_is_heard_in_its_order(way: str, request: pytest.FixtureRequest) -> None:
    speech: Speech = request.getfixturevalue(way)
    in_wrong_order = [" ".join(reversed(sentences.split(". "))).replace(".", "") for sentences in sentence_pairs()]
    recognizer = Recognizer([*SEGMENTS, *in_wrong_order, *DEMO_SENTENCES])
    heard = [recognizer.choose(waveform) for waveform in spoken_segments(speech.waveform)]
    assert len(heard) == len(SEGMENTS)
    assert sum(said == meant for said, meant in zip(heard, SEGMENTS, strict=True)) >= len(SEGMENTS) - 1, heard
