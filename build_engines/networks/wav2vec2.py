"""wav2vec2 (large, with stable layer norm), cut behind the last layer whose output is used."""

import torch
from torch import nn
from torch.nn import functional

from build_engines import layout
from build_engines.layout import Config
from build_engines.networks.attention import attend

_NORMALIZATION_EPS = 1e-7  # of the published feature extractor


class Wav2Vec2(nn.Module):
    """Samples [batch, num_samples] at 16 kHz -> the mean of the chosen hidden states, [batch, frames, hidden]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = Encoder(config)

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.feature_projection(self.feature_extractor(normalize(wav))))


def normalize(wav: torch.Tensor) -> torch.Tensor:
    """Each clip with mean 0 and variance 1, as wav2vec2's feature extractor does it."""
    centred = wav - wav.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + _NORMALIZATION_EPS).sqrt()


class FeatureExtractor(nn.Module):
    """Strided convolutions: [batch, num_samples] -> [batch, frames, channels], 50 frames a second."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = [1, *config["conv_dim"]]
        self.conv_layers = nn.ModuleList(
            FeatureConv(in_channels, out_channels, kernel_size, stride)
            for in_channels, out_channels, kernel_size, stride in zip(
                channels[:-1], channels[1:], config["conv_kernel"], config["conv_stride"], strict=True
            )
        )

    def forward(self, wav: torch.Tensor) -> torch.Tensor:
        x = wav.unsqueeze(2)
        for layer in self.conv_layers:
            x = layer(x)
        return x


class FeatureConv(nn.Module):
    """Convolution, layer norm over channels, GELU, on [batch, frames, channels]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride)
        self.layer_norm = nn.LayerNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.layer_norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class FeatureProjection(nn.Module):
    """A norm and a linear layer into the encoder's size."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config["conv_dim"][-1]
        self.layer_norm = nn.LayerNorm(channels, eps=config["layer_norm_eps"])
        self.projection = nn.Linear(channels, config["hidden_size"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(self.layer_norm(x))


class Encoder(nn.Module):
    """Transformer layers up to the last hidden state used: [batch, frames, hidden] -> the mean of the used ones."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConv(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layout.NUM_WAV2VEC2_LAYERS))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.pos_conv_embed(hidden)
        used = []
        for index, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden)
            if index in layout.WAV2VEC2_HIDDEN_STATES:
                used.append(hidden)
        return sum(used[1:], start=used[0]) / len(used)


class PositionalConv(nn.Module):
    """A wide grouped convolution that tells each frame where it stands."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        kernel_size = config["num_conv_pos_embeddings"]
        groups = config["num_conv_pos_embedding_groups"]
        hidden = config["hidden_size"]
        self.conv = nn.Conv1d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=groups)
        self.num_surplus_frames = 1 - kernel_size % 2  # an even kernel makes one frame too many

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = self.conv(hidden.transpose(1, 2))
        if self.num_surplus_frames:
            positions = positions[:, :, : -self.num_surplus_frames]
        return functional.gelu(positions).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm = nn.LayerNorm(hidden, eps=eps)
        self.attention = SelfAttention(hidden, config["num_attention_heads"])
        self.final_layer_norm = nn.LayerNorm(hidden, eps=eps)
        self.feed_forward = FeedForward(hidden, config["intermediate_size"])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.layer_norm(hidden))
        return hidden + self.feed_forward(self.final_layer_norm(hidden))


class SelfAttention(nn.Module):
    """Multi-head attention of all frames to all frames: a clip has no padding here."""

    def __init__(self, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.q_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        attended = attend(self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden), self.num_heads)
        return self.out_proj(attended)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(hidden, intermediate)
        self.output_dense = nn.Linear(intermediate, hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.output_dense(functional.gelu(self.intermediate_dense(hidden)))
