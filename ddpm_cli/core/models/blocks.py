"""The parts of the U-Net, as in Ho et al. (2020), appendix B."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation: 32 groups, fewer where that would leave under 4 channels in one."""
    return nn.GroupNorm(math.gcd(32, channels // 4), channels, eps=1e-6)


def glorot(layer: Layer) -> Layer:
    """Start a layer from Glorot's uniform weights and zero biases, as DDPM does."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def zeroed(layer: Layer) -> Layer:
    """Start a layer as zero, so that its block starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class ResidualBlock(nn.Module):
    """Two convolutions with the condition between them, around a skip connection.

    The condition is added ("add"), or scales and shifts the second normalisation ("scale-shift",
    Nichol & Dhariwal 2021).
    """

    def __init__(
        self, inputs: int, outputs: int, condition: int, time: str, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = normalisation(inputs)
        self.conv1 = glorot(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.scale_shift = time == "scale-shift"
        self.condition = glorot(nn.Linear(condition, 2 * outputs if self.scale_shift else outputs))
        self.norm2 = normalisation(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else glorot(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, inputs, H, W), condition (B, C) -> (B, outputs, H, W)."""
        h = self.conv1(nnf.silu(self.norm1(x)))
        c = self.condition(nnf.silu(condition))[:, :, None, None]
        if self.scale_shift:
            scale, shift = c.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + c)
        h = self.conv2(self.dropout(nnf.silu(h)))
        return torch.add(self.skip(x), h)


class SelfAttention(nn.Module):
    """Every pixel attends to every other (Vaswani et al. 2017), around a skip connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = normalisation(channels)
        self.qkv = glorot(nn.Conv2d(channels, 3 * channels, 1))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(
            batch, 3, self.heads, channels // self.heads, height * width
        )
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, pixels, channels of a head)
        h = nnf.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, channels, height, width)
        return torch.add(x, self.out(h))


class Downsample(nn.Module):
    """Halve the sides by a strided convolution, padded right and below as TensorFlow's SAME."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = glorot(nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H/2, W/2)."""
        out: Tensor = self.conv(nnf.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double the sides by repeating pixels, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = glorot(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, 2H, 2W)."""
        out: Tensor = self.conv(nnf.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
