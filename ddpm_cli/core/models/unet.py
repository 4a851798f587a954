"""The U-Net F(x, c_noise, condition) of Ho et al. (2020), appendix B, and its small relatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.conditions import NOTHING, Condition
from ddpm_cli.core.config import NetworkConfig
from ddpm_cli.core.models.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    glorot,
    normalisation,
    zeroed,
)
from ddpm_cli.core.models.embeddings import Conditioning


class Stage(nn.Module):
    """A residual block, followed by self-attention on the levels that have it."""

    def __init__(
        self, config: NetworkConfig, inputs: int, outputs: int, *, attention: bool
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, 4 * config.width, config.time, config.dropout)
        self.attention = SelfAttention(outputs, config.heads) if attention else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, inputs, H, W), condition (B, 4 width) -> (B, outputs, H, W)."""
        x = self.block(x, condition)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """Down through the levels keeping every feature map, through the middle, and up using them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        folded = config.channels * config.patch**2
        widths = [config.width * m for m in config.multipliers]
        levels = range(len(widths))
        self.condition = Conditioning(config.width, 4 * config.width, len(config.classes))
        self.inputs = glorot(nn.Conv2d(folded, config.width, 3, padding=1))

        channels, kept = config.width, [config.width]
        self.down = nn.ModuleList()
        for level in levels:
            attention = level in config.attention_levels
            for _ in range(config.blocks):
                self.down.append(Stage(config, channels, widths[level], attention=attention))
                channels = widths[level]
                kept.append(channels)
            if level != levels[-1]:
                self.down.append(Downsample(channels))
                kept.append(channels)

        self.middle = nn.ModuleList(
            [
                Stage(config, channels, channels, attention=True),
                Stage(config, channels, channels, attention=False),
            ]
        )

        self.up = nn.ModuleList()
        for level in reversed(levels):
            attention = level in config.attention_levels
            for _ in range(config.blocks + 1):
                self.up.append(
                    Stage(config, channels + kept.pop(), widths[level], attention=attention)
                )
                channels = widths[level]
            if level != 0:
                self.up.append(Upsample(channels))

        self.norm = normalisation(channels)
        outputs = folded * (2 if config.learned_variance else 1)
        self.outputs = zeroed(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = NOTHING) -> Tensor:
        """x (B, C, H, W), c_noise (B,), condition -> F (B, C or 2 C, H, W)."""
        c = self.condition(c_noise, condition.labels)
        h = self.inputs(nnf.pixel_unshuffle(x, self.config.patch))
        kept = [h]
        for layer in self.down:
            h = layer(h, c) if isinstance(layer, Stage) else layer(h)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, c)
        for layer in self.up:
            h = (
                layer(torch.cat([h, kept.pop()], dim=1), c)
                if isinstance(layer, Stage)
                else layer(h)
            )
        return nnf.pixel_shuffle(self.outputs(nnf.silu(self.norm(h))), self.config.patch)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
