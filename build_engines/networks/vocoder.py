"""The vocoder: global and semantic tokens back to a waveform."""

import torch
from torch import nn

from build_engines import layout
from build_engines.checkpoint import Checkpoint
from build_engines.layout import Config
from build_engines.networks.convnext import FeatureDecoder
from build_engines.networks.fsq import FiniteScalarQuantizer
from build_engines.networks.semantic_codebook import SemanticCodebook
from build_engines.networks.wave_generator import WaveGenerator, wave_generator_field_tokens
from build_engines.networks.weights import load_weights


class Vocoder(nn.Module):
    """Global tokens [batch, 32] and semantic tokens [batch, m] -> samples [batch, hop * m] in -1..1."""

    def __init__(self, bicodec: Config) -> None:
        super().__init__()
        self.quantizer = SemanticCodebook(bicodec["quantizer"])
        self.speaker = SpeakerVector(bicodec["speaker_encoder"])
        self.prenet = FeatureDecoder(bicodec["prenet"])
        self.decoder = WaveGenerator(bicodec["decoder"])

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "Vocoder":
        """The checkpoint's vocoder, for inference."""
        network = cls(checkpoint.bicodec)
        file = checkpoint.bicodec_file
        load_weights(network.quantizer, file, "quantizer")
        load_weights(network.speaker, file, "speaker_encoder")
        load_weights(network.prenet, file, "prenet")
        load_weights(network.decoder, file, "decoder")
        return network.eval()

    def forward(self, global_tokens: torch.Tensor, semantic_tokens: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.features(global_tokens, semantic_tokens).transpose(1, 2))

    def features(self, global_tokens: torch.Tensor, semantic_tokens: torch.Tensor) -> torch.Tensor:
        """What the wave generator makes samples of: one frame a token, [batch, m, channels]."""
        speaker = self.speaker(global_tokens)
        return self.prenet(self.quantizer.detokenize(semantic_tokens), speaker) + speaker.unsqueeze(1)


class VocoderFeatures(nn.Module):
    """The first half of a vocoder as a graph of its own: its tokens -> features [batch, m, channels]."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, global_tokens: torch.Tensor, semantic_tokens: torch.Tensor) -> torch.Tensor:
        return self.vocoder.features(global_tokens, semantic_tokens)


class VocoderWaves(nn.Module):
    """The second half, on windows: features [batch, frames, channels], mask [batch, frames] -> samples [batch, n].

    They are those of all frames but `wave_generator_field_tokens` at both ends.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.decoder = vocoder.decoder

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.decoder(features.transpose(1, 2), mask)


class SpeakerVector(nn.Module):
    """Global tokens [batch, num_tokens] -> the vector that stands for the voice, [batch, out_dim]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.quantizer = FiniteScalarQuantizer(config["latent_dim"], config["fsq_levels"])
        self.project = nn.Linear(config["latent_dim"] * config["token_num"], config["out_dim"])

    def forward(self, global_tokens: torch.Tensor) -> torch.Tensor:
        latents = self.quantizer.detokenize(global_tokens)
        return self.project(latents.transpose(1, 2).flatten(1))  # the tokens of one latent channel side by side


def receptive_field_tokens(bicodec: Config) -> int:
    """How many semantic tokens to either side of its own a sample depends on.

    With so much context a window of tokens gives the same samples as the whole utterance.
    """
    return prenet_field_tokens(bicodec["prenet"]) + wave_generator_field_tokens(bicodec["decoder"])


def prenet_field_tokens(config: Config) -> int:
    """How many tokens to either side a frame depends on in the prenet alone: half a kernel per convolution."""
    num_sampling_convs = len(config["sample_ratios"]) * (1 + layout.NUM_SAMPLING_LAYERS)
    num_backbone_convs = 1 + config["vocos_num_layers"]
    return (num_sampling_convs + num_backbone_convs) * (layout.CONVNEXT_KERNEL_SIZE // 2)
