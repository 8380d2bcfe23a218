"""Which tokens the vocoder decodes at a time, and how the pieces become one waveform.

The vocoder is convolutional: a sample depends on its own token and on a bounded number of tokens on each side, the
receptive field. A window that carries that context decodes to the same samples as the whole utterance, up to rounding.
All positions here count tokens.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) go into the vocoder; of what comes out, the samples of [keep_begin, keep_end) are used.

    The samples of `fade` more tokens are cross-faded with the next window's.
    """

    begin: int
    end: int
    keep_begin: int
    keep_end: int
    fade: int = 0


class Windows(Protocol):
    """Plans the windows of one utterance while its tokens arrive."""

    def next(self, num_tokens: int, finished: bool) -> Window | None:
        """The next window when `num_tokens` have arrived (`finished`: all of them), None while there is none."""


class WholeWindows:
    """Decodes an utterance exactly, once all of its tokens are there: full context on both sides."""

    def __init__(self, receptive_field: int, chunk: int) -> None:
        """
        Args:
            chunk: how many tokens a window keeps; it bounds the memory, and what a cancelled request still costs.
        """
        self._receptive_field = receptive_field
        self._chunk = chunk
        self._num_planned = 0

    def next(self, num_tokens: int, finished: bool) -> Window | None:
        """As `Windows.next`."""
        keep_begin, keep_end = self._num_planned, min(self._num_planned + self._chunk, num_tokens)
        if not finished or keep_begin == keep_end:
            return None
        self._num_planned = keep_end
        begin, end = max(0, keep_begin - self._receptive_field), min(keep_end + self._receptive_field, num_tokens)
        return Window(begin, end, keep_begin, keep_end)


@dataclass(frozen=True)
class StreamSettings:
    """The sizes of a stream's chunks, in tokens.

    Attributes:
        first_chunk: the first chunk; later ones are as small only while the listener would run dry otherwise.
        slow_chunk: the least that is decoded after the first chunk while small ones would come too late.
        max_chunk: the largest; large windows spend a smaller share on context.
        look_ahead: tokens decoded beyond a chunk, for its right context.
        fade: how many of the look-ahead's tokens are cross-faded with the next chunk.
    """

    first_chunk: int = 9  # with the look-ahead 23 tokens: so many are there after a delivery of the language model
    slow_chunk: int = 42  # with what is decoded around it fills a window of the vocoder
    max_chunk: int = 170
    look_ahead: int = 14
    fade: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.first_chunk <= self.slow_chunk <= self.max_chunk:
            raise ValueError(f"first_chunk, slow_chunk and max_chunk must be 1 or more and ascend: {self}")
        if not 0 <= self.fade <= self.look_ahead or self.look_ahead == 0:
            raise ValueError(f"look_ahead must be at least 1, and fade must lie within it: {self}")


class Playback:
    """What a listener still has to play who began with the first piece and plays on in real time.

    Attributes:
        turnaround_s: how long the last window took from being planned until its samples were sent.
    """

    def __init__(self) -> None:
        self.turnaround_s = 0.0
        self._dry_at_s = math.inf

    def sent(self, duration_s: float, now_s: float) -> None:
        """A piece of speech of `duration_s` left at `now_s`; a listener who had run dry goes on with it."""
        begins_at_s = now_s if self._dry_at_s == math.inf else max(self._dry_at_s, now_s)
        self._dry_at_s = begins_at_s + duration_s

    def lead_s(self, now_s: float) -> float:
        """Seconds until the listener runs dry; 0 or less: it has. Infinite before the first piece."""
        return self._dry_at_s - now_s


class _Pace:
    """How fast tokens come."""

    def __init__(self) -> None:
        self._num_tokens, self._duration_s = 0, 0.0

    def note(self, num_tokens: int, duration_s: float) -> None:
        """So many came in that time."""
        self._num_tokens += num_tokens
        self._duration_s += duration_s

    def num_tokens_in(self, duration_s: float) -> float:
        """How many come in a time; none as long as nothing is known."""
        return self._num_tokens * duration_s / self._duration_s if self._duration_s else 0.0

    def duration_s_of(self, num_tokens: float) -> float:
        """How long so many take; no time as long as nothing is known."""
        return self._duration_s * num_tokens / self._num_tokens if self._num_tokens else 0.0


class StreamWindows:
    """Plans the chunks of a stream so that the first is out early and the listener never runs dry.

    A chunk is put off as long as what the listener still has allows it, and then takes what is there: so chunks are
    small at first and grow with the lead. Small ones cost the most: where they would hardly come as fast as they are
    played, the lead would never grow, and chunks are larger, so that the listener waits once and everybody less.
    """

    # a chunk is begun when the listener's lead is down to the time that the last one took, times so much, and so much
    SAFETY_FACTOR = 1.5
    SAFETY_S = 0.05
    KEEPS_UP = 0.9  # of the time that a chunk lasts: in so much it is there

    def __init__(
        self,
        settings: StreamSettings,
        receptive_field: int,
        tokens_per_s: float,
        playback: Playback,
        full_chunks: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            tokens_per_s: of speech as it is played.
            playback: of the whole stream, which may have several utterances; the caller tells it what was sent.
            full_chunks: sizes that use the vocoder's fixed windows to the full: one token more would need the next one.
            clock: the time in seconds.
        """
        self._settings = settings
        self._receptive_field = receptive_field
        self._tokens_per_s = tokens_per_s
        self._playback = playback
        self._full_chunks = full_chunks
        self._clock = clock
        self._num_planned = 0
        self._planned_at_s: float | None = None  # the last window, until it is done
        self._last_arrival: tuple[float, int] | None = None  # when how many tokens were there
        self._arrival_gap_s = 0.0
        self._waiting, self._decoding = _Pace(), _Pace()  # while nothing of this stream is decoded, and while it is

    def next(self, num_tokens: int, finished: bool) -> Window | None:
        """As `Windows.next`; asked again once a window's samples were sent."""
        now_s = self._clock()
        self._note(num_tokens, now_s)
        remaining = num_tokens - self._num_planned
        if finished and remaining <= self._settings.max_chunk + self._settings.look_ahead:
            return self._window(num_tokens, num_tokens, 0) if remaining > 0 else None
        least = 1 if finished else self._least_chunk(now_s)
        most = min(remaining - self._settings.look_ahead, self._settings.max_chunk)
        if most < least:
            return None
        keep_end = self._num_planned + max((size for size in self._full_chunks if least <= size <= most), default=most)
        return self._window(keep_end, keep_end + self._settings.look_ahead, self._settings.fade)

    def _window(self, keep_end: int, end: int, fade: int) -> Window:
        window = Window(max(0, self._num_planned - self._receptive_field), end, self._num_planned, keep_end, fade)
        self._num_planned = keep_end
        self._planned_at_s = self._clock()
        return window

    def _note(self, num_tokens: int, now_s: float) -> None:
        if self._last_arrival is None:
            if num_tokens:  # what came before was the prompt's time
                self._last_arrival = (now_s, num_tokens)
            return
        last_s, num_last = self._last_arrival
        if self._planned_at_s is not None:
            self._playback.turnaround_s = now_s - self._planned_at_s
            self._decoding.note(num_tokens - num_last, self._playback.turnaround_s)
            self._planned_at_s, self._last_arrival = None, (now_s, num_tokens)
        elif num_tokens > num_last:
            self._arrival_gap_s = now_s - last_s
            self._waiting.note(num_tokens - num_last, self._arrival_gap_s)
            self._last_arrival = (now_s, num_tokens)

    def _least_chunk(self, now_s: float) -> int:
        """How many tokens a chunk must have to be decoded now."""
        lead_s = self._playback.lead_s(now_s)
        if lead_s == math.inf:
            return self._settings.first_chunk
        if lead_s > self.SAFETY_FACTOR * self._playback.turnaround_s + self._arrival_gap_s + self.SAFETY_S:
            return self._settings.max_chunk
        return self._settings.first_chunk if self._small_chunks_keep_up() else self._settings.slow_chunk

    def _small_chunks_keep_up(self) -> bool:
        """Whether chunks like the first one, their tokens waited for and decoded, come faster than they are played."""
        num_tokens, turnaround_s = self._settings.first_chunk, self._playback.turnaround_s
        num_missing = max(0.0, num_tokens - self._decoding.num_tokens_in(turnaround_s))
        waiting_s = self._waiting.duration_s_of(num_missing)
        return waiting_s + turnaround_s < self.KEEPS_UP * num_tokens / self._tokens_per_s


class CrossFade:
    """Joins consecutive pieces of a waveform over the samples that both neighbours decoded."""

    def __init__(self) -> None:
        self._tail = np.zeros(0, np.float32)

    def join(self, samples: np.ndarray, num_tail: int) -> np.ndarray:
        """The samples to send now.

        Args:
            samples: the new piece, FP32 [n], which begins where the samples sent so far end.
            num_tail: how many samples at its end are the next piece's to send; they are kept to fade from.
        """
        num_fade = min(len(self._tail), len(samples))
        weight = (np.arange(num_fade, dtype=np.float32) + 0.5) / max(num_fade, 1)
        joined = samples.copy()
        joined[:num_fade] = (1 - weight) * self._tail[:num_fade] + weight * samples[:num_fade]
        # linear weights: both sides are estimates of the same samples, so their sum keeps its level
        self._tail = samples[len(samples) - num_tail :]
        return joined[: len(samples) - num_tail]
