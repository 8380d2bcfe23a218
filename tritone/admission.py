"""How many requests are worked on at a time: beyond that a caller is told so at once, instead of waiting for long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tritone.errors import Unavailable

MIN_RETRY_S = 0.5


@dataclass(frozen=True)
class AdmissionSettings:
    """Each number is a parameter of the same name in the model's config.pbtxt."""

    max_requests: int = 32

    def __post_init__(self) -> None:
        if self.max_requests < 1:
            raise ValueError(f"max_requests must be at least 1: {self}")


class Admission:
    """Counts the requests of one model; all on one thread."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._max_requests = settings.max_requests
        self._started_at_s: dict[int, float] = {}  # of the running requests, by their number
        self._num_admitted = 0
        self._num_served = 0
        self._usual_duration_s = 0.0  # of those that were served

    @contextmanager
    def enter(self) -> Iterator[None]:
        """A request's place, for as long as it takes.

        Raises:
            Unavailable: all places are taken; says when to try again.
        """
        if len(self._started_at_s) >= self._max_requests:
            raise Unavailable(
                f"{self._max_requests} requests are being served, which is the limit (the model's parameter "
                f"max_requests): try again in about {self._retry_s():.1f} s"
            )
        number = self._num_admitted
        self._num_admitted += 1
        self._started_at_s[number] = time.monotonic()
        try:
            yield
            # only here: a request that was wrong or was cancelled says nothing about how long others take
            duration_s = time.monotonic() - self._started_at_s[number]
            self._num_served += 1
            self._usual_duration_s += (duration_s - self._usual_duration_s) / min(self._num_served, 20)
        finally:
            del self._started_at_s[number]

    def _retry_s(self) -> float:
        """When the next place should fall free: the oldest request's usual end, and no sooner than a moment."""
        oldest_s = time.monotonic() - min(self._started_at_s.values())
        return max(MIN_RETRY_S, self._usual_duration_s - oldest_s)
