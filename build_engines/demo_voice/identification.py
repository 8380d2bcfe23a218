"""Who speaks? A small classifier of espeak-ng's voices that has nothing to do with the networks it judges."""

import numpy as np

from build_engines.demo_voice import measures
from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ

_WINDOW, _HOP = 512, 256
# Finer ones hear how rough the spectrum is, not only its shape: of whoever speaks through a vocoder, the vocoder.
_NUM_BANDS, _NUM_COEFFICIENTS = 40, 13
_AUDIBLE = 0.02  # of the loudest window
_BAND_FLOOR = 1e-2  # of a band's power: what is fainter, nobody hears beside the rest
_UNVOICED_F0_HZ = 150.0
# Of each covariance towards what they have in common. From 2,000 clips of each voice and 150 neighbours 99.8% of
# espeak's own fresh ones are told right; from 800 and 200, whose F0s differ more, 99.3%.
_SHRINKAGE = 0.1
_MIN_VARIANCE = 1e-6


class VoiceClassifier:
    """The likeliest of normal distributions of F0 and long-term cepstra (quadratic discriminant analysis).

    A voice has one for so many clips of neighbouring F0s each: played faster, a man's formants are where a woman's are.
    They overlap by three quarters, so that nothing lies at the border of all.

    Args:
        features: float64 [clips, features], of each clip its `voice_features`.
        voices: int64 [clips]: who speaks in them.
        num_neighbours: of clips for one distribution, at most a voice's.
    """

    def __init__(self, features: np.ndarray, voices: np.ndarray, num_neighbours: int) -> None:
        groups: list[np.ndarray] = []
        self._voices: list[int] = []
        for voice in np.unique(voices):
            own = np.flatnonzero(voices == voice)
            own = own[np.argsort(features[own, -1], kind="stable")]
            for begin in range(0, len(own) - num_neighbours + 1, num_neighbours // 4):
                groups.append(features[own[begin : begin + num_neighbours]])
                self._voices.append(int(voice))
        self._means = np.stack([group.mean(axis=0) for group in groups])
        deviations = np.concatenate([group - mean for group, mean in zip(groups, self._means, strict=True)])
        common = deviations.T @ deviations / len(deviations) + _MIN_VARIANCE * np.eye(features.shape[1])
        covariances = (1 - _SHRINKAGE) * np.stack([np.cov(group.T) for group in groups]) + _SHRINKAGE * common
        self._precisions = np.linalg.inv(covariances)
        self._log_determinants = np.linalg.slogdet(covariances)[1]

    def identify(self, clip: np.ndarray) -> int:
        """The likeliest voice of samples [n] at 16 kHz."""
        distances = self._means - voice_features(clip)
        unlikeliness = np.einsum("vi,vij,vj->v", distances, self._precisions, distances) + self._log_determinants
        return self._voices[unlikeliness.argmin()]


def voice_features(clip: np.ndarray) -> np.ndarray:
    """Mean and deviation of the cepstrum where it is audible, without its level, and F0: [2 * coefficients + 1].

    `clip` are samples [n] at 16 kHz.
    """
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
