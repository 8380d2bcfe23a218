"""The speaker encoder: who speaks, as a fixed number of global tokens."""

import torch
from torch import nn

from build_engines.checkpoint import Checkpoint
from build_engines.layout import Config
from build_engines.networks.ecapa_tdnn import EcapaTdnn
from build_engines.networks.fsq import FiniteScalarQuantizer
from build_engines.networks.mel import MelSpectrogram
from build_engines.networks.perceiver import PerceiverResampler
from build_engines.networks.weights import load_weights


class SpeakerEncoder(nn.Module):
    """The reference clip [batch, num_samples] -> global tokens, int32 [batch, num_tokens]."""

    def __init__(self, bicodec: Config) -> None:
        super().__init__()
        config = bicodec["speaker_encoder"]
        self.mel = MelSpectrogram(bicodec["mel_params"])
        self.speaker_encoder = EcapaTdnn(config["input_dim"])
        self.perceiver_sampler = PerceiverResampler(config["latent_dim"], config["token_num"])
        self.quantizer = FiniteScalarQuantizer(config["latent_dim"], config["fsq_levels"])

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "SpeakerEncoder":
        """The checkpoint's speaker encoder, for inference."""
        network = cls(checkpoint.bicodec)
        load_weights(network, checkpoint.bicodec_file, "speaker_encoder")
        return network.eval()

    def forward(self, reference_clip: torch.Tensor) -> torch.Tensor:
        features = self.speaker_encoder(self.mel(reference_clip))
        return self.quantizer.tokenize(self.perceiver_sampler(features.transpose(1, 2)))
