"""Segments become one waveform: what lies between them, where it ends and why."""

import numpy as np
import pytest

from tritone.spark_tts.generation import EndReason
from tritone.spark_tts.joining import BORDER_FADE_S, SegmentJoiner
from tritone.text import Segment

SAMPLE_RATE_HZ = 1000
NUM_FADE = int(BORDER_FADE_S * SAMPLE_RATE_HZ)
RAMP = np.linspace(0, 1, NUM_FADE, dtype=np.float32)
NO_LIMIT = 10**9


def joiner(pauses_s: list[float], max_samples: int = NO_LIMIT) -> SegmentJoiner:
    """Of one segment more than there are pauses."""
    segments = [Segment("some words", pause_s) for pause_s in (*pauses_s, 0.0)]
    return SegmentJoiner(segments, SAMPLE_RATE_HZ, max_samples)


def speech(num_samples: int, seed: int = 0) -> np.ndarray:
    """Samples of which none is zero."""
    return np.random.default_rng(seed).uniform(0.1, 1, num_samples).astype(np.float32)


@pytest.mark.parametrize("lengths", [[40], [1], [3, 40, 1, 2]])
def test_speech_of_one_segment_stays_as_it_is(lengths: list[int]) -> None:
    joined, pieces = joiner([]), [speech(length, seed) for seed, length in enumerate(lengths)]
    for piece in pieces[:-1]:
        np.testing.assert_array_equal(joined.join(piece, None), piece)
        assert joined.end_reason is None
    last = joined.join(pieces[-1], EndReason.COMPLETE)
    assert last.tobytes() == pieces[-1].tobytes()
    assert joined.end_reason is EndReason.COMPLETE


def test_segments_follow_each_other_after_their_pauses() -> None:
    joined, ends = joiner([0.5, 0.12]), EndReason.COMPLETE
    first, second, third = (joined.join(speech(40), ends) for _ in range(3))
    assert [len(samples) for samples in (first, second, third)] == [40 + 500, 40 + 120, 40]
    assert not first[40:].any() and not second[40:].any()


def test_a_segments_first_and_last_samples_fade_only_at_a_border() -> None:
    joined = joiner([0.0, 0.0])
    pieces = [[speech(40, seed) for seed in range(3)] for _ in range(3)]
    samples = [
        [joined.join(piece, EndReason.COMPLETE if piece is segment[-1] else None) for piece in segment]
        for segment in pieces
    ]
    fade_in, fade_out = np.ones(120, np.float32), np.ones(120, np.float32)
    fade_in[:NUM_FADE], fade_out[-NUM_FADE:] = RAMP, RAMP[::-1]
    original = np.concatenate(pieces[0])
    np.testing.assert_array_equal(np.concatenate(samples[0]), original * fade_out)
    np.testing.assert_array_equal(np.concatenate(samples[1]), original * fade_in * fade_out)
    np.testing.assert_array_equal(np.concatenate(samples[2]), original * fade_in)


def test_a_piece_shorter_than_a_fade_still_begins_and_ends_silent() -> None:
    for num_samples in range(1, NUM_FADE):
        joined = joiner([0.0, 0.0])
        joined.join(speech(40), EndReason.COMPLETE)
        samples = joined.join(speech(num_samples), EndReason.COMPLETE)
        assert len(samples) == num_samples
        assert samples[0] == samples[-1] == 0


def test_a_segment_cut_to_nothing_leaves_its_pause() -> None:
    joined = joiner([0.1, 0.1])
    joined.join(speech(40), EndReason.COMPLETE)
    samples = joined.join(speech(0), EndReason.RUN_ON)
    np.testing.assert_array_equal(samples, np.zeros(100))
    assert joined.end_reason is None
    assert joined.join(speech(40), EndReason.COMPLETE)[0] == 0


def test_what_the_caller_passed_is_not_changed() -> None:
    joined, piece = joiner([0.1]), speech(40)
    before = piece.copy()
    joined.join(piece, EndReason.COMPLETE)
    joined.join(piece, EndReason.COMPLETE)
    np.testing.assert_array_equal(piece, before)


@pytest.mark.parametrize("max_samples", [1, 39, 40, 41, 79, 90, 139, 140, 150, 179])
def test_the_limit_cuts_speech_and_pauses_alike(max_samples: int) -> None:
    pieces = [(speech(40, 0), None), (speech(40, 1), EndReason.COMPLETE), (speech(40, 2), EndReason.COMPLETE)]
    unlimited = joiner([0.06])
    whole = np.concatenate([unlimited.join(*piece) for piece in pieces])
    assert len(whole) == 180

    limited, sent = joiner([0.06], max_samples), []
    for piece in pieces:
        sent.append(limited.join(*piece))
        if limited.end_reason is not None:
            break
    assert limited.end_reason is EndReason.MAX_AUDIO
    np.testing.assert_array_equal(np.concatenate(sent), whole[:max_samples])


def test_speech_that_just_fits_is_complete() -> None:
    joined = joiner([0.06], max_samples=140)
    assert len(joined.join(speech(40), EndReason.COMPLETE)) == 100
    assert joined.end_reason is None
    assert len(joined.join(speech(40), EndReason.COMPLETE)) == 40
    assert joined.end_reason is EndReason.COMPLETE


@pytest.mark.parametrize("reasons", [["run_on", "complete"], ["complete", "run_on"], ["run_on", "run_on"]])
def test_one_segment_that_ran_on_marks_the_whole_speech(reasons: list[str]) -> None:
    joined = joiner([0.1])
    for index, reason in enumerate(reasons):
        assert joined.end_reason is None
        assert len(joined.join(speech(40), EndReason(reason))) == [140, 40][index]
    assert joined.end_reason is EndReason.RUN_ON


@pytest.mark.parametrize("pauses_s", [[], [0.1]])
def test_a_segment_that_reached_the_requests_limit_ends_the_speech(pauses_s: list[float]) -> None:
    joined = joiner(pauses_s, max_samples=80)
    joined.join(speech(40), None)
    assert joined.end_reason is None
    assert len(joined.join(speech(40), EndReason.MAX_AUDIO)) == 40  # no pause after it
    assert joined.end_reason is EndReason.MAX_AUDIO
