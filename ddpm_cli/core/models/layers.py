"""Normalisation layers and weight initialisation of the blocks."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.group_norm import GroupNorm, modulated

Layer = TypeVar("Layer", nn.Conv1d, nn.Conv2d, nn.Linear)


def normalisation(channels: int, config: NetworkConfig) -> GroupNorm:
    """Group normalisation of so many channels."""
    return GroupNorm(config.groups_of(channels), channels, eps=config.epsilon)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, then modulation."""

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), modulated by c as in `modulated` -> the same shape."""
        return modulated(self._normalise, x, c)

    def _normalise(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def embedding_table(rows: int, width: int) -> nn.Embedding:
    """A learned embedding with standard normal initialisation, as torch's default.

    Initialised by randn, because on the meta device (where networks are built to count their
    parameters) torch's default imports the compiler, which takes seconds.
    """
    return nn.Embedding(rows, width, _weight=torch.randn(rows, width))


def glorot(layer: Layer, joined: int = 1) -> Layer:
    """Initialise with Glorot's uniform weights and zero biases, as DDPM does.

    joined: layers that are computed as one, such as q, k and v; each starts as it would alone.
    """
    with torch.no_grad():
        for weight in layer.weight.chunk(joined):
            nn.init.xavier_uniform_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zeroed(layer: Layer) -> Layer:
    """Initialise with zeros, so that the residual block starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer
