"""Two runs side by side: ratios, and whether they are more than noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.metrics import Load, answered
from benchmark.report import table
from benchmark.results import Measurement, Run

NUM_RESAMPLES = 2000
CONFIDENCE_PERCENT = 95
MIN_REQUESTS = 5

# Of the requests of a level, as columns: latency_s, first_audio_s, audio_s.
Statistic = Callable[[np.ndarray], np.ndarray]

# Each takes resamples [n, requests, 3] and gives [n]. All are better when they are smaller.
STATISTICS: dict[str, Statistic] = {
    "latency, mean": lambda columns: columns[..., 0].mean(axis=-1),
    "latency, P95": lambda columns: np.percentile(columns[..., 0], 95, axis=-1),
    "first audio, P50": lambda columns: np.percentile(columns[..., 1], 50, axis=-1),
    "first audio, P95": lambda columns: np.percentile(columns[..., 1], 95, axis=-1),
    # in a closed loop the aggregate RTF is this, divided by the number of streams
    "latency / audio, all requests": lambda columns: columns[..., 0].sum(axis=-1) / columns[..., 2].sum(axis=-1),
}


@dataclass(frozen=True)
class Ratio:
    """How a figure of the second run stands to the first one's; under 1 the second run is better.

    Attributes:
        low, high: the ends of its confidence interval, by resampling the requests of both runs. Requests of one level
            disturb each other and share the machine's moods, which resampling cannot see: repeat a run before you
            believe in a small difference.
    """

    mode: str
    level: str
    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.second / self.first

    @property
    def is_noise(self) -> bool:
        """Whether no difference at all would fit as well."""
        return self.low <= 1 <= self.high

    @property
    def verdict(self) -> str:
        if self.is_noise:
            return "inside the noise"
        return "better" if self.value < 1 else "worse"


def compare(first: Run, second: Run) -> list[Ratio]:
    """The ratios of all levels that both runs have and that have MIN_REQUESTS answered requests in both."""
    levels = {(measurement.mode, measurement.level): measurement for measurement in second.measurements}
    pairs = [(one, levels.get((one.mode, one.level))) for one in first.measurements]
    return [ratio for one, other in pairs if other is not None for ratio in _ratios(one, other)]


def differences(first: Run, second: Run) -> list[str]:
    """What else is not the same in two runs, in words: it may be the reason for their ratios."""
    facts = {
        "machine": lambda run: run.environment["machine"]["processor"],
        "cores": lambda run: run.environment["machine"]["num_cores"],
        "checkpoint": lambda run: run.environment["checkpoint"],
        "precision": lambda run: run.environment["precision"],
        "work list": lambda run: run.worklist,
        "fixed tokens": lambda run: run.settings.fixed_tokens,
    }
    return [f"{name}: {fact(first)} / {fact(second)}" for name, fact in facts.items() if fact(first) != fact(second)]


def print_comparison(first: Run, second: Run) -> None:
    """The table of a comparison."""
    for difference in differences(first, second):
        print(f"not the same: {difference}")
    ratios = compare(first, second)
    if not ratios:
        print(f"nothing to compare: no level with {MIN_REQUESTS} answered requests in both runs")
        return
    header = ["mode", "level", "figure", "first", "second", "ratio", f"{CONFIDENCE_PERCENT}% interval", ""]
    rows = [
        [
            *(ratio.mode, ratio.level, ratio.name, f"{ratio.first:.4g}", f"{ratio.second:.4g}", f"{ratio.value:.3f}"),
            f"{ratio.low:.3f} .. {ratio.high:.3f}",
            ratio.verdict,
        ]
        for ratio in ratios
    ]
    print(table(header, rows))


def _ratios(one: Measurement, other: Measurement) -> list[Ratio]:
    columns = [_columns(measurement.requests) for measurement in (one, other)]
    if min(map(len, columns)) < MIN_REQUESTS:
        return []
    generator = np.random.default_rng(0)
    resampled = [of_run[generator.integers(len(of_run), size=(NUM_RESAMPLES, len(of_run)))] for of_run in columns]
    tail = (100 - CONFIDENCE_PERCENT) / 2
    ratios = []
    for name, statistic in STATISTICS.items():
        if one.mode == "whole" and name.startswith("first audio"):
            continue  # it is the latency
        first, second = (float(statistic(of_run[np.newaxis])[0]) for of_run in columns)
        low, high = np.percentile(statistic(resampled[1]) / statistic(resampled[0]), (tail, 100 - tail))
        ratios.append(Ratio(one.mode, one.level, name, first, second, float(low), float(high)))
    return ratios


def _columns(load: Load) -> np.ndarray:
    rows = [(request.latency_s, request.first_audio_s, request.audio_s) for request in answered(load)]
    return np.array(rows).reshape(-1, 3)
