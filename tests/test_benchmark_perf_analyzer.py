"""What is given to perf_analyzer, what is read from it, and when its times and ours are said to agree."""

import base64
from pathlib import Path

import numpy as np
import pytest
from tritone_client import ControlledVoice
from tritone_client.messages import speech_request

from benchmark import perf_analyzer
from benchmark.perf_analyzer import NUM_ROUNDS, PerfAnalyzerError, PerfAnalyzerMissing

# As perf_analyzer 2.51 writes it, with fewer samples. The second request's last response lacks a number, as if it had
# been one that JSON has no notation for.
PROFILE = (
    b'{"experiments":[{"experiment":{"mode":"concurrency","value":2},"requests":['
    b'{"timestamp":1795275329000000000,"request_inputs":{"target_text":"a \\"timestamp\\":5","seed":0},'
    b'"response_timestamps":[1795275329250000000,1795275329500000000,1795275330000000000],'
    b'"response_outputs":[{"waveform":[0.5,0.25],"semantic_tokens":0},{"waveform":-9.8e-32,"semantic_tokens":-1946}]},'
    b'{"timestamp":1795275330000000000,"request_inputs":{"target_text":"a"},'
    b'"response_timestamps":[1795275330125000000,1795275330750000000],'
    b'"response_outputs":[{"waveform":[0.5]},{"waveform":,"semantic_tokens":-1946}]}'
    b'],"window_boundaries":[1795275329000000000,1795275331000000000]}],"version":"2.51.0"}'
)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test may put a program that is taken for perf_analyzer."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(perf_analyzer, "INSTALLED_PROGRAM", tmp_path / "nothing")
    return tmp_path / "perf_analyzer"


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_first_response_and_end_are_read_from_the_timestamps() -> None:
    latencies = perf_analyzer.read_profile(PROFILE)

    np.testing.assert_allclose(latencies.first_response_s, [0.25, 0.125])
    np.testing.assert_allclose(latencies.end_s, [1.0, 0.75])


def test_request_that_was_answered_by_its_end_alone_is_an_error() -> None:
    with pytest.raises(PerfAnalyzerError, match="without data"):
        perf_analyzer.read_profile(PROFILE.replace(b"[1795275330125000000,", b"["))


def test_request_is_handed_on_as_the_client_would_send_it() -> None:
    request = speech_request(
        "spark_tts", "héllo", ControlledVoice("female"), {"seed": 7}, keep_tokens=False, normalize_text=True
    )

    (step,) = perf_analyzer.input_data(request)["data"]

    contents = {name: base64.b64decode(tensor["content"]["b64"]) for name, tensor in step.items()}
    assert contents == dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    assert contents["target_text"] == b"\x06\x00\x00\x00" + "héllo".encode()
    assert step["target_text"]["shape"] == [1]  # the batch axis is perf_analyzer's own


def rounds_of(*medians_s: float) -> list[np.ndarray]:
    return [np.array([0.9, 1.0, 1.0, 1.4]) * median_s for median_s in medians_s]


def test_interval_of_the_ratio_is_students() -> None:
    ratio = perf_analyzer.compare_medians(rounds_of(1, 2, 1, 2, 1, 2), rounds_of(*[1] * NUM_ROUNDS))

    # The logarithms are 0 and ln 2 by turns: mean 0.3466, standard deviation 0.3797.
    assert np.log(ratio.lowest) == pytest.approx(0.3466 - 4.032 * 0.3797 / np.sqrt(6), abs=1e-3)
    assert np.log(ratio.highest) == pytest.approx(0.3466 + 4.032 * 0.3797 / np.sqrt(6), abs=1e-3)
    assert (ratio.ours_s, ratio.theirs_s) == (1.6, 1.0)


def test_drift_of_the_machine_is_no_difference_between_clients() -> None:
    drift = (0.2, 0.3, 0.6, 0.4, 0.2, 0.9)
    ratio = perf_analyzer.compare_medians(rounds_of(*drift), rounds_of(*(median_s * 1.05 for median_s in drift)))

    assert ratio.agrees
    assert ratio.lowest == pytest.approx(ratio.highest) == pytest.approx(1 / 1.05)


@pytest.mark.parametrize("factor", [1.3, 1 / 1.3])
def test_client_that_is_slower_in_every_round_does_not_agree(factor: float) -> None:
    noise = (1.0, 1.04, 0.97, 1.02, 0.95, 1.01)
    theirs = rounds_of(*[factor] * NUM_ROUNDS)

    assert not perf_analyzer.compare_medians(rounds_of(*noise), theirs).agrees


def test_missing_program_is_told_with_what_to_run(program: Path) -> None:
    with pytest.raises(PerfAnalyzerMissing, match="make peer"):
        perf_analyzer.check_perf_analyzer()


def test_program_that_does_not_start_is_told_with_its_own_words(program: Path) -> None:
    write_program(program, "echo 'libb64.so.0d: cannot open shared object file' >&2; exit 127")

    with pytest.raises(PerfAnalyzerMissing, match=r"libb64\.so\.0d: cannot open.*nvidia-pytriton"):
        perf_analyzer.check_perf_analyzer()


def test_libraries_are_found_under_the_names_that_the_program_asks_for(program: Path, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    write_program(
        program,
        'echo "$LD_LIBRARY_PATH" | grep -q "^/own:" || exit 1; cd "${LD_LIBRARY_PATH#/own:}" || exit 2\n'
        "test -f libb64.so.0d -a -f libcudart.so.12",
    )

    perf_analyzer.check_perf_analyzer()


@pytest.fixture
def profiles(program: Path) -> Path:
    """Where a test puts what perf_analyzer is to write: 1.json in its first run, 2.json in its second, and so on.

    In a run that a test leaves out the requests were not counted in time.
    """
    write_program(
        program,
        f'cd {program.parent}; runs=$(($(cat runs 2>/dev/null) + 1)); echo "$runs" >runs\n'
        'while [ "$1" != --profile-export-file ]; do shift; done\n'
        'cp "$runs.json" "$2" || { echo "failed to find the requested model version"; exit 99; }',
    )
    return program.parent


def run_twice_at_once() -> perf_analyzer.Latencies:
    request = speech_request(
        "spark_tts_stream", "hello", ControlledVoice("female"), {}, keep_tokens=False, normalize_text=False
    )
    return perf_analyzer.run_perf_analyzer("localhost:8001", request, concurrency=2, num_requests=2)


LEFT_OUT = PROFILE.replace(b'"response_timestamps":[1795275330125000000,1795275330750000000],', b"")


def test_run_that_leaves_a_request_out_is_made_again(profiles: Path) -> None:
    (profiles / "1.json").write_bytes(LEFT_OUT)
    (profiles / "2.json").write_bytes(PROFILE)

    np.testing.assert_allclose(run_twice_at_once().end_s, [1.0, 0.75])


def test_run_whose_requests_were_not_counted_in_time_is_made_again(profiles: Path) -> None:
    (profiles / "2.json").write_bytes(PROFILE)

    np.testing.assert_allclose(run_twice_at_once().end_s, [1.0, 0.75])


def test_runs_that_always_leave_a_request_out_are_an_error(profiles: Path) -> None:
    for run in range(1, 6):
        (profiles / f"{run}.json").write_bytes(LEFT_OUT)

    with pytest.raises(PerfAnalyzerError, match="1 of 2 requests in the last of 5 runs"):
        run_twice_at_once()
    assert (profiles / "runs").read_text() == "5\n"
