"""Guards against a language model that does not end: a budget, and detectors of endless repetition and of silence.

True of any model that speaks in tokens of a fixed rate. The detectors are fed while the speech is made; each says how
much of it is good once it has seen enough, so that the caller stops the model and cuts there.
"""

import math
from collections.abc import Sequence

import numpy as np

from tritone.text import estimate_speech_s

# The slowest speech in Spark-TTS's training data, 2.6 syllables/s (5%), takes 1.6 times as long as the middle, a slow
# speaker's pauses come on top, and the estimate itself may be half of the truth where a text spells words out.
BUDGET_FACTOR = 3.0
NORMAL_SYLLABLES_PER_S = 4.2
BUDGET_EXTRA_S = 3.0  # for silence before and after, and for short texts, whose speed varies most

MAX_PERIOD_S = 1.0  # what repeats is mostly a sound, a syllable or a word
MIN_REPEATED_S = 2.0  # held vowels and pauses of 1 s are speech
MIN_PERIODS = 4  # whoever says something three times, token for token the same, may mean it

FRAME_S = 0.02
# A vocoder's silence is not quite silent: -59 dBFS with the demo voice. Speech is normalised to about -20.
SILENCE_FLOOR_DBFS = -50.0


def token_budget(text: str, tokens_per_s: float, syllables_per_s: float | None = None) -> int:
    """The most tokens that speaking `text` may take: three times its normal duration and 3 s.

    Args:
        syllables_per_s: the speed that was asked for, where one was; slower speech may take as much longer.
    """
    normal = NORMAL_SYLLABLES_PER_S
    slowness = 1.0 if syllables_per_s is None else max(1.0, normal / max(1.0, syllables_per_s))
    return math.ceil((BUDGET_FACTOR * slowness * estimate_speech_s(text) + BUDGET_EXTRA_S) * tokens_per_s)


class RepetitionDetector:
    """Sees when the latest tokens are nothing but one pattern over and over.

    The pattern has a period of at most 1 s and was repeated exactly, for 2 s at least and four times at least.
    """

    def __init__(self, tokens_per_s: float) -> None:
        self._periods = np.arange(1, round(MAX_PERIOD_S * tokens_per_s) + 1)
        min_tokens = np.maximum(round(MIN_REPEATED_S * tokens_per_s), MIN_PERIODS * self._periods)
        self._min_run = min_tokens - self._periods
        self._run = np.zeros_like(self._periods)  # for each period: how many of the latest tokens repeat it
        self._latest = np.full(len(self._periods), -1)  # ids, the latest first; no id is negative
        self._num_tokens = 0
        self._num_good: int | None = None

    @property
    def num_good(self) -> int | None:
        """How many tokens to keep, the pattern once among them; None while there is no endless repetition."""
        return self._num_good

    def feed(self, ids: Sequence[int]) -> None:
        """Take the next ids. After endless repetition was seen nothing changes any more."""
        for token_id in ids:
            if self._num_good is not None:
                return
            self._num_tokens += 1
            self._run = np.where(self._latest == token_id, self._run + 1, 0)
            self._latest[1:] = self._latest[:-1]
            self._latest[0] = token_id
            endless = self._run >= self._min_run
            if endless.any():
                self._num_good = self._num_tokens - int(self._run[endless.argmax()])


class SilenceDetector:
    """Sees when speech has gone silent for too long. How the waveform is divided into pieces does not matter.

    Silence is counted in frames of 20 ms whose RMS is -50 dBFS at most.
    """

    def __init__(self, sample_rate_hz: int, max_silence_s: float = 2.0) -> None:
        self._frame_samples = round(FRAME_S * sample_rate_hz)
        self._max_silence_samples = max_silence_s * sample_rate_hz
        self._remainder = np.zeros(0, np.float32)  # less than a frame
        self._num_framed = 0  # samples
        self._silent_from = 0  # the end of the last frame with sound
        self._num_good: int | None = None

    @property
    def num_good(self) -> int | None:
        """How many samples to keep, up to where the silence began; None while no silence was longer than allowed."""
        return self._num_good

    def feed(self, waveform: np.ndarray) -> None:
        """Take the next piece, FP32 [n]. `num_good`, once known, stays."""
        samples = np.concatenate([self._remainder, waveform])
        num_frames = len(samples) // self._frame_samples
        frames, self._remainder = np.split(samples, [num_frames * self._frame_samples])
        for is_silent in self._is_silent(frames.reshape(num_frames, self._frame_samples)):
            self._num_framed += self._frame_samples
            if not is_silent:
                self._silent_from = self._num_framed
            elif self._num_good is None and self._num_framed - self._silent_from > self._max_silence_samples:
                self._num_good = self._silent_from

    @staticmethod
    def _is_silent(frames: np.ndarray) -> np.ndarray:
        """Of frames [n, samples] whether each is silent, bool [n]."""
        power = np.square(frames, dtype=np.float64).sum(axis=1)
        return power <= frames.shape[1] * 10 ** (SILENCE_FLOOR_DBFS / 10)
