"""Part `speaker`: the speaker encoder, from a reference to the digits of its voice's tokens."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from build_engines import layout, synthetic
from build_engines.demo_voice.clips import draw_begin
from build_engines.demo_voice.codes import (
    NUM_VOICE_DIGITS,
    SAMPLES_PER_FRAME,
    global_digits,
    global_tokens,
    tells_f0,
)
from build_engines.demo_voice.data import VOICES, Dataset
from build_engines.demo_voice.settings import Budget, Settings
from build_engines.demo_voice.training import Losses, Training, in_bfloat16
from build_engines.networks.speaker_encoder import SpeakerEncoder
from tritone.audio import reference_clip

# Inputs of the quantiser that it rounds to the digits 0..3, as far from its borders (-1.15, -0.35, 0.46) as they go.
_DIGIT_TARGETS = (-2.2, -0.7, 0.05, 1.5)
_HINT_WEIGHT = 0.1
# The six digits that tell an F0 from its neighbours are few among 192: as much worth as the others they came out at
# random, and of thermometers that are down below and up above the vocoder makes an F0 an octave too low. From the start
# they would keep it from learning who speaks.
_F0_WEIGHT = 15.0
_KNOWN_DISTANCE = 0.3  # of a voice's digits from their targets, which lie 3.7 from each other


def training(data: Dataset, settings: Settings, device: torch.device) -> Training:
    """The training of ECAPA, perceiver and the quantiser's first half on references, which repeat as in use.

    F0 is an utterance's median, so of most it hears all. Of the digits alone it learns F0 and never who speaks: plain
    classifiers of what ECAPA and the perceiver give show it the way. They are not part of the checkpoint.
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
        given = _draw(data, budget, random, device)
        mels = encoder.mel(given.samples)
        with in_bfloat16(device):
            features = encoder.speaker_encoder(mels)
            latents = encoder.perceiver_sampler(features.transpose(1, 2)).float()
        found = encoder.quantizer.project_in(latents)
        distances = functional.smooth_l1_loss(found, targets[given.digits], beta=0.5, reduction="none")
        is_known = distances[..., :NUM_VOICE_DIGITS].detach().mean(dim=(1, 2), keepdim=True) < _KNOWN_DISTANCE
        digits = torch.where(given.tell_f0 & is_known, _F0_WEIGHT * distances, distances).mean()
        means = features.float().mean(dim=2), latents.mean(dim=1)
        guesses = [classifier(mean) for classifier, mean in zip(classifiers, means, strict=True)]
        hints = torch.stack([functional.cross_entropy(guess, given.voices) for guess in guesses]).sum()
        wrong = (encoder.quantizer.tokenize(latents.detach()) != given.tokens).float().mean()
        return {"total": digits + _HINT_WEIGHT * hints, "digits": digits, "hints": hints, "wrong_tokens": wrong}

    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, budget.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return Training(encoder, [optimizer], losses)


class _References(NamedTuple):
    """Clips [batch, samples], their voices' digits [batch, 32, 6] and tokens [batch, 32], who speaks [batch].

    `tell_f0` are the digits that tell F0 from a neighbouring one, bool of their shape.
    """

    samples: torch.Tensor
    digits: torch.Tensor
    tell_f0: torch.Tensor
    tokens: torch.Tensor
    voices: torch.Tensor


def _draw(data: Dataset, budget: Budget, generator: np.random.Generator, device: torch.device) -> _References:
    """Each of another utterance: all of it, repeated, or some of it where it is longer."""
    clips, utterances = [], []
    for index in generator.integers(len(data), size=budget.batch_size):
        begin = draw_begin(data, index, budget.num_frames, generator)
        clips.append(reference_clip(data.waveform(index, begin), budget.num_frames * SAMPLES_PER_FRAME))
        utterances.append(data.utterances[index])
    digits = np.stack([global_digits(utterance.voice, utterance.f0_hz) for utterance in utterances])
    voices = np.array([utterance.voice for utterance in utterances])
    arrays = np.stack(clips), digits, tells_f0(digits), global_tokens(digits), voices
    return _References(*(torch.from_numpy(array).to(device) for array in arrays))
