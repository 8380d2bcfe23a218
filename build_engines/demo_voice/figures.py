"""Measured figures with their uncertainty and what they are held to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_Z = 1.96  # of a 95% confidence interval
_NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """One figure, a share of 1.

    Attributes:
        low, high: its 95% confidence interval.
        at_least, at_most: what the figure itself is held to; neither: it is for comparison.
    """

    name: str
    value: float
    low: float
    high: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether it is not as good as it should be; NaN never is."""
        return not (
            (self.at_least is None or self.value >= self.at_least)
            and (self.at_most is None or self.value <= self.at_most)
        )

    def __str__(self) -> str:
        limit = ""
        if self.at_least is not None:
            limit = f"at least {100 * self.at_least:.1f}%"
        elif self.at_most is not None:
            limit = f"at most {100 * self.at_most:.1f}%"
        verdict = "MISSED" if self.is_missed else "ok" if limit else ""
        interval = f"({100 * self.low:z.1f} .. {100 * self.high:z.1f})"
        return f"{self.name:52}{100 * self.value:z7.1f}% {interval:18}{limit:20}{verdict}".rstrip()


def share(name: str, hits: Sequence[bool], at_least: float | None = None) -> Figure:
    """Of yes and no, with Wilson's interval."""
    count = len(hits)
    value = float(np.mean(hits))
    centre = (value + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * float(np.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2)))
    return Figure(name, value, max(0.0, centre - half), min(1.0, centre + half), at_least=at_least)


def as_often(found: Figure, expected: Figure) -> Figure:
    """A share held to another one: it is missed where it is lower than chance explains, by Newcombe's interval."""
    _below, above = _chance(found, expected)
    return replace(found, at_least=expected.value - above)


def word_error(name: str, errors: Sequence[int], words: Sequence[int], at_most: float | None = None) -> Figure:
    """Wrong words over words, of utterances; the interval is of utterances drawn again."""
    all_errors, all_words = np.array(errors), np.array(words)
    draws = np.random.default_rng(0).integers(len(errors), size=(_NUM_RESAMPLES, len(errors)))
    rates = all_errors[draws].sum(axis=1) / all_words[draws].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return Figure(name, float(all_errors.sum() / all_words.sum()), float(low), float(high), at_most=at_most)


def difference(name: str, found: Figure, expected: Figure, sign: int, at_most: float) -> Figure:
    """`sign` times what a figure is above another one, measured apart from it.

    The interval joins theirs in Newcombe's way. `at_most` is widened by its lower half: what chance alone may add.
    """
    value = found.value - expected.value
    below, above = _chance(found, expected)
    low, high = sorted(sign * end for end in (value - below, value + above))
    return Figure(name, sign * value, low, high, at_most=at_most + sign * value - low)


def average(name: str, figures: Sequence[Figure], at_most: float) -> Figure:
    """The mean of figures measured apart from each other."""
    values, lows, highs = np.array([(figure.value, figure.low, figure.high) for figure in figures]).T
    mean = float(values.mean())
    below, above = (float(np.linalg.norm(halves)) / len(figures) for halves in (values - lows, highs - values))
    return Figure(name, mean, mean - below, mean + above, at_most=at_most)


def _chance(found: Figure, expected: Figure) -> tuple[float, float]:
    """How far below and above their difference the 95% interval reaches, by Newcombe."""
    below = np.hypot(found.value - found.low, expected.high - expected.value)
    above = np.hypot(found.high - found.value, expected.value - expected.low)
    return float(below), float(above)
