"""The U-Net F(x, c_noise, condition): one family, which includes the published networks."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.unet import StageBlocks
from ddpm_cli.core.models import attention, blocks
from ddpm_cli.core.models.embeddings import ConditionEmbedding, Embeddings
from ddpm_cli.core.models.layers import glorot, normalisation, zeroed
from ddpm_cli.core.models.network import Network, weight_count


class Stage(nn.Module):
    """A residual or ConvNeXt block, and the attention blocks that follow it."""

    def __init__(
        self, kinds: StageBlocks, inputs: int, outputs: int, config: NetworkConfig
    ) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * (len(kinds) - 1)]
        self.blocks = nn.ModuleList(
            _block(kind, width, outputs, config) for kind, width in zip(kinds, widths, strict=True)
        )

    def forward(self, x: Tensor, embeddings: Embeddings, skip: Tensor | None = None) -> Tensor:
        """x, and the skip beside it, of `inputs` channels together -> (B, outputs, H, W)."""
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        for block in self.blocks:
            x = block(x, embeddings)
        return x


def _block(kind: str, inputs: int, outputs: int, config: NetworkConfig) -> nn.Module:
    match kind:
        case "res":
            return blocks.ResidualBlock(inputs, outputs, config)
        case "conv":
            return blocks.ConvNeXtBlock(inputs, outputs, config)
        case "attn":
            return attention.SelfAttention(outputs, config)
        case "linear-attn":
            return attention.LinearAttention(outputs, config)
        case "class-attn":
            return attention.ClassAttention(outputs, config)
        case "text-attn":
            return attention.CrossAttention(outputs, config)
        case "channel-attn":
            return attention.ChannelAttention(outputs, config)
        case _:
            raise ValueError(f"no module for blocks of type {kind!r}")


class UNet(Network):
    """Encoder, middle and decoder, with skip connections from encoder to decoder."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        folded = config.channels * config.patch**2
        self.embedding = ConditionEmbedding(config)
        inputs = folded + config.given_channels * config.patch**2
        self.inputs = glorot(nn.Conv2d(inputs, config.width, 3, padding=1))

        channels, skips = config.width, [config.width]
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for depth, level in enumerate(config.levels):
            if depth:
                self.down.append(_resampler(channels, config, "down"))
                skips.append(channels)
            for kinds in level.down:
                self.down.append(Stage(kinds, channels, level.width, config))
                channels = level.width
                skips.append(channels)

        for kinds in config.middle_stages:
            self.middle.append(Stage(kinds, channels, channels, config))

        for depth, level in reversed(list(enumerate(config.levels))):
            for kinds in level.up:
                self.up.append(Stage(kinds, channels + skips.pop(), level.width, config))
                channels = level.width
            if depth:
                self.up.append(_resampler(channels, config, "up"))

        self.norm = normalisation(channels, config)
        outputs = folded * (2 if config.learned_variance else 1)
        self.outputs = zeroed(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W) of any H and W, c_noise (B,), condition -> F (B, C or 2 C, H, W)."""
        embeddings = self.embedding(c_noise, condition)
        h = self.inputs(self.patches(x, condition))
        skips = [h]
        for layer in self.down:
            h = self.through(layer, h, embeddings)
            skips.append(h)
        for layer in self.middle:
            h = self.through(layer, h, embeddings)
        for layer in self.up:
            skip = [skips.pop()] if isinstance(layer, Stage) else []
            h = self.through(layer, h, embeddings, *skip)
        return self.pixels(self.outputs(self.norm(h, silu=True)), x)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Encoder, middle and decoder."""
        return (*self.down, *self.middle, *self.up)

    def forward_operations(self) -> int:
        """Floating point operations of one image's forward pass, in convolutions: nearly all.

        A weight of theirs is multiplied and added once at each position of its level.
        """
        config = self.config
        positions = math.prod(math.ceil(side / config.patch) for side in config.size)
        convolved = partial(weight_count, dimensions=(4,))
        total = positions * convolved(self.inputs, self.outputs)
        for layer in self.down:
            positions //= 1 if isinstance(layer, Stage) else 4
            total += positions * convolved(layer)
        total += positions * convolved(self.middle)
        for layer in self.up:
            positions *= 1 if isinstance(layer, Stage) else 4
            total += positions * convolved(layer)
        return 2 * total


def _resampler(channels: int, config: NetworkConfig, direction: str) -> nn.Module:
    if config.resample == "res":
        return blocks.ResidualBlock(channels, channels, config, direction)
    kind = blocks.Downsample if direction == "down" else blocks.Upsample
    return kind(channels, config)
