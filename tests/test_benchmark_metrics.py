"""The benchmark's figures on hand-made timelines and waveforms, whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark.metrics import Distribution, Figures, Level, Piece, Request, Slo, aggregate_rtf, seam_jumps
from benchmark.report import table, write_json
from build_engines.codec import signal_to_noise_db


def request(
    sent_at_s: float,
    *pieces: tuple[float, float],
    ended_at_s: float | None = None,
    scheduled_at_s: float | None = None,
    error: str | None = None,
) -> Request:
    """Pieces as (arrived_at_s, audio_s); ends with the last one, and was sent when it should have been, unless said."""
    end_s = pieces[-1][0] if ended_at_s is None else ended_at_s
    due_s = sent_at_s if scheduled_at_s is None else scheduled_at_s
    return Request("an utterance", due_s, sent_at_s, tuple(Piece(*piece) for piece in pieces), end_s, error)


def test_the_first_audio_counts_from_sending() -> None:
    assert request(10.0, (10.5, 1.0), (11.0, 1.0)).first_audio_s == 0.5


def test_waits_count_from_the_schedule_and_not_from_sending() -> None:
    late = request(9.0, (9.5, 1.0), (10.0, 1.0), scheduled_at_s=2.0)
    assert (late.first_audio_s, late.latency_s, late.rtf) == (7.5, 8.0, 4.0)


def test_gaps_are_between_pieces() -> None:
    assert request(0.0, (1.0, 1.0), (1.25, 1.0), (3.0, 1.0)).chunk_gaps_s == [0.25, 1.75]
    assert request(0.0, (1.0, 1.0)).chunk_gaps_s == []


def test_all_pieces_are_audio() -> None:
    assert request(0.0, (0.5, 1.0), (1.0, 2.0)).audio_s == 3.0


@pytest.mark.parametrize(
    ("pieces", "longest_s"),
    [
        ([(5.0, 1.0)], 0.0),  # the wait for the first piece is no starvation
        ([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)], 0.0),  # each just in time
        ([(0.0, 1.0), (0.1, 1.0), (2.0, 1.0)], 0.0),  # what came early is still there
        ([(0.0, 1.0), (1.5, 1.0)], 0.5),
        ([(0.0, 1.0), (1.25, 1.0), (3.0, 1.0)], 0.75),  # from 2.25 on there is nothing again: the pause moved the rest
        ([(0.0, 1.0), (2.0, 1.0), (3.25, 1.0)], 1.0),  # the longest, not the last
    ],
)
def test_starvation_is_the_longest_pause_of_a_listener(pieces: list[tuple[float, float]], longest_s: float) -> None:
    assert request(0.0, *pieces).longest_starvation_s == longest_s


@pytest.mark.parametrize(
    ("pieces", "safe_s"),
    [
        ([(5.0, 1.0)], 0.0),
        ([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)], 0.0),
        ([(0.0, 1.0), (1.5, 1.0)], 0.5),
        ([(0.0, 1.0), (1.25, 1.0), (3.0, 1.0)], 1.0),  # both pauses together: whoever waits once waits for both
        ([(0.0, 1.0), (0.1, 5.0), (3.0, 1.0)], 0.0),
    ],
)
def test_the_safe_pre_buffer_is_the_wait_after_which_nobody_pauses(
    pieces: list[tuple[float, float]], safe_s: float
) -> None:
    assert request(0.0, *pieces).safe_prebuffer_s == safe_s
    (_, first_audio_s), *others = pieces
    delayed = request(0.0, (pieces[0][0] + safe_s, first_audio_s), *others)  # plays from then on
    assert delayed.longest_starvation_s == 0.0


def test_percentiles_lie_between_the_nearest_values() -> None:
    assert Distribution.of([]) is None
    assert Distribution.of([3.0]) == Distribution(3.0, 3.0, 3.0, 3.0, 3.0, 3.0)
    spread = Distribution.of(range(101))
    assert spread == Distribution(50.0, 50.0, 90.0, 95.0, 99.0, 100.0)


def test_figures_of_a_load_with_a_stalled_a_failed_and_a_cancelled_stream() -> None:
    good = request(0.0, (0.5, 1.0), (1.0, 1.0))
    stalled = request(0.0, (1.0, 1.0), (7.0, 1.0))  # plays 1 s, and is silent for 5
    refused = request(2.0, ended_at_s=2.0, error="UNAVAILABLE")
    cancelled = request(3.0, (4.0, 1.0), ended_at_s=10.0, error="CANCELLED")
    figures = Figures.of([good, stalled, refused, cancelled], Slo(ttfa=1.0, rtf=1.0))
    assert figures.num_requests == 4
    assert figures.errors == {"UNAVAILABLE": 1, "CANCELLED": 1}
    assert figures.wall_s == 10.0 and figures.audio_s == 4.0
    assert figures.rtf == 2.5 and figures.audio_s_per_s == 0.4
    assert figures.requests_per_s == 0.2
    assert figures.first_audio_s is not None and figures.first_audio_s.mean == 0.75
    assert figures.latency_s is not None and figures.latency_s.max == 7.0
    assert figures.request_rtf is not None and figures.request_rtf.max == 3.5
    assert figures.chunk_gap_s is not None and figures.chunk_gap_s.p50 == 3.25
    assert figures.starving_share == 0.5
    assert figures.safe_prebuffer_s is not None and figures.safe_prebuffer_s.max == 5.0
    assert figures.goodput_per_s == 0.1  # `good` alone


def test_a_load_without_any_answer_has_no_waits() -> None:
    figures = Figures.of([request(0.0, ended_at_s=4.0, error="INTERNAL")])
    assert figures.latency_s is figures.first_audio_s is figures.rtf is figures.starving_share is None
    assert figures.audio_s_per_s == figures.requests_per_s == 0.0 and figures.goodput_per_s is None


@pytest.mark.parametrize(
    ("slo", "is_kept"),
    [
        (Slo(), True),
        (Slo(ttfa=0.5), True),
        (Slo(ttfa=0.4), False),
        (Slo(latency=2.5, rtf=1.25, prebuffer=1.0), True),
        (Slo(latency=2.4), False),
        (Slo(rtf=1.2), False),
        (Slo(prebuffer=0.9), False),
    ],
)
def test_an_slo_is_kept_when_every_bound_is(slo: Slo, is_kept: bool) -> None:
    assert slo.is_kept_by(request(0.0, (0.5, 1.0), (2.5, 1.0))) == is_kept


def test_the_aggregate_rtf_covers_concurrent_requests_once() -> None:
    load = [request(0.0, (1.0, 2.0), ended_at_s=4.0), request(1.0, (2.0, 6.0), ended_at_s=6.0)]
    assert aggregate_rtf(load) == 6.0 / 8.0


def test_a_level_takes_medians_of_rates_and_all_requests_for_waits() -> None:
    repetitions = (
        (request(0.0, (0.5, 4.0), ended_at_s=1.0),),  # RTF 0.25
        (request(0.0, (1.0, 4.0), ended_at_s=8.0),),  # RTF 2
        (request(0.0, (2.0, 1.0), (4.0, 3.0), ended_at_s=4.0),),  # RTF 1, and a pause of 1 s
        (request(0.0, (0.25, 2.0), ended_at_s=1.0),),  # RTF 0.5
    )
    level = Level(1, repetitions)
    assert level.rtf == 0.75
    assert level.audio_s_per_s == pytest.approx(4 / 3)
    assert level.mean_audio_s == 3.5
    assert level.first_audio_p50_s == 0.75
    assert level.first_audio_max_s == 2.0
    assert level.starving_share == 0.25
    assert level.longest_starvation_s == 1.0


def test_jumps_at_seams_are_told_from_those_elsewhere() -> None:
    pieces = [np.array([0.0, 0.5, 0.5]), np.array([0.25, 0.0]), np.array([0.75, 0.75])]
    whole = np.array([0.0, 0.5, 0.5, 0.5, 0.0, 0.625, 0.0])
    jumps = seam_jumps(pieces, whole)
    assert jumps.at_seams == 0.75  # from 0.0 to 0.75; the other seam's is 0.25, downwards
    assert jumps.elsewhere == 0.5
    assert jumps.added == 0.25  # the first seam's, where the whole stays at 0.5; the second one adds 0.125


def test_one_piece_has_no_seam() -> None:
    jumps = seam_jumps([np.array([0.0, -1.0])], np.array([0.0, 0.0]))
    assert (jumps.at_seams, jumps.elsewhere, jumps.added) == (0.0, 1.0, 0.0)


def test_the_snr_compares_powers() -> None:
    expected = np.full(100, 0.5, np.float32)
    assert signal_to_noise_db(expected + np.float32(0.05), expected) == pytest.approx(20, abs=1e-4)
    assert signal_to_noise_db(expected, expected) == float("inf")


def test_the_json_holds_raw_times_and_what_is_computed_from_them(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", Level(1, ((request(0.0, (0.5, 4.0), ended_at_s=1.0),),)))
    level = json.loads((tmp_path / "run.json").read_text())
    assert level["rtf"] == 0.25
    assert level["repetitions"][0][0]["pieces"] == [{"arrived_at_s": 0.5, "audio_s": 4.0}]


def test_columns_are_aligned() -> None:
    assert table(("way", "dB"), [("a", "9.5"), ("long", "10.5")]) == "way     dB\na      9.5\nlong  10.5"
