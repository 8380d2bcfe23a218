"""Part `semantic`: wav2vec2 and the semantic encoder, from samples to the code of each frame."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from build_engines import synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.codebook import codebook, unused_direction
from build_engines.demo_voice.codes import NUM_AGES, SemanticCodes
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.training import Losses, Training, in_bfloat16
from build_engines.networks.semantic_encoder import SemanticEncoder

_SHARPNESS = 20.0  # of the softmax over cosines: the nearest other phoneme is about 0.25 further off


def make_encoder(data: Dataset, settings: Settings) -> SemanticEncoder:
    """An untrained encoder with the data's codebook, whose upper wav2vec2 layers pass on what they get."""
    torch.manual_seed(settings.seed)
    encoder = SemanticEncoder(synthetic.bicodec_config(settings.size), synthetic.wav2vec2_config(settings.size))
    layers = encoder.wav2vec2.encoder.layers
    for index in range(settings.num_trained_wav2vec2_layers, len(layers)):
        layers[index] = nn.Identity()
    encoder.quantizer.codebook.weight.data.copy_(codebook(data.codes))
    encoder.quantizer.codebook.requires_grad_(False)
    encoder.quantizer.out_project.requires_grad_(False)  # the vocoder's half
    return encoder


class Hearing(nn.Module):
    """How clearly the directions that an encoder finds are those of the classes that were said."""

    used: torch.Tensor
    of_phonemes: torch.Tensor

    def __init__(self, codes: SemanticCodes) -> None:
        super().__init__()
        used = codebook(codes)[torch.from_numpy(codes.codes)]
        of_phonemes = functional.normalize(used.unflatten(0, (codes.num_phonemes, NUM_AGES)).mean(dim=1), dim=1)
        self.register_buffer("used", used)
        # the unused codes are one more phoneme, which is never right
        self.register_buffer("of_phonemes", torch.cat([of_phonemes, unused_direction()[None]]))

    def forward(self, found: torch.Tensor, wanted: torch.Tensor) -> Losses:
        """Of directions [batch, 8, frames] and classes [batch, frames]: how far off, and how many are right."""
        logits = _SHARPNESS * torch.einsum("bdt,cd->bct", found, self.of_phonemes)
        phoneme = functional.cross_entropy(logits, wanted // NUM_AGES)
        # the ages of a phoneme are too near each other for a softmax: it would know the outer ones only
        age = _SHARPNESS * (1 - (found * self.used[wanted].transpose(1, 2)).sum(dim=1)).mean()
        with torch.no_grad():
            classes = torch.einsum("bdt,cd->bct", found, self.used).argmax(dim=1)
            right_phonemes = (classes // NUM_AGES == wanted // NUM_AGES).float().mean()
            right_frames = (classes == wanted).float().mean()
        return {"phoneme": phoneme, "age": age, "right_phonemes": right_phonemes, "right_frames": right_frames}


def directions(encoder: SemanticEncoder, latents: torch.Tensor) -> torch.Tensor:
    """Where in the codebook an encoder's latents [batch, frames, latent] lie: [batch, 8, frames] of length 1."""
    return functional.normalize(encoder.quantizer.in_project(latents.transpose(1, 2)), dim=1)


def training(data: Dataset, settings: Settings, device: torch.device) -> Training:
    """The encoder's training on random clips: each frame's direction towards its own code among those there are.

    Behind the eight dimensions of a direction alone it does not find out of saying the same always: two plain
    classifiers, one of what each of its halves gives, show it the way. They are not part of the checkpoint.
    """
    budget = settings.semantic
    encoder = make_encoder(data, settings)
    widths = settings.size.wav2vec2_hidden_size, encoder.encoder.project.out_features
    classifiers = nn.ModuleList(nn.Linear(width, data.codes.num_classes) for width in widths)
    encoder.classifiers = classifiers
    encoder.to(device)
    hearing = Hearing(data.codes).to(device)

    def losses(random: np.random.Generator) -> Losses:
        clips = draw_clips(data, budget.batch_size, budget.num_frames, random, device)
        with in_bfloat16(device):
            features = encoder.wav2vec2(clips.samples)
            latents = encoder.encoder(features).float()
        wanted = clips.classes[:, : latents.shape[1]]  # wav2vec2 gives no frame for the last samples
        heard = hearing(directions(encoder, latents), wanted)
        hints = [
            functional.cross_entropy(classifier(given).transpose(1, 2), wanted)
            for classifier, given in zip(classifiers, (features.float(), latents), strict=True)
        ]
        return {**heard, "total": heard["phoneme"] + heard["age"] + sum(hints), "hint": hints[0]}

    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Training(encoder, [torch.optim.AdamW(parameters, budget.learning_rate, weight_decay=0.01)], losses)
