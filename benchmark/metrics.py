"""What the benchmarks report, each defined once. Times are seconds of one clock, audio is counted in seconds, too."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Piece:
    """A piece of a stream's audio as its client received it."""

    arrived_at_s: float
    audio_s: float


@dataclass(frozen=True)
class StreamedRequest:
    """One streamed request as its client saw it; it has one piece or more."""

    sent_at_s: float
    pieces: tuple[Piece, ...]
    ended_at_s: float  # when the stream was closed by the server

    @property
    def audio_s(self) -> float:
        """How much audio came."""
        return sum(piece.audio_s for piece in self.pieces)

    @property
    def first_audio_s(self) -> float:
        """The wait from sending the request to having its first piece of audio."""
        return self.pieces[0].arrived_at_s - self.sent_at_s

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


Load = Sequence[StreamedRequest]  # all requests of one measurement


def aggregate_rtf(load: Load) -> float:
    """The real-time factor of all requests together: wall time from the first sent to the last ended, over all audio.

    Under 1 the server speaks faster than one listener hears; N listeners at once need 1/N.
    """
    wall_s = max(request.ended_at_s for request in load) - min(request.sent_at_s for request in load)
    return wall_s / sum(request.audio_s for request in load)


@dataclass(frozen=True)
class Level:
    """Measurements at one number of concurrent streams, repeated: rates are medians, waits are over all requests."""

    num_streams: int
    repetitions: tuple[tuple[StreamedRequest, ...], ...]

    @property
    def _requests(self) -> list[StreamedRequest]:
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
