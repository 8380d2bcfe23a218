"""Finite scalar quantisation: each dimension of a short vector rounds to a few levels; the digits make one token."""

import math

import torch
from torch import nn
from torch.nn import functional

_BOUND_MARGIN = 1e-3  # keeps the outermost levels reachable


class FiniteScalarQuantizer(nn.Module):
    """Vectors [..., dim] <-> tokens [...] of prod(levels) values; the first level is the least significant digit."""

    levels: torch.Tensor
    half_widths: torch.Tensor
    places: torch.Tensor
    codebook: torch.Tensor

    def __init__(self, dim: int, levels: list[int]) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, len(levels))
        self.project_out = nn.Linear(len(levels), dim)
        places = [math.prod(levels[:index]) for index in range(len(levels))]
        tokens = torch.arange(math.prod(levels))
        digits = torch.stack([tokens // place % level for place, level in zip(places, levels, strict=True)], dim=1)
        half_widths = torch.tensor([level // 2 for level in levels])
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.register_buffer("half_widths", half_widths.float(), persistent=False)
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32), persistent=False)
        self.register_buffer("codebook", (digits - half_widths) / half_widths, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The quantised vectors, with the gradient of the unrounded ones."""
        return self.project_out(self._round(self.project_in(x)) / self.half_widths)

    def tokenize(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> int32 tokens [...]."""
        digits = self._round(self.project_in(x)) + self.half_widths
        return (digits * self.places).sum(dim=-1).to(torch.int32)

    def detokenize(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [...] -> [..., dim]."""
        return self.project_out(functional.embedding(tokens, self.codebook))

    def _round(self, x: torch.Tensor) -> torch.Tensor:
        """Squash each dimension into its range and round it to whole steps around 0."""
        half_range = (self.levels - 1) * (1 + _BOUND_MARGIN) / 2
        # An even number of levels has no middle one: 0 lies half a step off, and the shift makes 0 map to 0.
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(x + torch.atanh(offset / half_range)) * half_range - offset
        return bounded + (bounded.round() - bounded).detach()
