"""What sounds are compared by: log-mel features, where pulses lie, and spectra at several resolutions."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from build_engines.layout import Config
from build_engines.networks.mel import MelSpectrogram, mel_filters

# What lies 80 dB below the loudest is not heard, and nothing is spent on it.
_MEL_FLOOR, _MAGNITUDE_FLOOR = 3e-4, 1e-2
# Bring log-mel magnitudes of normalised speech to about mean 0 and deviation 1.
_MEAN, _DEVIATION = -5.5, 2.5
_RESOLUTIONS = (256, 512, 1024, 2048)  # window lengths of 16 to 128 ms: pulses, and the harmonics of 80 Hz
_MIN_VARIANCE = 1e-4  # keeps the gradient of the square root finite in silence
_MIN_POWER = 1e-4  # of a clip: nearly silent ones do not count for more
_MEL_WEIGHT, _BANDS_WEIGHT, _COLOUR_WEIGHT, _TINT_WEIGHT, _SAMPLES_WEIGHT = 2.0, 3.0, 18.0, 18.0, 2.0
_BANDS_WINDOW, _NUM_BANDS = 512, 40  # the window is one of the resolutions
_NUM_CEPSTRA = 16  # what is finer tells how rough a sound is, not whose it is
_BAND_DEVIATION = 5.0  # of the logarithm of a power, for about deviation 1 of that of its root
_AUDIBLE = 0.02  # of the loudest frame's power: a voice's colour is heard in such frames
_MAX_PULSE_WINDOW = 2048  # samples: four periods of 31 Hz
_PULSE_PERIODS = 4
_SOFT = 0.1  # a frame's amplitude: in much softer ones nothing is heard


@dataclass(frozen=True)
class _Partial:
    """A sine among a voice's pulses.

    Attributes:
        share: its frequency, of F0.
        amplitude: what it has at least where it is clearly heard, of the frame's.
        num_moments: of a frame, at which its phase is told: more in a second than it has periods, so that it differs
            from every other frequency.
    """

    share: float
    amplitude: float
    num_moments: int


# Of a rough voice every other pulse is softer, by which it has half of F0 too. Which ones, F0's phase does not tell:
# without half of it espeak's two rough voices were too clean, by 10 dB between the harmonics, and one was at times
# heard as a man's.
_PARTIALS = (_Partial(1.0, 0.1, 8), _Partial(0.5, 0.01, 4))
NUM_PULSES = 2 * sum(partial.num_moments for partial in _PARTIALS)


class LogMel(nn.Module):
    """Samples [batch, frames * hop] -> features [batch, frames, mels], one frame per token."""

    def __init__(self, mel_params: Config) -> None:
        super().__init__()
        self.mel = MelSpectrogram(mel_params)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        features = (self.mel(wav)[:, :, :-1].clamp_min(_MEL_FLOOR).log() - _MEAN) / _DEVIATION
        return features.transpose(1, 2)


class Features(nn.Module):
    """What lies between a vocoder's halves: samples [batch, frames * hop], F0s [batch] in Hz -> [batch, frames, mels].

    Log-mel features, of the highest every other one alone: they overlap by half. So there is room for `NUM_PULSES` that
    tell a voice's pulses: sine and cosine of the phases of the fundamental and of half of it at some moments of a
    frame, 0 where they are not heard. Mels alone are the same in every frame of a steady sound, and what a convolution
    makes of them repeats with the frames, not with the pulses.
    """

    told_mels: torch.Tensor

    def __init__(self, mel_params: Config) -> None:
        super().__init__()
        self.log_mel = LogMel(mel_params)
        self.sample_rate_hz, self.hop_length = mel_params["sample_rate"], mel_params["hop_length"]
        num_mels = mel_params["num_mels"]
        left_out = range(num_mels - 2 * NUM_PULSES, num_mels, 2)
        told_mels = [mel for mel in range(num_mels) if mel not in left_out]
        self.register_buffer("told_mels", torch.tensor(told_mels), persistent=False)

    def forward(self, wav: torch.Tensor, f0s_hz: torch.Tensor, ages: torch.Tensor | None = None) -> torch.Tensor:
        """Of sounds whose frames `ages` [batch, frames] number, the pulses are counted from the beginning of each.

        These can be told from codes and F0, unlike the true ones, which go on from sound to sound.
        """
        return torch.cat([self.log_mel(wav)[..., self.told_mels], self.pulses(wav, f0s_hz, ages)], dim=2)

    def pulses(self, wav: torch.Tensor, f0s_hz: torch.Tensor, ages: torch.Tensor | None = None) -> torch.Tensor:
        """The last features alone, [batch, frames, `NUM_PULSES`]."""
        half = _MAX_PULSE_WINDOW // 2
        frames = functional.pad(wav, (half, half)).unfold(1, _MAX_PULSE_WINDOW, self.hop_length)[:, :-1]
        told = []
        for partial in _PARTIALS:
            frequencies_hz = partial.share * f0s_hz.unsqueeze(1)
            strength, phase = self._heard(frames, frequencies_hz, partial.amplitude)
            if ages is not None:
                phase = 2 * math.pi * frequencies_hz * ages * self.hop_length / self.sample_rate_hz
            moments = torch.arange(partial.num_moments, device=wav.device) - (partial.num_moments - 1) / 2
            moments_s = moments / partial.num_moments * self.hop_length / self.sample_rate_hz
            angles = phase.unsqueeze(2) + 2 * math.pi * frequencies_hz.unsqueeze(2) * moments_s
            told += [strength.unsqueeze(2) * wave for wave in (angles.sin(), angles.cos())]
        return torch.cat(told, dim=2)

    def _heard(
        self, frames: torch.Tensor, frequencies_hz: torch.Tensor, least_amplitude: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How well a sine is heard, at most 1, and its phase at the middle of `frames` [batch, frames, window]."""
        half = frames.shape[2] // 2
        periods = frequencies_hz * torch.arange(-half, half, device=frames.device) / self.sample_rate_hz
        window = torch.where(
            periods.abs() < _PULSE_PERIODS / 2, 0.5 + 0.5 * torch.cos(2 * math.pi * periods / _PULSE_PERIODS), 0
        )
        window = window / window.sum(dim=1, keepdim=True)
        cosine, sine = (
            torch.einsum("bfn,bn->bf", frames, window * basis)
            for basis in (torch.cos(2 * math.pi * periods), -torch.sin(2 * math.pi * periods))
        )
        loudness = torch.einsum("bfn,bn->bf", frames.square(), window).sqrt()
        amplitude = 2**0.5 * (cosine.square() + sine.square()).sqrt()
        return (amplitude / (least_amplitude * (loudness + _SOFT))).clamp_max(1), torch.atan2(sine, cosine)


class WaveLoss(nn.Module):
    """How far samples [batch, n] are from others by ear: spectra at all resolutions, mel features, bands, the colour.

    Colour is the mean power of each band over a clip's audible frames and the deviation from it, which tell one voice
    from another: errors that are small in every frame but all on one side add up in them, and what is blurred deviates
    too little. A spectrum's shape does so even where each band's own is right, so the cepstrum's are compared too.
    Tint is what the colours of all clips have too much of: what cannot be foretold, such as noise and where between two
    pulses something lies, is best guessed with too little power, in every voice alike.
    Where the pulses are the same, samples are compared one by one too: by spectra alone no generator found out of
    making noise of low voices. Where they are not, what shows single pulses is left out.
    """

    bands: torch.Tensor
    cosines: torch.Tensor

    def __init__(self, mel_params: Config) -> None:
        super().__init__()
        self.log_mel = LogMel(mel_params)
        rate_hz = mel_params["sample_rate"]
        filters = mel_filters(rate_hz, _BANDS_WINDOW, _NUM_BANDS, mel_params["mel_fmin"], rate_hz / 2)
        self.register_buffer("bands", filters / filters.sum(dim=1, keepdim=True), persistent=False)
        places = (torch.arange(_NUM_BANDS) + 0.5) / _NUM_BANDS
        cosines = torch.cos(math.pi * torch.outer(torch.arange(_NUM_CEPSTRA), places))
        self.register_buffer("cosines", cosines / cosines.norm(dim=1, keepdim=True), persistent=False)
        for length in _RESOLUTIONS:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(
        self, found: torch.Tensor, wanted: torch.Tensor, num_same: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Their parts, and the "total" to descend; the first `num_same` have the same pulses, all unless said."""
        same = slice(num_same)
        magnitudes = {
            length: (self._magnitudes(found, length), self._magnitudes(wanted, length)) for length in _RESOLUTIONS
        }
        spectral = torch.stack([_distance(a[same], b[same]) for a, b in magnitudes.values()]).mean()
        mel = (self.log_mel(found) - self.log_mel(wanted)).abs().mean()
        found_powers, wanted_powers = (each.square() for each in magnitudes[_BANDS_WINDOW])
        found_bands, wanted_bands = (self._log_bands(powers) for powers in (found_powers, wanted_powers))
        bands = (found_bands - wanted_bands).abs().mean()
        loudness = wanted_powers.sum(dim=1)
        audible = (loudness >= _AUDIBLE * loudness.amax(dim=1, keepdim=True)).float()
        too_much = self._colour(found_bands, audible) - self._colour(wanted_bands, audible)
        colour, tint = too_much.abs().mean(), too_much.mean(dim=0).abs().mean()
        errors = (found - wanted)[same].square().mean(dim=1) / (wanted[same].square().mean(dim=1) + _MIN_POWER)
        samples = errors.mean()
        by_ear = spectral + _MEL_WEIGHT * mel + _BANDS_WEIGHT * bands + _COLOUR_WEIGHT * colour + _TINT_WEIGHT * tint
        parts = {"spectral": spectral, "mel": mel, "bands": bands, "colour": colour, "tint": tint, "samples": samples}
        return {"total": by_ear + _SAMPLES_WEIGHT * samples, **parts}

    def _log_bands(self, powers: torch.Tensor) -> torch.Tensor:
        """Of [batch, frequencies, frames]: [batch, bands, frames]."""
        return torch.matmul(self.bands, powers).log() / _BAND_DEVIATION

    def _colour(self, bands: torch.Tensor, audible: torch.Tensor) -> torch.Tensor:
        """Of [batch, bands, frames] over the `audible` frames [batch, frames]: [batch, 2 * (bands + cepstra)]."""
        weights = (audible / audible.sum(dim=1, keepdim=True)).unsqueeze(1)
        shapes = torch.cat([bands, torch.matmul(self.cosines, bands)], dim=1)
        means = (weights * shapes).sum(dim=2, keepdim=True)
        variances = (weights * (shapes - means).square()).sum(dim=2)
        return torch.cat([means[:, :, 0], (variances + _MIN_VARIANCE).sqrt()], dim=1)

    def _magnitudes(self, wav: torch.Tensor, length: int) -> torch.Tensor:
        window = self.get_buffer(f"window_{length}")
        spectrum = torch.stft(wav, length, length // 4, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp_min(_MAGNITUDE_FLOOR**2).sqrt()


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Spectral convergence, which the loud parts decide, and the distance of logarithms, which the soft ones do."""
    convergence = torch.linalg.vector_norm(wanted - found) / torch.linalg.vector_norm(wanted).clamp_min(1e-4)
    return convergence + (found.log() - wanted.log()).abs().mean()
