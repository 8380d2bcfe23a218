"""The benchmark's figures on hand-made timelines and waveforms, whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark.metrics import Level, Piece, StreamedRequest, aggregate_rtf, seam_jumps
from benchmark.report import table, write_json
from build_engines.codec import signal_to_noise_db


def request(sent_at_s: float, *pieces: tuple[float, float], ended_at_s: float | None = None) -> StreamedRequest:
    """Pieces as (arrived_at_s, audio_s); ends with the last one unless said."""
    end_s = pieces[-1][0] if ended_at_s is None else ended_at_s
    return StreamedRequest(sent_at_s, tuple(Piece(*piece) for piece in pieces), end_s)


def test_the_first_audio_counts_from_sending() -> None:
    assert request(10.0, (10.5, 1.0), (11.0, 1.0)).first_audio_s == 0.5


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
