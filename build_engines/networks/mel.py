"""The mel spectrogram that the speaker encoder listens to, as plain convolutions that every engine runs."""

import math

import torch
from torch import nn
from torch.nn import functional

from build_engines.layout import Config

# Slaney's mel scale: linear up to 1 kHz, then 27 steps per factor of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27
_MIN_POWER = 1e-20  # keeps the gradient of the square root finite in digital silence


class MelSpectrogram(nn.Module):
    """[batch, num_samples] -> [batch, num_mels, num_samples // hop_length + 1], magnitudes (no power, no logarithm).

    Equals torchaudio's MelSpectrogram(power=1, norm="slaney", mel_scale="slaney"), centred, with reflected edges.
    """

    fourier: torch.Tensor
    filters: torch.Tensor

    def __init__(self, config: Config) -> None:
        """`config` is `mel_params` of the codec's configuration."""
        super().__init__()
        self.hop_length = config["hop_length"]
        self.win_length = config["win_length"]
        fmax_hz = config["mel_fmax"] or config["sample_rate"] / 2
        filters = mel_filters(config["sample_rate"], config["n_fft"], config["num_mels"], config["mel_fmin"], fmax_hz)
        self.register_buffer("fourier", windowed_fourier_basis(config["n_fft"], self.win_length), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        # The window covers the middle win_length samples of a frame of n_fft; the rest is multiplied by zero, so the
        # frames here have win_length samples only. That shifts phases, which the magnitude drops.
        padded = functional.pad(wav.unsqueeze(1), (self.win_length // 2, self.win_length // 2), mode="reflect")
        real, imaginary = functional.conv1d(padded, self.fourier, stride=self.hop_length).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).clamp_min(_MIN_POWER).sqrt()
        return torch.matmul(self.filters, magnitude)


def windowed_fourier_basis(n_fft: int, win_length: int) -> torch.Tensor:
    """Cosines, then sines, of n_fft // 2 + 1 frequencies under a periodic Hann window: [2 * frequencies, 1, win]."""
    frequencies = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    samples = torch.arange(win_length, dtype=torch.float64)
    angles = 2 * math.pi / n_fft * frequencies[:, None] * samples
    basis = torch.cat([angles.cos(), angles.sin()]) * torch.hann_window(win_length, dtype=torch.float64)
    return basis.unsqueeze(1).float()


def mel_filters(sample_rate_hz: int, n_fft: int, num_mels: int, fmin_hz: float, fmax_hz: float) -> torch.Tensor:
    """Triangular filters of equal area, evenly spaced on Slaney's mel scale: [num_mels, n_fft // 2 + 1]."""
    frequencies_hz = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(_hz_to_mel(fmin_hz), _hz_to_mel(fmax_hz), num_mels + 2, dtype=torch.float64)
    edges_hz = torch.where(
        mels < _BREAK_MEL, mels * _LINEAR_HZ_PER_MEL, _BREAK_HZ * torch.exp(_LOG_STEP * (mels - _BREAK_MEL))
    )
    low_hz, centre_hz, high_hz = (edges_hz[start : start + num_mels, None] for start in range(3))
    rising = (frequencies_hz - low_hz) / (centre_hz - low_hz)
    falling = (high_hz - frequencies_hz) / (high_hz - centre_hz)
    return (torch.minimum(rising, falling).clamp_min(0) * 2 / (high_hz - low_hz)).float()


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _BREAK_HZ:
        return frequency_hz / _LINEAR_HZ_PER_MEL
    return _BREAK_MEL + math.log(frequency_hz / _BREAK_HZ) / _LOG_STEP
