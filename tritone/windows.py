"""Which tokens the vocoder decodes at a time, and how the pieces become one waveform.

The vocoder is convolutional: a sample depends on its own token and on a bounded number of tokens on each side, the
receptive field. A window that carries that context decodes to the same samples as the whole utterance, up to rounding.
All positions here count tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) go into the vocoder; of what comes out, tokens [keep_begin, keep_end) are used."""

    begin: int
    end: int
    keep_begin: int
    keep_end: int

    def kept(self, waveform: np.ndarray, samples_per_token: int, num_extra_tokens: int = 0) -> np.ndarray:
        """The used samples of the window's `waveform` [samples], with those of `num_extra_tokens` after them."""
        first = (self.keep_begin - self.begin) * samples_per_token
        last = (self.keep_end + num_extra_tokens - self.begin) * samples_per_token
        return waveform[first:last]


def whole_windows(num_tokens: int, receptive_field: int, window_size: int) -> Iterator[Window]:
    """Windows of at most `window_size` tokens that decode an utterance exactly, in order.

    An utterance that fits is one window; of a longer one every window has `window_size` tokens (so that windows of
    different requests can be batched and memory is bounded) and full context on both sides.

    Raises:
        ValueError: `window_size` leaves no room for a token between two contexts.
    """
    if window_size <= 2 * receptive_field:
        raise ValueError(f"window_size must be over {2 * receptive_field} (two contexts), got {window_size}")
    keep_begin = 0
    while keep_begin < num_tokens:
        begin = max(0, min(keep_begin - receptive_field, num_tokens - window_size))
        end = min(begin + window_size, num_tokens)
        keep_end = num_tokens if end == num_tokens else end - receptive_field
        yield Window(begin, end, keep_begin, keep_end)
        keep_begin = keep_end


@dataclass(frozen=True)
class StreamSettings:
    """The sizes of a stream's chunks, in tokens.

    Attributes:
        first_chunk: the first chunk is small, so that a client hears it soon.
        growth: each chunk is so many times its predecessor, since long windows cost less per token ...
        max_chunk: ... up to this size.
        look_ahead: tokens decoded beyond a chunk, for its right context. 16 of the published vocoder's 68
            give 53 dB SNR against the whole waveform.
        fade: how many of the look-ahead's tokens are cross-faded with the next chunk.
    """

    first_chunk: int = 20
    growth: float = 2.0
    max_chunk: int = 160
    look_ahead: int = 16
    fade: int = 2

    def __post_init__(self) -> None:
        if not (self.first_chunk >= 1 and self.growth >= 1 and self.max_chunk >= self.first_chunk):
            raise ValueError(f"chunks must start at 1 token or more and not shrink: {self}")
        if not 0 <= self.fade <= self.look_ahead:
            raise ValueError(f"fade must lie within the look-ahead: {self}")


class StreamWindows:
    """Plans the windows of one stream while its tokens arrive."""

    def __init__(self, settings: StreamSettings, receptive_field: int) -> None:
        self._settings = settings
        self._receptive_field = receptive_field
        self._chunk = float(settings.first_chunk)
        self._num_planned = 0

    def next(self, num_tokens: int, finished: bool) -> Window | None:
        """The next window when `num_tokens` have arrived (`finished`: all of them), None while there are too few."""
        keep_end = self._num_planned + int(self._chunk)
        end = keep_end + self._settings.look_ahead
        if finished and end >= num_tokens:  # what would remain is no more than a look-ahead: take it along
            keep_end = end = num_tokens
        if end > num_tokens or keep_end == self._num_planned:
            return None
        window = Window(max(0, self._num_planned - self._receptive_field), end, self._num_planned, keep_end)
        self._num_planned = keep_end
        self._chunk = min(self._chunk * self._settings.growth, self._settings.max_chunk)
        return window


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
