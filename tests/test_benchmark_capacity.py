"""The capacity simulation, on pods whose behaviour is known."""

import sys

import numpy as np
import pytest

from benchmark import __main__ as cli
from benchmark.capacity import Curves, pods_for, simulate_pod
from benchmark.metrics import Slo
from benchmark.results import BenchmarkError
from tests.test_benchmark_run import SPREAD_S, made_run

AUDIO_S = 4.0


def curves(latency_s: dict[int, float], first_audio_s: dict[int, float] | None = None) -> Curves:
    """A pod by its numbers of requests at work; its utterances are all alike."""
    first = first_audio_s or dict.fromkeys(latency_s, 0.1)
    return Curves(
        np.array(list(latency_s), float),
        np.array(list(latency_s.values())),
        np.array([[wait_s] * 101 for wait_s in first.values()]),
        np.ones(1),
        AUDIO_S,
    )


def test_a_pod_that_does_not_slow_down_has_as_many_at_work_as_arrive_in_a_latency() -> None:
    pod = simulate_pod(curves({1: 2.0, 1000: 2.0}), rate_per_s=5.0, slo=Slo(latency=2.001))
    assert pod.mean_running == pytest.approx(5.0 * 2.0, rel=0.05)  # Little's law
    assert pod.good_share == 1.0
    assert pod.first_audio_s is not None and pod.first_audio_s.max == pytest.approx(0.1)


def test_a_pod_for_one_at_a_time_is_the_queue_of_the_textbook() -> None:
    """M/D/1 at a load of one half: the mean wait in line is half of the time of service."""
    pod = simulate_pod(curves({1: 1.0}), rate_per_s=0.5, slo=Slo())
    assert pod.first_audio_s is not None
    assert pod.first_audio_s.mean - 0.1 == pytest.approx(0.5, rel=0.1)
    assert pod.mean_running == pytest.approx(0.5, rel=0.05)


def test_a_pod_that_shares_its_speed_is_the_processor_sharing_of_the_textbook() -> None:
    """M/G/1 with processor sharing at a load of one half: a mean latency of twice the service time, 1 at work."""
    pod = simulate_pod(curves({1: 1.0, 200: 200.0}), rate_per_s=0.5, slo=Slo())
    assert pod.mean_running == pytest.approx(1.0, rel=0.1)


def test_an_overloaded_pod_is_good_for_nothing() -> None:
    pod = simulate_pod(curves({1: 1.0, 4: 4.0}), rate_per_s=1.5, slo=Slo(ttfa=100.0))
    assert pod.good_share == 0.0 and pod.first_audio_s is None


SLOWING = curves({1: 2.0, 2: 2.5, 4: 4.0, 8: 8.0}, {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8})


def test_twice_the_listeners_take_about_twice_the_pods() -> None:
    few, many = (pods_for(SLOWING, streams, Slo(ttfa=0.3), 0.95) for streams in (50.0, 100.0))
    assert many.num_pods == pytest.approx(2 * few.num_pods, abs=2)
    assert few.pod.good_share >= 0.95


def test_one_pod_fewer_is_not_enough() -> None:
    answer = pods_for(SLOWING, 50.0, Slo(ttfa=0.3), 0.95)
    rate_per_s = 50.0 / AUDIO_S / (answer.num_pods - 1)
    assert simulate_pod(SLOWING, rate_per_s, Slo(ttfa=0.3)).good_share < 0.95


def test_a_stricter_objective_takes_more_pods() -> None:
    numbers = [pods_for(SLOWING, 50.0, slo, 0.95).num_pods for slo in (Slo(ttfa=0.8), Slo(ttfa=0.4), Slo(ttfa=0.2))]
    assert numbers == sorted(set(numbers))


def test_what_a_pod_cannot_do_alone_no_number_of_pods_can() -> None:
    with pytest.raises(BenchmarkError, match="no number of pods is enough"):
        pods_for(SLOWING, 50.0, Slo(ttfa=0.05), 0.95)


def test_the_answer_names_its_assumptions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    made_run(SPREAD_S, 1.5 * SPREAD_S).save(tmp_path / "run.json")  # type: ignore[operator]
    arguments = ["--result", f"{tmp_path}/run.json", "--streams", "20"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "capacity", *arguments, "--slo", "ttfa=1"])
    assert cli.main() == 0
    output = capsys.readouterr().out
    assert " pods for 20 streams" in output and "Assumptions:" in output and "an abacus" in output
    monkeypatch.setattr(sys, "argv", ["benchmark", "capacity", *arguments, "--slo", "prebuffer=1"])
    assert cli.main() == 1
