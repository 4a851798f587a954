"""Layers that the blocks share: how they normalise, and the weights they start from."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ddpm_cli.core.config.network import NetworkConfig

Layer = TypeVar("Layer", nn.Conv1d, nn.Conv2d, nn.Linear)


def normalisation(channels: int, config: NetworkConfig) -> nn.GroupNorm:
    """Group normalisation of so many channels."""
    return nn.GroupNorm(config.groups_of(channels), channels, eps=config.epsilon)


class ChannelNorm(nn.LayerNorm):
    """Normalise the channels of each pixel by themselves (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def embedding(rows: int, width: int) -> nn.Embedding:
    """So many vectors to learn, standard normal at first, as torch's own are.

    Drawn by randn: torch's own way would, where a network is only counted (on the meta device),
    import the compiler, for seconds.
    """
    return nn.Embedding(rows, width, _weight=torch.randn(rows, width))


def glorot(layer: Layer) -> Layer:
    """Start a layer from Glorot's uniform weights and zero biases, as DDPM does."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zeroed(layer: Layer) -> Layer:
    """Start a layer as zero, so that its block starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer
