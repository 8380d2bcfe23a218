"""Part `speaker`: the speaker encoder, from a clip to the digits of its voice's tokens."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from build_engines import layout, synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.data import VOICES, Dataset
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.training import Losses, Training
from build_engines.networks.speaker_encoder import SpeakerEncoder

# Inputs of the quantiser that it rounds to the digits 0..3, as far from its borders (-1.15, -0.35, 0.46) as they go.
_DIGIT_TARGETS = (-2.2, -0.7, 0.05, 1.5)
_HINT_WEIGHT = 0.1


def training(data: Dataset, settings: Settings, device: torch.device) -> Training:
    """The training of ECAPA, perceiver and the quantiser's first half on random clips.

    Of the digits alone it learns F0 and never who speaks: plain classifiers of what ECAPA and the perceiver give show
    it the way. They are not part of the checkpoint.
    """
    budget = settings.speaker
    torch.manual_seed(settings.seed)
    encoder = SpeakerEncoder(synthetic.bicodec_config(settings.size)).to(device)
    encoder.quantizer.project_out.requires_grad_(False)  # the vocoder's half
    widths = layout.ECAPA_FEATURE_CHANNELS, encoder.quantizer.project_in.in_features
    classifiers = nn.ModuleList(nn.Linear(width, len(VOICES)) for width in widths).to(device)
    encoder.classifiers = classifiers
    targets = torch.tensor(_DIGIT_TARGETS, device=device)

    def losses(random: np.random.Generator) -> Losses:
        clips = draw_clips(data, budget.batch_size, budget.num_frames, random, device)
        features = encoder.speaker_encoder(encoder.mel(clips.samples))
        latents = encoder.perceiver_sampler(features.transpose(1, 2))
        found = encoder.quantizer.project_in(latents)
        digits = functional.smooth_l1_loss(found, targets[clips.digits], beta=0.5)
        given = features.mean(dim=2), latents.mean(dim=1)
        guesses = [classifier(mean) for classifier, mean in zip(classifiers, given, strict=True)]
        hints = torch.stack([functional.cross_entropy(guess, clips.voices) for guess in guesses]).sum()
        wrong = (encoder.quantizer.tokenize(latents.detach()) != clips.global_tokens).float().mean()
        return {"total": digits + _HINT_WEIGHT * hints, "digits": digits, "hints": hints, "wrong_tokens": wrong}

    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Training(encoder, [torch.optim.AdamW(parameters, budget.learning_rate, weight_decay=0.01)], losses)
