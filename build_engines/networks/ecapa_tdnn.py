"""ECAPA-TDNN up to its frame features; the pooled x-vector behind them is used in training only."""

import torch
from torch import nn
from torch.nn import functional

from build_engines import layout


class EcapaTdnn(nn.Module):
    """Mel frames [batch, num_mels, frames] -> features [batch, 1536, frames]."""

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        channels = layout.ECAPA_CHANNELS
        first_kernel_size, kernel_size = layout.ECAPA_KERNEL_SIZES
        self.layer1 = ConvReluNorm(num_mels, channels, first_kernel_size)
        self.layer2 = SeRes2Block(channels, kernel_size, dilation=2)
        self.layer3 = SeRes2Block(channels, kernel_size, dilation=3)
        self.layer4 = SeRes2Block(channels, kernel_size, dilation=4)
        self.conv = nn.Conv1d(3 * channels, layout.ECAPA_FEATURE_CHANNELS, kernel_size=1)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        first = self.layer1(mel)
        second = self.layer2(first)
        third = self.layer3(second)
        fourth = self.layer4(third)
        return functional.relu(self.conv(torch.cat([second, third, fourth], dim=1)))


class ConvReluNorm(nn.Module):
    """Convolution, rectifier, then batch norm, in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.bn = nn.BatchNorm1d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(functional.relu(self.conv(x)))


class SeRes2Block(nn.Module):
    """A residual block: pointwise, multi-scale and pointwise convolution, then squeeze-and-excitation."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.se_res2block = nn.Sequential(
            ConvReluNorm(channels, channels, kernel_size=1),
            Res2Conv(channels, kernel_size, dilation),
            ConvReluNorm(channels, channels, kernel_size=1),
            SqueezeExcitation(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.se_res2block(x)


class Res2Conv(nn.Module):
    """Groups of channels convolved in turn, each with the result of the one before added; the last is left alone."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.group_channels = channels // layout.ECAPA_RES2_SCALE
        num_convs = layout.ECAPA_RES2_SCALE - 1
        padding = dilation * (kernel_size // 2)
        self.convs = nn.ModuleList(
            nn.Conv1d(self.group_channels, self.group_channels, kernel_size, padding=padding, dilation=dilation)
            for _ in range(num_convs)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(self.group_channels) for _ in range(num_convs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *groups, last = x.split(self.group_channels, dim=1)
        results: list[torch.Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            results.append(norm(functional.relu(conv(group + results[-1] if results else group))))
        return torch.cat([*results, last], dim=1)


class SqueezeExcitation(nn.Module):
    """Each channel scaled by a gate that sees all channels' means over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, layout.ECAPA_BOTTLENECK_CHANNELS)
        self.linear2 = nn.Linear(layout.ECAPA_BOTTLENECK_CHANNELS, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.linear2(functional.relu(self.linear1(x.mean(dim=2)))))
        return x * gate.unsqueeze(2)
