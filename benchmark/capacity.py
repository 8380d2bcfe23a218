"""How many pods carry a load: a queueing simulation on the curves that a run has measured."""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from benchmark.metrics import Distribution, Slo, answered
from benchmark.report import describe, table
from benchmark.results import BenchmarkError, Run

NUM_SIMULATED = 10_000  # requests of one pod
NUM_SETTLING = 1_000  # of them, left out: the pod was empty at first
MAX_WAITING = 1_000  # a pod that so many wait for is overloaded for good
SEED = 0

ASSUMPTIONS = """\
Assumptions:
- A stream is a listener who hears one utterance after another; an utterance takes as long to hear as it is, so
  {streams:g} of them ask for {rate_per_s:.3g} utterances a second, at random times (Poisson).
- Each request goes to any pod with the same probability; a pod is a server like the measured one.
- A pod with n requests at work gives each the latency and the first audio that were measured at n; between two measured
  levels the latency is interpolated, and so are the quantiles of the first audio.
- Over {max_running} at a time, the most that was measured, requests wait in line. (A server has a limit of its own,
  the parameter max_requests, and refuses what is beyond it.)
- Utterances vary in length as those of the work list did. Nothing fails, and no pod is lost: add the pods that may be
  missing at a time."""


@dataclass(frozen=True)
class Curves:
    """What one pod does at each number of requests at work, from a run's closed loop; arrays go by level.

    Attributes:
        concurrency: [levels], ascending.
        latency_s: FP64 [levels], means.
        first_audio_s: FP64 [levels, quantiles], from the shortest to the longest.
        relative_work: FP64 [n], utterances against their mean.
        audio_s: the mean of an utterance.
    """

    concurrency: np.ndarray
    latency_s: np.ndarray
    first_audio_s: np.ndarray
    relative_work: np.ndarray
    audio_s: float

    @classmethod
    def of(cls, run: Run) -> "Curves":
        """
        Raises:
            BenchmarkError: the run has no answered streams in a closed loop at 1.
        """
        levels = {
            measurement.concurrency: good
            for measurement in run.measurements
            if measurement.mode == "stream" and measurement.concurrency is not None
            if (good := answered(measurement.requests))
        }
        if 1 not in levels:
            raise BenchmarkError(
                "the run has no streams at concurrency 1: run with --mode stream --concurrency 1,2,4,..."
            )
        concurrency = sorted(levels)
        quantiles = np.linspace(0, 100, 101)
        alone_s = np.array([request.latency_s for request in levels[1]])
        return cls(
            concurrency=np.array(concurrency, float),
            latency_s=np.array([np.mean([request.latency_s for request in levels[c]]) for c in concurrency]),
            first_audio_s=np.array(
                [np.percentile([request.first_audio_s for request in levels[c]], quantiles) for c in concurrency]
            ),
            relative_work=alone_s / alone_s.mean(),
            audio_s=float(np.mean([request.audio_s for request in levels[1]])),
        )

    @property
    def max_running(self) -> int:
        return int(self.concurrency[-1])

    def latencies_s(self) -> list[float]:
        """The mean latency with 1 .. max_running at work, between two levels interpolated."""
        numbers = np.arange(1, self.max_running + 1)
        return np.interp(numbers, self.concurrency, self.latency_s).tolist()

    def first_audios_s(self) -> np.ndarray:
        """Likewise the quantiles of the first audio of a request that makes them so many, [max_running, quantiles]."""
        numbers = np.arange(1, self.max_running + 1)
        return np.stack([np.interp(numbers, self.concurrency, quantile) for quantile in self.first_audio_s.T], axis=1)


@dataclass(frozen=True)
class PodLoad:
    """How one pod fares under its share of a load.

    Attributes:
        good_share: how many requests keep the SLO, 0..1; 0 when the pod is overloaded for good.
        first_audio_s: of the requests, waiting in line included; None when overloaded.
        mean_running: requests at work, on average.
    """

    good_share: float
    first_audio_s: Distribution | None
    mean_running: float


@dataclass(frozen=True)
class Capacity:
    """The answer: the fewest pods whose requests keep the SLO as often as asked for."""

    num_pods: int
    pod: PodLoad


def pods_for(curves: Curves, num_streams: float, slo: Slo, share: float) -> Capacity:
    """The fewest pods for `num_streams` listeners, `share` (0..1) of whose requests shall keep `slo`.

    Raises:
        BenchmarkError: even a request that has a pod for itself keeps it too seldom.
    """
    rate_per_s = num_streams / curves.audio_s

    def pod(num_pods: int) -> PodLoad:
        return simulate_pod(curves, rate_per_s / num_pods, slo)

    alone = simulate_pod(curves, 1e-6, slo)
    if alone.good_share < share:
        raise BenchmarkError(
            f"no number of pods is enough: of requests that have a pod for themselves {alone.good_share:.1%} keep the "
            f"objective, and {share:.1%} were asked for. Loosen it, or measure a faster pod"
        )
    too_few, enough = 0, 1
    while pod(enough).good_share < share:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (middle, enough) if pod(middle).good_share < share else (too_few, middle)
    return Capacity(enough, pod(enough))


def simulate_pod(curves: Curves, rate_per_s: float, slo: Slo) -> PodLoad:
    """One pod under Poisson arrivals. All requests at work advance at the speed that their number allows."""
    generator = np.random.default_rng(SEED)
    arrivals_s = np.cumsum(generator.exponential(1 / rate_per_s, NUM_SIMULATED)).tolist()
    works = generator.choice(curves.relative_work, NUM_SIMULATED).tolist()
    latency_of = curves.latencies_s()
    first_audios_s = curves.first_audios_s()
    quantiles = generator.integers(first_audios_s.shape[1], size=NUM_SIMULATED)

    now_s, done = 0.0, 0.0  # `done`: the work that a request would have got that was there all the time
    running: list[tuple[float, int]] = []  # a heap: at which `done` a request ends, its index
    waiting: deque[int] = deque()
    first_audio_s = np.zeros(NUM_SIMULATED)
    ends_s = np.zeros(NUM_SIMULATED)
    running_s = 0.0  # summed over the requests at work
    next_arrival = 0

    def start(index: int) -> None:
        heapq.heappush(running, (done + works[index], index))
        first_audio_s[index] = now_s - arrivals_s[index] + first_audios_s[len(running) - 1, quantiles[index]]

    while next_arrival < NUM_SIMULATED or running:
        latency_s = latency_of[len(running) - 1]  # of no request it does not matter
        ends_at_s = now_s + (running[0][0] - done) * latency_s if running else float("inf")
        arrives_at_s = arrivals_s[next_arrival] if next_arrival < NUM_SIMULATED else float("inf")
        until_s = min(ends_at_s, arrives_at_s)
        running_s += len(running) * (until_s - now_s)
        done += (until_s - now_s) / latency_s
        now_s = until_s
        if ends_at_s <= arrives_at_s:
            _, index = heapq.heappop(running)
            ends_s[index] = now_s
            if waiting:
                start(waiting.popleft())
        else:
            if len(running) < curves.max_running:
                start(next_arrival)
            else:
                waiting.append(next_arrival)
                if len(waiting) > MAX_WAITING:
                    return PodLoad(0.0, None, float(curves.max_running))
            next_arrival += 1

    settled = slice(NUM_SETTLING, None)
    latencies_s = (ends_s - np.array(arrivals_s))[settled]
    audio_s = (np.array(works) * curves.audio_s)[settled]
    is_good = np.ones(len(latencies_s), bool)
    for bound, values in (
        (slo.ttfa, first_audio_s[settled]),
        (slo.latency, latencies_s),
        (slo.rtf, latencies_s / audio_s),
    ):
        if bound is not None:
            is_good &= values <= bound
    return PodLoad(float(is_good.mean()), Distribution.of(first_audio_s[settled]), running_s / now_s)


def print_capacity(run: Run, num_streams: float, slo: Slo, share: float) -> None:
    """The answer in words, with what it rests on."""
    if slo.prebuffer is not None:
        raise BenchmarkError("the simulation knows nothing of pre-buffers: use ttfa, rtf and latency")
    curves = Curves.of(run)
    capacity = pods_for(curves, num_streams, slo, share)
    pod = capacity.pod
    assert pod.first_audio_s is not None  # it is not overloaded, or it would not be enough
    print(f"measured: {describe(run)}\n")
    levels = zip(curves.concurrency, curves.latency_s, curves.first_audio_s, strict=True)
    rows = [
        [f"{number:g}", f"{1000 * latency_s:.0f}", f"{1000 * first_s[50]:.0f}", f"{1000 * first_s[95]:.0f}"]
        for number, latency_s, first_s in levels
    ]
    print(table(["at work", "latency ms", "first audio P50 ms", "P95"], rows))
    assumed = {"streams": num_streams, "rate_per_s": num_streams / curves.audio_s, "max_running": curves.max_running}
    print(f"\n{ASSUMPTIONS.format(**assumed)}\n")
    print(
        f"{capacity.num_pods} pods for {num_streams:g} streams: {pod.good_share:.1%} of the requests keep the "
        f"objective (asked for: {share:.1%}).\n"
        f"Each pod has {pod.mean_running:.2f} requests at work on average, first audio P50 "
        f"{1000 * pod.first_audio_s.p50:.0f} ms, P95 {1000 * pod.first_audio_s.p95:.0f} ms, "
        f"P99 {1000 * pod.first_audio_s.p99:.0f} ms."
    )
