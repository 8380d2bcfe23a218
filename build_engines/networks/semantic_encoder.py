"""The semantic encoder: what is said, 50 tokens a second."""

import torch
from torch import nn

from build_engines.checkpoint import Checkpoint
from build_engines.layout import Config
from build_engines.networks.convnext import FeatureEncoder
from build_engines.networks.semantic_codebook import SemanticCodebook
from build_engines.networks.wav2vec2 import Wav2Vec2
from build_engines.networks.weights import load_weights


class SemanticEncoder(nn.Module):
    """Volume-normalised samples [batch, num_samples] -> semantic tokens, int32 [batch, frames].

    Clips of a batch must have one length: padding would change the tokens of the shorter ones.
    """

    def __init__(self, bicodec: Config, wav2vec2: Config) -> None:
        super().__init__()
        self.wav2vec2 = Wav2Vec2(wav2vec2)
        self.encoder = FeatureEncoder(bicodec["encoder"])
        self.quantizer = SemanticCodebook(bicodec["quantizer"])

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "SemanticEncoder":
        """The checkpoint's semantic encoder, for inference."""
        network = cls(checkpoint.bicodec, checkpoint.wav2vec2)
        load_weights(network.wav2vec2, checkpoint.wav2vec2_file, "wav2vec2")
        load_weights(network.encoder, checkpoint.bicodec_file, "encoder")
        load_weights(network.quantizer, checkpoint.bicodec_file, "quantizer")
        return network.eval()

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        return self.quantizer.tokenize(self.encoder(self.wav2vec2(wav)))
