"""The wave generator: transposed convolutions raise the frame rate step by step to the sample rate."""

import math
import operator
from itertools import accumulate, pairwise

import torch
from torch import nn

from build_engines import layout
from build_engines.layout import Config


class WaveGenerator(nn.Module):
    """Features [batch, channels, frames] -> samples [batch, frames * hop] in -1..1.

    With a mask [batch, frames] they are a window: the frames of one stretch of an utterance with so many on both sides
    as its samples depend on (`wave_generator_field_tokens`), and the samples are those of the stretch alone. The mask
    has zeros where the utterance does not reach, which is then exactly as if nothing were there: so windows of one size
    can hold stretches of any length, and begin and end where the utterance does.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        kernel_size = layout.WAVE_KERNEL_SIZE
        stages = list(zip(config["rates"], config["kernel_sizes"], strict=True))
        channels = [config["channels"] // 2**index for index in range(len(stages) + 1)]
        blocks = [
            UpsamplingBlock(in_channels, out_channels, rate, rate_kernel_size)
            for (in_channels, out_channels), (rate, rate_kernel_size) in zip(pairwise(channels), stages, strict=True)
        ]
        self.model = nn.Sequential(
            nn.Conv1d(config["input_channel"], channels[0], kernel_size, padding=kernel_size // 2),
            *blocks,
            Snake(channels[-1]),
            nn.Conv1d(channels[-1], 1, kernel_size, padding=kernel_size // 2),
            nn.Tanh(),
        )
        fields, hops = _fields_tokens(config), list(accumulate(config["rates"], operator.mul))
        # frames that nothing depends on any more behind a block, on each side
        self._num_cut = [hop * (before - after) for hop, (before, after) in zip(hops, pairwise(fields), strict=True)]
        self._num_cut_samples = hops[-1] * fields[-1]

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        first, *blocks, snake, last, tanh = self.model
        present = None if mask is None else mask.unsqueeze(1)
        x = first(_masked(features, present))
        for block, num_cut in zip(blocks, self._num_cut, strict=True):
            x, present = block(x, present)
            if present is not None:
                x, present = _cut(x, num_cut), _cut(present, num_cut)
        samples = tanh(last(_masked(snake(x), present))).squeeze(1)
        return samples if present is None else _cut(samples, self._num_cut_samples)


class UpsamplingBlock(nn.Module):
    """`rate` times as many frames of fewer channels, then residual units of growing dilation."""

    def __init__(self, in_channels: int, out_channels: int, rate: int, kernel_size: int) -> None:
        super().__init__()
        self.rate = rate
        padding = upsampling_padding(rate, kernel_size)
        self.block = nn.Sequential(
            Snake(in_channels),
            nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=rate, padding=padding),
            *(ResidualUnit(out_channels, dilation) for dilation in layout.WAVE_DILATIONS),
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The frames [batch, channels, frames] and their mask [batch, 1, frames], at the higher rate."""
        snake, upsample, *units = self.block
        x = upsample(_masked(snake(x), mask))
        if mask is not None:
            mask = mask.unsqueeze(-1).expand(-1, -1, -1, self.rate).flatten(2)
        for unit in units:
            x = unit(x, mask)
        return x, mask


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution behind snakes, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        kernel_size = layout.WAVE_KERNEL_SIZE
        padding = dilation * (kernel_size // 2)
        self.block = nn.Sequential(
            Snake(channels),
            nn.Conv1d(channels, channels, kernel_size, padding=padding, dilation=dilation),
            Snake(channels),
            nn.Conv1d(channels, channels, kernel_size=1),
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        snake, *rest = self.block
        y = _masked(snake(x), mask)
        for layer in rest:
            y = layer(y)
        return x + y


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha: an activation with a learnt period per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


def _masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """What a convolution shall see: zeros where the mask has them, as its own padding has beyond the ends."""
    return x if mask is None else x * mask


def _cut(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Without so many frames at both ends of the last axis."""
    return x[..., num_frames : x.shape[-1] - num_frames]


def upsampling_padding(rate: int, kernel_size: int) -> int:
    """Cuts what a transposed convolution makes beyond `rate` times its input."""
    return (kernel_size - rate) // 2


def wave_generator_field_tokens(config: Config) -> int:
    """How many tokens to either side of its own a sample depends on, in the wave generator alone."""
    return _fields_tokens(config)[0]


def _fields_tokens(config: Config) -> list[int]:
    """How many tokens' frames to either side a token's samples depend on: of the features, then of each block's output.

    The later the fewer: most of the field lies before the frames become many.
    """
    reach = layout.WAVE_KERNEL_SIZE // 2
    residual_reach = sum(layout.WAVE_DILATIONS) * reach
    hop_length = math.prod(config["rates"])
    # From the samples of one token back to what they need, block by block: `first` and `last` in each rate.
    first, last = -reach, hop_length - 1 + reach
    fields = []
    for rate, kernel_size in reversed(list(zip(config["rates"], config["kernel_sizes"], strict=True))):
        fields.append(max(-(first // hop_length), last // hop_length))
        first, last = first - residual_reach, last + residual_reach
        padding = upsampling_padding(rate, kernel_size)
        # Input i reaches the outputs i * rate - padding .. i * rate - padding + kernel_size - 1.
        first, last = -((kernel_size - 1 - padding - first) // rate), (last + padding) // rate
        hop_length //= rate
    return [max(reach - first, last + reach), *reversed(fields)]
