"""Who speaks? A small classifier of espeak-ng's voices that has nothing to do with the networks it judges."""

from collections.abc import Iterable

import numpy as np

from build_engines.demo_voice import measures
from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ

_WINDOW, _HOP = 512, 256
# Finer ones hear how rough the spectrum is, not only its shape: of whoever speaks through a vocoder, the vocoder.
_NUM_BANDS, _NUM_COEFFICIENTS = 40, 13
_AUDIBLE = 0.02  # of the loudest window
_BAND_FLOOR = 1e-2  # of a band's power: what is fainter, nobody hears beside the rest
_UNVOICED_F0_HZ = 150.0
# Of each covariance towards what they have in common. From 160 clips of each voice and pitch, of espeak's own fresh
# ones 99.1% are told right and 99.9% have the right gender; by the common covariance alone 92.1% and 97.9%.
_SHRINKAGE = 0.1
_MIN_VARIANCE = 1e-6


class VoiceClassifier:
    """The likeliest of normal distributions of F0 and long-term cepstra (quadratic discriminant analysis).

    A voice has one for each of its pitches: played faster, a man's formants are where a woman's are.

    Args:
        clips: samples float32 [n] at 16 kHz each.
        voices, pitches: int64 [clips]: who speaks in them, and at which label.
    """

    def __init__(self, clips: Iterable[np.ndarray], voices: np.ndarray, pitches: np.ndarray) -> None:
        features = np.stack([_features(clip) for clip in clips])
        classes, labels = np.unique(np.stack([voices, pitches], axis=1), axis=0, return_inverse=True)
        self._voices = classes[:, 0]
        self._means = np.stack([features[labels == label].mean(axis=0) for label in range(len(classes))])
        deviations = features - self._means[labels]
        common = deviations.T @ deviations / len(deviations) + _MIN_VARIANCE * np.eye(features.shape[1])
        own = np.stack([np.cov(features[labels == label].T) for label in range(len(classes))])
        covariances = (1 - _SHRINKAGE) * own + _SHRINKAGE * common
        self._precisions = np.linalg.inv(covariances)
        self._log_determinants = np.linalg.slogdet(covariances)[1]

    def identify(self, clip: np.ndarray) -> int:
        """The likeliest voice."""
        distances = self._means - _features(clip)
        unlikeliness = np.einsum("vi,vij,vj->v", distances, self._precisions, distances) + self._log_determinants
        return int(self._voices[unlikeliness.argmin()])


def _features(clip: np.ndarray) -> np.ndarray:
    """Mean and deviation of the cepstrum over what is audible, without its level, and F0: [2 * coefficients + 1]."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(clip, (0, _WINDOW)), _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    energies = power.sum(axis=1)
    power = power[energies > _AUDIBLE * energies.max()]
    # bands that widen as the ear's do
    edges_hz = 700 * (np.logspace(np.log10(1 + 80 / 700), np.log10(1 + 7600 / 700), _NUM_BANDS + 1) - 1)
    bins = np.unique((edges_hz * _WINDOW / SAMPLE_RATE_HZ).astype(int))
    bands = np.log(np.add.reduceat(power, bins, axis=1)[:, :-1] + _BAND_FLOOR)
    places = (np.arange(bands.shape[1]) + 0.5) / bands.shape[1]
    cosines = np.cos(np.pi * np.outer(np.arange(1, _NUM_COEFFICIENTS + 1), places))
    cepstra = bands @ cosines.T
    f0_hz = measures.f0_hz(clip)
    log_f0 = np.log(f0_hz if np.isfinite(f0_hz) else _UNVOICED_F0_HZ)
    return np.concatenate([cepstra.mean(axis=0), cepstra.std(axis=0), [log_f0]])
