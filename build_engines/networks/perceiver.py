"""The perceiver resampler: a fixed number of learnt latents that gather a clip's features by attention."""

import torch
from torch import nn
from torch.nn import functional

from build_engines import layout
from build_engines.networks.attention import attend


class PerceiverResampler(nn.Module):
    """Features [batch, frames, features] of any length -> latents [batch, num_latents, dim]."""

    def __init__(self, dim: int, num_latents: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(0.02 * torch.randn(num_latents, dim))
        self.proj_context = nn.Linear(layout.ECAPA_FEATURE_CHANNELS, dim)
        self.layers = nn.ModuleList(PerceiverLayer(dim) for _ in range(layout.PERCEIVER_NUM_LAYERS))
        self.norm = RmsNorm(dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        context = self.proj_context(features)
        latents = self.latents.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(latents, context)
        return self.norm(latents)


class PerceiverLayer(nn.ModuleList):
    """Attention to the context, then a gated feed-forward layer, each added to the latents."""

    def __init__(self, dim: int) -> None:
        inner_dim = int(dim * layout.PERCEIVER_FEED_FORWARD_RATIO)
        feed_forward = nn.Sequential(nn.Linear(dim, 2 * inner_dim), GatedGelu(), nn.Linear(inner_dim, dim))
        super().__init__([LatentAttention(dim), feed_forward])

    def forward(self, latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        attention, feed_forward = self
        latents = latents + attention(latents, context)
        return latents + feed_forward(latents)


class LatentAttention(nn.Module):
    """Attention from the latents to the latents and the context, in this order."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        attention_dim = layout.PERCEIVER_NUM_HEADS * layout.PERCEIVER_HEAD_DIM
        self.to_q = nn.Linear(dim, attention_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * attention_dim, bias=False)
        self.to_out = nn.Linear(attention_dim, dim, bias=False)

    def forward(self, latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        keys, values = self.to_kv(torch.cat([latents, context], dim=1)).chunk(2, dim=-1)
        return self.to_out(attend(self.to_q(latents), keys, values, layout.PERCEIVER_NUM_HEADS))


class RmsNorm(nn.Module):
    """Vectors scaled to a root mean square of `gamma`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(x, dim=-1) * self.scale * self.gamma


class GatedGelu(nn.Module):
    """The first half of the channels times the GELU of the second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values, gate = x.chunk(2, dim=-1)
        return values * functional.gelu(gate)
