"""ConvNeXt over time, the backbone of Vocos, and BiCodec's feature encoder and decoder built from it."""

import torch
from torch import nn
from torch.nn import functional

from build_engines import layout
from build_engines.layout import Config

_NORM_EPS = 1e-6
# The published sampling block adds a convolved path and two skips; at ratio 1 all three are its input.
_UNCHANGED_RATE_GAIN = 3.0


class FeatureEncoder(nn.Module):
    """Features [batch, frames, in] -> latents [batch, frames, out]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, feed_forward = config["vocos_dim"], config["vocos_intermediate_dim"]
        self.encoder = Backbone(config["input_channels"], dim, feed_forward, config["vocos_num_layers"])
        self.downsample = _sampling_stages(config)
        self.project = nn.Linear(dim, config["out_channels"])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.project(self.downsample(self.encoder(features)))


class FeatureDecoder(nn.Module):
    """The prenet: code embeddings [batch, frames, in] and speaker vector [batch, condition] -> [batch, frames, out]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, feed_forward = config["vocos_dim"], config["vocos_intermediate_dim"]
        self.linear_pre = nn.Linear(config["input_channels"], dim)
        self.downsample = _sampling_stages(config)
        self.vocos_backbone = Backbone(dim, dim, feed_forward, config["vocos_num_layers"], config["condition_dim"])
        self.linear = nn.Linear(dim, config["out_channels"])

    def forward(self, codes: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.linear(self.vocos_backbone(self.downsample(self.linear_pre(codes)), condition))


class Backbone(nn.Module):
    """An embedding convolution, ConvNeXt blocks and a norm: [batch, frames, in] -> [batch, frames, dim]."""

    def __init__(
        self, in_channels: int, dim: int, feed_forward_dim: int, num_layers: int, condition_dim: int | None = None
    ) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_channels, dim, layout.CONVNEXT_KERNEL_SIZE, padding=layout.CONVNEXT_KERNEL_SIZE // 2)
        self.norm = _make_norm(dim, condition_dim)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(dim, feed_forward_dim, 1 / num_layers, condition_dim) for _ in range(num_layers)
        )
        self.final_layer_norm = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        x = _normalize(self.norm, _over_time(self.embed, x), condition)
        for block in self.convnext:
            x = block(x, condition)
        return self.final_layer_norm(x)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over time and a feed-forward layer over channels, added to the input."""

    def __init__(self, dim: int, feed_forward_dim: int, scale: float, condition_dim: int | None) -> None:
        super().__init__()
        kernel_size = layout.CONVNEXT_KERNEL_SIZE
        self.dwconv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = _make_norm(dim, condition_dim)
        self.pwconv1 = nn.Linear(dim, feed_forward_dim)
        self.pwconv2 = nn.Linear(feed_forward_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        hidden = _normalize(self.norm, _over_time(self.dwconv, x), condition)
        return x + self.gamma * self.pwconv2(functional.gelu(self.pwconv1(hidden)))


class AdaLayerNorm(nn.Module):
    """A layer norm whose scale and shift come from a condition, [batch, condition], the same for all frames."""

    def __init__(self, dim: int, condition_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Linear(condition_dim, dim)
        self.shift = nn.Linear(condition_dim, dim)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        normalized = functional.layer_norm(x, (self.dim,), eps=_NORM_EPS)
        return normalized * self.scale(condition).unsqueeze(1) + self.shift(condition).unsqueeze(1)


class _UnchangedRate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _UNCHANGED_RATE_GAIN * x


def _sampling_stages(config: Config) -> nn.Sequential:
    """One sampling block and a small backbone per ratio; the ratios are all 1 (`Checkpoint.open` refuses others)."""
    dim, feed_forward = config["vocos_dim"], config["vocos_intermediate_dim"]
    return nn.Sequential(
        *(
            nn.Sequential(_UnchangedRate(), Backbone(dim, dim, feed_forward, layout.NUM_SAMPLING_LAYERS))
            for _ in config["sample_ratios"]
        )
    )


def _make_norm(dim: int, condition_dim: int | None) -> nn.Module:
    return nn.LayerNorm(dim, eps=_NORM_EPS) if condition_dim is None else AdaLayerNorm(dim, condition_dim)


def _normalize(norm: nn.Module, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
    return norm(x) if condition is None else norm(x, condition)


def _over_time(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """A convolution of [batch, frames, channels]."""
    return conv(x.transpose(1, 2)).transpose(1, 2)
