"""Segments of one request become one waveform: pauses between them, no clicks at their borders, an end in time."""

from collections.abc import Sequence

import numpy as np

from tritone.spark_tts.generation import EndReason
from tritone.text import Segment

BORDER_FADE_S = 0.005


class SegmentJoiner:
    """Takes the pieces of each segment in order.

    Attributes:
        end_reason: None until the last piece of the speech was joined.
    """

    def __init__(self, segments: Sequence[Segment], sample_rate_hz: int, max_samples: int) -> None:
        """
        Args:
            max_samples: the speech ends there at the latest.
        """
        self._segments = segments
        self._sample_rate_hz = sample_rate_hz
        self._num_left = max_samples
        self._index = 0  # of the segment whose pieces come
        self._is_border = False  # whether the next piece follows another segment's
        self._has_run_on = False
        self.end_reason: EndReason | None = None

    def join(self, samples: np.ndarray, segment_end: EndReason | None) -> np.ndarray:
        """What to send for a piece FP32 [n] of the current segment; `segment_end` comes with the segment's last one."""
        if self._is_border:
            samples, self._is_border = self._faded_in(samples), False
        self._has_run_on |= segment_end is EndReason.RUN_ON
        is_last = segment_end is not None and self._index + 1 == len(self._segments)
        if segment_end is not None and not is_last:
            pause = np.zeros(int(self._segments[self._index].pause_s * self._sample_rate_hz), np.float32)
            samples = np.concatenate([self._faded_in(samples[::-1])[::-1], pause])
            self._index, self._is_border = self._index + 1, True
        if segment_end is EndReason.MAX_AUDIO or len(samples) > self._num_left:
            samples, self.end_reason = samples[: self._num_left], EndReason.MAX_AUDIO
        elif is_last:
            self.end_reason = EndReason.RUN_ON if self._has_run_on else EndReason.COMPLETE
        self._num_left -= len(samples)
        return samples

    def _faded_in(self, samples: np.ndarray) -> np.ndarray:
        weight = np.ones(len(samples), np.float32)
        ramp = np.linspace(0, 1, int(BORDER_FADE_S * self._sample_rate_hz), dtype=np.float32)[: len(samples)]
        weight[: len(ramp)] = ramp
        return weight * samples
