"""The load generator against a real gRPC server that answers on a known schedule, and what a run writes."""

import asyncio
import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tritone_client import ControlledVoice

from benchmark.compare import MIN_REQUESTS, compare, differences
from benchmark.html_report import write_html
from benchmark.metrics import Figures, Piece, Request, Slo
from benchmark.report import (
    BEGIN_MARK,
    END_MARK,
    PUBLISHED_L20,
    PublishedTable,
    readme_table,
    run_table,
    write_csv,
    write_into,
)
from benchmark.results import BenchmarkError, Measurement, Run, RunSettings
from benchmark.run import measure_run
from benchmark.worklists import Utterance
from tests.scheduled_triton import ScheduledTriton, schedule

LATE_S = 0.35  # how much later than scheduled a busy machine may be


@pytest.fixture(scope="module")
def triton() -> Iterator[ScheduledTriton]:
    server = ScheduledTriton()
    yield server
    server.stop()


def utterances(*texts: str) -> list[Utterance]:
    voice = ControlledVoice("female")
    return [Utterance(f"u{index}", text, voice, "controlled") for index, text in enumerate(texts)]


def run(triton: ScheduledTriton, worklist: Sequence[Utterance], **settings: object) -> Run:
    defaults = {"modes": ("stream",), "num_warm_up": 0}
    return asyncio.run(measure_run(triton.url, None, RunSettings(**{**defaults, **settings}), "test", worklist))  # type: ignore[arg-type]


def figures(result: Run) -> Figures:
    (measurement,) = result.measurements
    return measurement.figures


def test_the_reported_percentiles_are_those_of_the_schedule(triton: ScheduledTriton) -> None:
    first_s = [0.2 * (1 + index) for index in range(10)]
    texts = [schedule(pieces=[(at_s, 0.5), (at_s + 0.6, 0.5)]) for at_s in first_s]
    measured = figures(run(triton, utterances(*texts), concurrency=(10,), num_requests=10))
    for waits, scheduled_s in ((measured.first_audio_s, first_s), (measured.latency_s, np.array(first_s) + 0.6)):
        assert waits is not None
        for percent, reported_s in ((50, waits.p50), (90, waits.p90), (95, waits.p95), (99, waits.p99)):
            expected_s = np.percentile(scheduled_s, percent)
            assert expected_s <= reported_s < expected_s + LATE_S
        assert np.mean(scheduled_s) <= waits.mean < np.mean(scheduled_s) + LATE_S
    assert measured.audio_s == 10.0
    assert measured.rtf is not None and 0.26 <= measured.rtf < 0.26 + LATE_S  # 2.6 s for all of them
    assert measured.starving_share == 1.0  # half a second of audio does not last for 0.6 s
    assert measured.errors == {}


def test_whole_utterances_are_measured_as_one_piece(triton: ScheduledTriton) -> None:
    worklist = utterances(schedule(pieces=[(0.1, 0.5), (0.4, 0.5)]))
    result = run(triton, worklist, modes=("whole",), concurrency=(2,), num_requests=4)
    measured = figures(result)
    assert measured.num_requests == 4 and measured.audio_s == 4.0
    assert measured.latency_s is not None and 0.4 <= measured.latency_s.p50 < 0.4 + LATE_S
    assert all(len(request.pieces) == 1 for request in result.measurements[0].requests)


def test_in_an_open_loop_the_wait_counts_from_the_schedule_not_from_when_the_server_had_time(
    triton: ScheduledTriton,
) -> None:
    """One request at a time, each 0.2 s, and all come within a moment: the last one waits for all the others."""
    worklist = utterances(schedule(pieces=[(0.2, 1.0)], alone=True))
    result = run(triton, worklist, concurrency=(), rates_per_s=(1000.0,), num_requests=8)
    measured = figures(result)
    assert measured.latency_s is not None and measured.first_audio_s is not None
    assert 1.5 < measured.latency_s.max < 1.6 + LATE_S
    assert 0.7 < measured.first_audio_s.p50 < 0.9 + LATE_S
    assert result.measurements[0].level == "1000/s"


def test_failures_are_counted_by_kind_and_do_not_end_the_run(triton: ScheduledTriton) -> None:
    said = [(0.0, 1.0)]
    texts = [
        schedule(pieces=said),
        schedule(error="UNAVAILABLE"),
        schedule(pieces=said, error="INTERNAL"),  # a stream that breaks off
        schedule(),  # ends as if all was well, without audio
        schedule(pieces=[*said, (30.0, 1.0)]),  # stalls
    ]
    result = run(triton, utterances(*texts), concurrency=(2,), num_requests=10, timeout_s=1.0)
    measured = figures(result)
    assert measured.errors == {"UNAVAILABLE": 2, "INTERNAL": 2, "NO_AUDIO": 2, "DEADLINE_EXCEEDED": 2}
    assert measured.num_requests == 10 and measured.audio_s == 2.0
    broken = [request for request in result.measurements[0].requests if request.error == "INTERNAL"]
    assert [len(request.pieces) for request in broken] == [1, 1]
    assert {request.message for request in broken} == {"as the schedule says"}


def test_time_can_bound_a_level_and_what_runs_then_comes_to_its_end(triton: ScheduledTriton) -> None:
    worklist = utterances(schedule(pieces=[(0.3, 1.0)]))
    result = run(triton, worklist, concurrency=(2,), duration_s=0.5)
    requests = result.measurements[0].requests
    assert len(requests) == 4 and not figures(result).errors
    began_s = min(request.sent_at_s for request in requests)
    assert max(request.sent_at_s for request in requests) < began_s + 0.5


def test_warm_up_is_left_out(triton: ScheduledTriton) -> None:
    slow, fast = schedule(pieces=[(0.6, 1.0)]), schedule(pieces=[(0.0, 1.0)])
    result = run(triton, utterances(fast), concurrency=(3,), num_requests=3, num_warm_up=2)
    assert figures(result).num_requests == 3
    cold = run(triton, utterances(slow, fast), concurrency=(1,), num_requests=2, num_warm_up=1)
    assert figures(cold).num_requests == 2


def test_a_server_that_refuses_the_work_list_is_not_put_under_load(triton: ScheduledTriton) -> None:
    with pytest.raises(BenchmarkError, match=r"u0 \(stream\): as the schedule says \(INVALID_ARGUMENT\)"):
        run(triton, utterances(schedule(error="INVALID_ARGUMENT")), concurrency=(1,))


def test_no_server_is_said_in_a_sentence() -> None:
    with pytest.raises(BenchmarkError, match=r"no Triton server answers at 127\.0\.0\.1:1:"):
        asyncio.run(measure_run("127.0.0.1:1", None, RunSettings(), "test", utterances("hello")))


def test_an_interrupted_run_writes_what_it_measured(triton: ScheduledTriton, tmp_path: Path) -> None:
    quick, endless = schedule(pieces=[(0.0, 1.0)]), schedule(pieces=[(0.0, 1.0), (50.0, 1.0)])
    lines = [{"id": "quick", "text": quick, "gender": "male"}, {"id": "endless", "text": endless, "gender": "male"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = [
        sys.executable,
        "-m",
        "benchmark",
        "run",
        "--url",
        triton.url,
        "--worklist",
        str(tmp_path / "list.jsonl"),
    ]
    command += ["--mode", "stream", "--concurrency", "1,2", "--requests", "2", "--warm-up", "0", "--out", str(tmp_path)]
    num_before = triton.num_answered
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline_s = time.monotonic() + 60
        while triton.num_answered < num_before + 2:  # the one that is tried, and the first of the level
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0, output
    result = Run.load(tmp_path / "run.json")
    (measurement,) = result.measurements
    assert [(request.utterance, request.error) for request in measurement.requests] == [
        ("quick", None),
        ("endless", "CANCELLED"),
    ]
    assert not measurement.is_complete and "interrupted" in output
    assert "interrupted" in (tmp_path / "report.html").read_text()


def load(latencies_s: Sequence[float], audio_s: float = 2.0) -> tuple[Request, ...]:
    return tuple(
        Request(f"u{index}", index, index, (Piece(index + wait_s / 2, audio_s),), index + wait_s)
        for index, wait_s in enumerate(latencies_s)
    )


ENVIRONMENT = {
    "began_at": "2026-01-01T00:00:00+00:00",
    "command": "python -m benchmark run --out <here>",
    "machine": {"processor": "an abacus", "num_cores": 2, "memory_gb": 24.0, "system": "Linux"},
    "python": "3.11",
    "packages": {"tritone": "0.1.0"},
    "server": "triton 2.51.0",
    "checkpoint": "0123456789abcdef",
    "precision": {"speech_lm": "int8"},
    "is_on_this_machine": True,
}


def made_run(*loads: Sequence[float], **settings: object) -> Run:
    """A run with a level of 1, 2, ... streams for each of `loads`, which are latencies in seconds."""
    wanted = RunSettings(**{"concurrency": (1,), **settings})  # type: ignore[arg-type]
    measurements = tuple(
        Measurement("stream", 1 + index, None, Figures.of(load(waits), wanted.slo), None, load(waits), True)
        for index, waits in enumerate(loads)
    )
    return Run(ENVIRONMENT, wanted, "test", measurements, None)


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path, triton: ScheduledTriton) -> None:
    worklist = utterances(schedule(pieces=[(0.0, 1.0)]), schedule(error="ABORTED"))
    written = run(
        triton,
        worklist,
        modes=("stream", "whole"),
        concurrency=(2,),
        rates_per_s=(50.0,),
        num_requests=4,
        slo=Slo(ttfa=5.0),
    )
    written.save(tmp_path / "run.json")
    read = Run.load(tmp_path / "run.json")
    read.save(tmp_path / "again.json")
    Run.load(tmp_path / "again.json").save(tmp_path / "once more.json")  # times of the first are not yet rounded
    assert (tmp_path / "once more.json").read_text() == (tmp_path / "again.json").read_text()
    first, again = (json.loads((tmp_path / name).read_text()) for name in ("run.json", "again.json"))
    assert [m["requests"] for m in first["measurements"]] == [m["requests"] for m in again["measurements"]]
    assert read.settings == written.settings
    assert [m.figures.errors for m in read.measurements] == [{"ABORTED": 2}] * 4
    assert read.timeline is not None and read.timeline.request.audio_s == 1.0


@pytest.mark.parametrize("text", ["", "{}", '{"format": "tritone-benchmark/1"}', "[]"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BenchmarkError, match=r"run\.json is no result"):
        Run.load(tmp_path / "run.json")


def test_the_report_is_one_file_that_loads_nothing(tmp_path: Path, triton: ScheduledTriton) -> None:
    worklist = utterances(*(schedule(pieces=[(0.01 * index, 1.0)]) for index in range(3)))
    result = run(
        triton,
        worklist,
        modes=("stream", "whole"),
        concurrency=(1, 2),
        rates_per_s=(20.0,),
        num_requests=3,
        slo=Slo(ttfa=5.0),
    )
    result = dataclasses.replace(result, environment=ENVIRONMENT)
    write_html(result, tmp_path / "report.html", PublishedTable.load(PUBLISHED_L20))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6  # waits, RTF, throughput, goodput, first audio, timeline
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert "--out &lt;here&gt;" in page and "another machine" in page and "an abacus" in page


def test_somebody_elses_figures_are_marked(tmp_path: Path) -> None:
    header, rows = run_table(made_run([1.0, 2.0]), PublishedTable.load(PUBLISHED_L20))
    own, *others = [dict(zip(header, row, strict=True)) for row in rows]
    assert own["mode"] == "stream" and own["latency ms"] == "1500" and own["requests"] == "2"
    assert all(other["mode"].endswith("*") and other["P99"] == "-" for other in others)
    slowest = next(other for other in others if other["mode"] == "stream *" and other["concurrency"] == "4")
    assert (slowest["latency ms"], slowest["first audio P50 ms"], slowest["RTF"]) == ("1794", "1018", "0.0824")


def test_whole_speech_has_no_figures_of_streams() -> None:
    (measurement,) = made_run([1.0]).measurements
    whole = dataclasses.replace(made_run(), measurements=(dataclasses.replace(measurement, mode="whole"),))
    header, (row,) = run_table(whole, None)
    figure = dict(zip(header, row, strict=True))
    assert figure["first audio P50 ms"] == figure["starving"] == "-" and figure["latency ms"] == "1000"


def test_csv_has_a_row_for_each_level_and_each_request(tmp_path: Path) -> None:
    write_csv(made_run([1.0, 3.0], [2.0]), tmp_path / "levels.csv", tmp_path / "requests.csv")
    with (tmp_path / "levels.csv").open() as file:
        levels = list(csv.DictReader(file))
    assert [(row["mode"], row["level"], float(row["latency_s_mean"])) for row in levels] == [
        ("stream", "1", 2.0),
        ("stream", "2", 2.0),
    ]
    with (tmp_path / "requests.csv").open() as file:
        requests = list(csv.DictReader(file))
    assert [float(row["ended_at_s"]) for row in requests] == [1.0, 4.0, 2.0]


def test_the_readme_table_names_its_machine_and_checkpoint() -> None:
    text = readme_table(made_run([1.0, 2.0]))
    assert "| stream | 1 | 1500 |" in text and "an abacus, 2 cores" in text and "0123456789abcdef" in text


def test_a_text_is_put_between_the_marks_of_a_file_again_and_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN_MARK}\nold\n{END_MARK}\nbelow\n")
    for text in ("first", "second"):
        write_into(page, text)
        assert page.read_text() == f"above\n{BEGIN_MARK}\n{text}\n{END_MARK}\nbelow\n"
    for broken in ("no marks", f"{BEGIN_MARK}\n", f"{END_MARK}\n{BEGIN_MARK}", f"{BEGIN_MARK}{BEGIN_MARK}{END_MARK}"):
        page.write_text(broken)
        with pytest.raises(BenchmarkError, match="once each"):
            write_into(page, "text")
        assert page.read_text() == broken


SPREAD_S = np.random.default_rng(1).uniform(1.0, 1.4, size=60)


def test_the_same_run_is_inside_the_noise() -> None:
    ratios = compare(made_run(SPREAD_S), made_run(SPREAD_S[::-1]))
    assert len(ratios) == 5
    assert all(ratio.is_noise and ratio.low < ratio.value < ratio.high for ratio in ratios)


def test_a_real_difference_is_told_from_noise() -> None:
    slower = {ratio.name: ratio for ratio in compare(made_run(SPREAD_S), made_run(1.3 * SPREAD_S))}
    assert {ratio.verdict for ratio in slower.values()} == {"worse"}
    assert all(abs(ratio.value - 1.3) < 1e-6 for ratio in slower.values())
    assert {ratio.verdict for ratio in compare(made_run(SPREAD_S), made_run(0.7 * SPREAD_S))} == {"better"}


def test_levels_with_too_few_requests_or_of_one_run_only_are_not_compared() -> None:
    few = [1.0] * (MIN_REQUESTS - 1)
    assert compare(made_run(few), made_run(SPREAD_S)) == []
    assert {ratio.level for ratio in compare(made_run(SPREAD_S, SPREAD_S), made_run(SPREAD_S))} == {"1"}


def test_a_comparison_says_what_else_is_different() -> None:
    other = dataclasses.replace(made_run([1.0], fixed_tokens=300), environment={**ENVIRONMENT, "checkpoint": "another"})
    assert differences(made_run([1.0]), other) == [
        "checkpoint: 0123456789abcdef / another",
        "fixed tokens: None / 300",
    ]
    assert differences(made_run([1.0]), made_run([2.0])) == []
