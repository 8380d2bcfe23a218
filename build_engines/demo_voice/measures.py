"""What is measured of speech, in training data and in what the demo voice says: F0, duration, and their labels."""

from typing import Literal

import numpy as np

from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ

Level = Literal["very_low", "low", "moderate", "high", "very_high"]
GENDERS: tuple[Literal["female", "male"], ...] = ("female", "male")  # in the order of the gender tokens
LABELS: tuple[Level, ...] = ("very_low", "low", "moderate", "high", "very_high")
# Spark-TTS's own cut-offs between the five labels; the pitch ones in mel, by gender.
PITCH_CUTOFFS_MEL = ((224.3, 257.5, 313.2, 352.6), (144.3, 163.2, 211.0, 249.5))
SPEED_CUTOFFS = (2.55, 3.31, 4.72, 5.46)  # syllables per second, in English

MIN_F0_HZ, MAX_F0_HZ = 60.0, 500.0
_WINDOW = 1024  # 64 ms: four periods at 60 Hz
_HOP = 640
_AUDIBLE = 0.03  # of the loudest window
_VOICED = 0.6  # autocorrelation of a voiced window at its period
# A period's multiples correlate as well as itself: the shortest lag that comes near the best one is the period. Of
# espeak's own speech all shares from 0.8 to 0.95 find the same; a voice whose second harmonic is loud needs 0.9.
_NEAR_BEST = 0.9


def f0_hz(samples: np.ndarray) -> float:
    """The median F0 of the voiced parts of `samples` [n] at 16 kHz; NaN where nothing is voiced."""
    if len(samples) < _WINDOW:
        return float("nan")
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    energies = np.square(frames).sum(axis=1)
    frames = frames[energies > _AUDIBLE * energies.max()]
    window = np.hanning(_WINDOW)
    longest, shortest = int(SAMPLE_RATE_HZ / MIN_F0_HZ), int(SAMPLE_RATE_HZ / MAX_F0_HZ)
    correlations = _autocorrelation(frames * window)[:, : longest + 2] / _autocorrelation(window)[: longest + 2]
    correlations /= correlations[:, :1] + 1e-12
    before, here, after = correlations[:, :-2], correlations[:, 1:-1], correlations[:, 2:]
    peaks = np.where((here >= before) & (here >= after), here, 0)
    peaks[:, : shortest - 1] = 0
    best = peaks.max(axis=1, initial=0)
    voiced = best > _VOICED
    if not voiced.any():
        return float("nan")
    rows = np.flatnonzero(voiced)
    at = (peaks[rows] >= _NEAR_BEST * best[rows, None]).argmax(axis=1)
    left, top, right = before[rows, at], here[rows, at], after[rows, at]
    shift = 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-9)  # the top of a parabola through three lags
    return float(np.median(SAMPLE_RATE_HZ / (at + 1 + shift)))


def speech_duration_s(samples: np.ndarray) -> float:
    """From the first audible window to the last; pauses between them count.

    Audible is what lies less than 30 dB below the loudest: the vocoder's own silence is 40 dB below, and made speech a
    tenth longer.
    """
    windows = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    energies = np.square(windows).mean(axis=1)
    if not len(energies) or energies.max() == 0:
        return 0.0
    audible = np.flatnonzero(energies > 1e-3 * energies.max())
    return float(audible[-1] + 1 - audible[0]) * 160 / SAMPLE_RATE_HZ


def hz_to_mel(hz: float) -> float:
    """Spark-TTS's mel scale, on which pitch values are given."""
    return float(2595 * np.log10(1 + hz / 700))


def mel_to_hz(mel: float) -> float:
    """The inverse of `hz_to_mel`."""
    return float(700 * (10 ** (mel / 2595) - 1))


def pitch_label(mel: float, gender: int) -> int:
    """0 very_low to 4 very_high."""
    return int(np.searchsorted(PITCH_CUTOFFS_MEL[gender], mel, side="right"))


def speed_label(syllables_per_s: float) -> int:
    """0 very_low to 4 very_high."""
    return int(np.searchsorted(SPEED_CUTOFFS, syllables_per_s, side="right"))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Of the last axis, lags 0 and up."""
    return np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * _WINDOW)) ** 2)[..., :_WINDOW]
