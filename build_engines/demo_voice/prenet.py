"""Part `prenet`: from codes and the voice's tokens to features."""

import numpy as np
import torch

from build_engines import synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.codebook import codebook
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.spectra import NUM_PULSES, Features
from build_engines.demo_voice.training import Losses, Training, in_bfloat16, muon_and_adam
from build_engines.networks.vocoder import Vocoder

_PULSE_WEIGHT = 2.0
# Of Muon's. The loss after 900 steps was 0.54 with both, 0.75 with Adam alone, 1.03 at six times the share.
_ADAM_LEARNING_RATE_SHARE = 0.1


def training(data: Dataset, settings: Settings, device: torch.device) -> Training:
    """The training of all of a vocoder that comes before its wave generator."""
    config = synthetic.bicodec_config(settings.size)
    budget = settings.prenet
    vocoder = make_vocoder(data, settings, device)
    del vocoder.decoder
    features = Features(config["mel_params"]).to(device)

    def losses(random: np.random.Generator) -> Losses:
        clips = draw_clips(data, budget.batch_size, budget.num_frames, random, device)
        with in_bfloat16(device):
            found = vocoder.features(clips.global_tokens, clips.semantic_tokens).float()
        wanted = features(clips.samples, clips.told_f0s_hz, clips.ages)
        return feature_distances(found, wanted)

    of_convnext = ("pwconv1.weight", "pwconv2.weight")
    matrices = [parameter for name, parameter in vocoder.prenet.named_parameters() if name.endswith(of_convnext)]
    optimizers = muon_and_adam(vocoder, matrices, budget.learning_rate, _ADAM_LEARNING_RATE_SHARE, beta2=0.99)
    return Training(vocoder, optimizers, losses)


def feature_distances(found: torch.Tensor, wanted: torch.Tensor) -> Losses:
    """Between features [batch, frames, mels]: their parts, and the "total" to descend."""
    distances = (found - wanted).abs()
    mel, pulses = distances[..., :-NUM_PULSES].mean(), distances[..., -NUM_PULSES:].mean()
    return {"total": mel + _PULSE_WEIGHT * pulses, "mel": mel, "pulses": pulses}


def make_vocoder(data: Dataset, settings: Settings, device: torch.device) -> Vocoder:
    """An untrained vocoder with the data's codebook, which stays as it is."""
    torch.manual_seed(settings.seed)
    vocoder = Vocoder(synthetic.bicodec_config(settings.size))
    vocoder.quantizer.codebook.weight.data.copy_(codebook(data.codes))
    vocoder.quantizer.codebook.requires_grad_(False)
    for unused in (vocoder.quantizer.in_project, vocoder.speaker.quantizer.project_in):  # the encoders' halves
        unused.requires_grad_(False)
    return vocoder.to(device)
