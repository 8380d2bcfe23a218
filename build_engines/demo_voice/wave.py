"""Part `wave`: the wave generator alone, from true features to samples."""

import numpy as np
import torch

from build_engines import synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.spectra import Features, WaveLoss
from build_engines.demo_voice.training import Losses, Training, fuse, in_bfloat16, muon_and_adam
from build_engines.networks.wave_generator import WaveGenerator

# Of Muon's, for the last kernel, biases and activations. After 300 steps the loss was 7.9, with Adam alone 9.4.
_ADAM_LEARNING_RATE_SHARE = 0.1


def training(data: Dataset, settings: Settings, device: torch.device) -> Training:
    """The wave generator's training on random clips."""
    config = synthetic.bicodec_config(settings.size)
    budget = settings.wave
    torch.manual_seed(settings.seed)
    generator = WaveGenerator(config["decoder"]).to(device)
    fuse(generator, settings)
    features, distance = Features(config["mel_params"]).to(device), WaveLoss(config["mel_params"]).to(device)

    def losses(random: np.random.Generator) -> Losses:
        clips = draw_clips(data, budget.batch_size, budget.num_frames, random, device)
        given = features(clips.samples, clips.f0s_hz).transpose(1, 2)
        with in_bfloat16(device):
            found = generator(given)
        return distance(found.float(), clips.samples)

    kernels = [parameter for parameter in generator.parameters() if parameter.ndim == 3 and len(parameter) > 1]
    optimizers = muon_and_adam(generator, kernels, budget.learning_rate, _ADAM_LEARNING_RATE_SHARE, beta2=0.99)
    return Training(generator, optimizers, losses)
