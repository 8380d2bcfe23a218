"""What sounds are compared by: log-mel features, and spectra at several resolutions."""

import torch
from torch import nn

from build_engines.layout import Config
from build_engines.networks.mel import MelSpectrogram

# What lies 80 dB below the loudest is not heard, and nothing is spent on it.
_MEL_FLOOR, _MAGNITUDE_FLOOR = 3e-4, 1e-2
# Bring log-mel magnitudes of normalised speech to about mean 0 and deviation 1.
_MEAN, _DEVIATION = -5.5, 2.5
_RESOLUTIONS = (256, 512, 1024, 2048)  # window lengths of 16 to 128 ms: pulses, and the harmonics of 80 Hz
_MIN_VARIANCE = 1e-4  # keeps the gradient of the square root finite in silence
_MEL_WEIGHT, _COLOUR_WEIGHT = 2.0, 2.0


class LogMel(nn.Module):
    """Samples [batch, frames * hop] -> features [batch, frames, mels], one frame per token."""

    def __init__(self, mel_params: Config) -> None:
        super().__init__()
        self.mel = MelSpectrogram(mel_params)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        features = (self.mel(wav)[:, :, :-1].clamp_min(_MEL_FLOOR).log() - _MEAN) / _DEVIATION
        return features.transpose(1, 2)


class WaveLoss(nn.Module):
    """How far samples [batch, n] are from others by ear: spectra at all resolutions, the mel features, their colour.

    Colour is the mean over a clip and the deviation from it, which tell one voice from another: errors that are small
    in every frame but all on one side add up in them, and what is blurred deviates too little.
    """

    def __init__(self, mel_params: Config) -> None:
        super().__init__()
        self.log_mel = LogMel(mel_params)
        for length in _RESOLUTIONS:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(self, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
        """Their parts, and the "total" to descend."""
        spectral = torch.stack([self._distance(found, wanted, length) for length in _RESOLUTIONS]).mean()
        features = self.log_mel(found), self.log_mel(wanted)
        mel = (features[0] - features[1]).abs().mean()
        colour = sum((a - b).abs().mean() for a, b in zip(*map(_colour, features), strict=True))
        total = spectral + _MEL_WEIGHT * mel + _COLOUR_WEIGHT * colour
        return {"total": total, "spectral": spectral, "mel": mel, "colour": colour}

    def _distance(self, found: torch.Tensor, wanted: torch.Tensor, length: int) -> torch.Tensor:
        """Spectral convergence, which the loud parts decide, and the distance of logarithms, which the soft ones do."""
        a, b = self._magnitudes(found, length), self._magnitudes(wanted, length)
        convergence = torch.linalg.vector_norm(b - a) / torch.linalg.vector_norm(b).clamp_min(1e-4)
        return convergence + (a.log() - b.log()).abs().mean()

    def _magnitudes(self, wav: torch.Tensor, length: int) -> torch.Tensor:
        window = self.get_buffer(f"window_{length}")
        spectrum = torch.stft(wav, length, length // 4, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp_min(_MAGNITUDE_FLOOR**2).sqrt()


def _colour(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation over the frames of [batch, frames, mels]."""
    variances, means = torch.var_mean(features, dim=1)
    return means, (variances + _MIN_VARIANCE).sqrt()
