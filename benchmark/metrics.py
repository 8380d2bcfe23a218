"""What the benchmarks report, each figure defined once. Times are seconds of one clock; audio is counted in seconds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

import numpy as np

Mode = Literal["stream", "whole"]


@dataclass(frozen=True)
class Piece:
    """A piece of a request's audio as its client received it; a whole utterance is one piece."""

    arrived_at_s: float
    audio_s: float


@dataclass(frozen=True)
class Request:
    """One request as its client saw it.

    Attributes:
        utterance: what was said, by its id in the work list.
        scheduled_at_s: when a user would have sent it. All waits count from here, so that a load generator that is held
            up by a slow server cannot hide the wait (coordinated omission). In a closed loop it is `sent_at_s`.
        sent_at_s: when it was sent.
        pieces: what came. A request without an error has one or more.
        ended_at_s: when the server closed it, or it failed.
        error: the kind of failure, a gRPC status such as UNAVAILABLE; None: it was answered to its end.
        message: what the server said of it.
    """

    utterance: str
    scheduled_at_s: float
    sent_at_s: float
    pieces: tuple[Piece, ...]
    ended_at_s: float
    error: str | None = None
    message: str | None = None

    @property
    def audio_s(self) -> float:
        """How much audio came."""
        return sum(piece.audio_s for piece in self.pieces)

    @property
    def latency_s(self) -> float:
        """The wait for the end of the answer."""
        return self.ended_at_s - self.scheduled_at_s

    @property
    def first_audio_s(self) -> float:
        """The wait for the first piece of audio."""
        return self.pieces[0].arrived_at_s - self.scheduled_at_s

    @property
    def rtf(self) -> float:
        """The real-time factor of this request alone: its latency over its audio."""
        return self.latency_s / self.audio_s

    @property
    def chunk_gaps_s(self) -> list[float]:
        """The times between one piece and the next."""
        return [after.arrived_at_s - before.arrived_at_s for before, after in pairwise(self.pieces)]

    @property
    def longest_starvation_s(self) -> float:
        """The longest pause that a listener hears; 0: none.

        The client plays from the first piece on. When all that came has been played it pauses, and goes on at once
        when the next piece comes.
        """
        played_until_s, longest_s = self.pieces[0].arrived_at_s, 0.0
        for piece in self.pieces:
            longest_s = max(longest_s, piece.arrived_at_s - played_until_s)
            played_until_s = max(played_until_s, piece.arrived_at_s) + piece.audio_s
        return longest_s

    @property
    def safe_prebuffer_s(self) -> float:
        """How long after the first piece a client must begin to play in order never to pause; 0: at once."""
        safe_s, came_s = 0.0, 0.0
        for piece in self.pieces:
            safe_s = max(safe_s, piece.arrived_at_s - self.pieces[0].arrived_at_s - came_s)
            came_s += piece.audio_s
        return safe_s


Load = Sequence[Request]  # all requests of one measurement


def answered(load: Load) -> list[Request]:
    """Those that did not fail."""
    return [request for request in load if request.error is None]


def wall_s(load: Load) -> float:
    """From the first request's schedule to the last one's end."""
    return max(request.ended_at_s for request in load) - min(request.scheduled_at_s for request in load)


def aggregate_rtf(load: Load) -> float:
    """The real-time factor of all requests together: wall time over all audio.

    Under 1 the server speaks faster than one listener hears; N listeners at once need 1/N.
    """
    return wall_s(load) / sum(request.audio_s for request in load)


@dataclass(frozen=True)
class Distribution:
    """Of at least one value: the mean and percentiles, linear between the two nearest values."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Distribution | None":
        """None where there are no values."""
        array = np.fromiter(values, float)
        if not array.size:
            return None
        return cls(float(array.mean()), *map(float, np.percentile(array, (50, 90, 95, 99, 100))))


@dataclass(frozen=True)
class Slo:
    """What a request must keep to be a good one; bounds that are None do not count.

    Attributes:
        ttfa: of `first_audio_s`.
        rtf: of the request's own.
        latency: in seconds.
        prebuffer: of `safe_prebuffer_s`.
    """

    ttfa: float | None = None
    rtf: float | None = None
    latency: float | None = None
    prebuffer: float | None = None

    def is_kept_by(self, request: Request) -> bool:
        """A failed request keeps nothing."""
        if request.error is not None:
            return False
        values = {
            "ttfa": request.first_audio_s,
            "rtf": request.rtf,
            "latency": request.latency_s,
            "prebuffer": request.safe_prebuffer_s,
        }
        bounds = {name: getattr(self, name) for name in values}
        return all(bound is None or values[name] <= bound for name, bound in bounds.items())


@dataclass(frozen=True)
class Figures:
    """The figures of one measurement. Waits are those of the requests that were answered; failed ones are counted.

    Attributes:
        errors: how many requests failed, by kind.
        latency_s, first_audio_s, request_rtf: over requests.
        chunk_gap_s: over all gaps of all streams; None without gaps, as for whole utterances.
        rtf: aggregate.
        audio_s_per_s: throughput, of all requests together; the inverse of `rtf`.
        requests_per_s: answered ones over the wall time.
        starving_share: how many of the streams, 0..1, make a listener pause who plays from the first piece on.
        safe_prebuffer_s: over streams.
        goodput_per_s: requests a second that kept the SLO; None without an SLO.
    """

    num_requests: int
    errors: Mapping[str, int]
    wall_s: float
    audio_s: float
    latency_s: Distribution | None
    first_audio_s: Distribution | None
    request_rtf: Distribution | None
    chunk_gap_s: Distribution | None
    rtf: float | None
    audio_s_per_s: float
    requests_per_s: float
    starving_share: float | None
    safe_prebuffer_s: Distribution | None
    goodput_per_s: float | None

    @classmethod
    def of(cls, load: Load, slo: Slo | None = None) -> "Figures":
        """Of one request or more."""
        good = answered(load)
        duration_s = wall_s(load)
        audio_s = sum(request.audio_s for request in good)
        return cls(
            num_requests=len(load),
            errors=dict(Counter(request.error for request in load if request.error is not None)),
            wall_s=duration_s,
            audio_s=audio_s,
            latency_s=Distribution.of(request.latency_s for request in good),
            first_audio_s=Distribution.of(request.first_audio_s for request in good),
            request_rtf=Distribution.of(request.rtf for request in good),
            chunk_gap_s=Distribution.of(gap for request in good for gap in request.chunk_gaps_s),
            rtf=duration_s / audio_s if audio_s else None,
            audio_s_per_s=audio_s / duration_s,
            requests_per_s=len(good) / duration_s,
            starving_share=_share(request.longest_starvation_s > 0 for request in good),
            safe_prebuffer_s=Distribution.of(request.safe_prebuffer_s for request in good),
            goodput_per_s=None if slo is None else sum(map(slo.is_kept_by, load)) / duration_s,
        )


def _share(flags: Iterable[bool]) -> float | None:
    values = list(flags)
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Level:
    """Measurements at one number of concurrent streams, repeated: rates are medians, waits are over all requests."""

    num_streams: int
    repetitions: tuple[tuple[Request, ...], ...]

    @property
    def _requests(self) -> list[Request]:
        return [request for load in self.repetitions for request in load]

    @property
    def rtf(self) -> float:
        """The median of the repetitions' aggregate RTF."""
        return median(aggregate_rtf(load) for load in self.repetitions)

    @property
    def audio_s_per_s(self) -> float:
        """Seconds of audio made in a second, by all streams together."""
        return 1 / self.rtf

    @property
    def mean_audio_s(self) -> float:
        """How long one request speaks."""
        return float(np.mean([request.audio_s for request in self._requests]))

    @property
    def first_audio_p50_s(self) -> float:
        """The median wait for the first audio."""
        return float(np.percentile([request.first_audio_s for request in self._requests], 50))

    @property
    def first_audio_max_s(self) -> float:
        """The longest wait for the first audio."""
        return max(request.first_audio_s for request in self._requests)

    @property
    def starving_share(self) -> float:
        """How many of the requests, 0..1, make a listener pause at least once."""
        return float(np.mean([request.longest_starvation_s > 0 for request in self._requests]))

    @property
    def longest_starvation_s(self) -> float:
        """The longest pause that a listener of any request hears; 0: none."""
        return max(request.longest_starvation_s for request in self._requests)


@dataclass(frozen=True)
class SeamJumps:
    """The largest differences between two samples in a row, where pieces meet and everywhere else; full scale is 1.

    Attributes:
        added: by how much, at most, such a difference where pieces meet is not what it is in the whole waveform.
    """

    at_seams: float
    elsewhere: float
    added: float


def seam_jumps(pieces: Sequence[np.ndarray], whole: np.ndarray) -> SeamJumps:
    """The jumps in a waveform that is made of `pieces`, put end to end.

    Args:
        pieces: FP32 [samples] each, not empty.
        whole: the waveform that they should make, as long as all of them.
    """
    steps = np.diff(np.concatenate(pieces))
    is_seam = np.zeros(len(steps), bool)
    is_seam[np.cumsum([len(piece) for piece in pieces[:-1]], dtype=int) - 1] = True
    return SeamJumps(
        at_seams=_largest(steps[is_seam]),
        elsewhere=_largest(steps[~is_seam]),
        added=_largest((steps - np.diff(whole))[is_seam]),
    )


def _largest(steps: np.ndarray) -> float:
    return float(np.abs(steps).max(initial=0))
