"""The U-Net F(x, c_noise, condition): one family, which includes the published networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.unet import StageBlocks
from ddpm_cli.core.models import attention, blocks
from ddpm_cli.core.models.embeddings import ConditionEmbedding, Embeddings
from ddpm_cli.core.models.layers import glorot, normalisation, zeroed
from ddpm_cli.core.models.network import Network, given_image


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

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H, W)."""
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
        if self.config.given_channels:
            x = torch.cat([x, given_image(condition, x, self.config.given_channels)], dim=1)
        height, width = x.shape[2:]
        below, right = (-side % self.config.size_multiple for side in (height, width))
        if below or right:
            x = nnf.pad(x, (0, right, 0, below))

        h = self.inputs(nnf.pixel_unshuffle(x, self.config.patch))
        skips = [h]
        for layer in self.down:
            h = self._layer(layer, embeddings, h)
            skips.append(h)
        for layer in self.middle:
            h = self._layer(layer, embeddings, h)
        for layer in self.up:
            skip = [skips.pop()] if isinstance(layer, Stage) else []
            h = self._layer(layer, embeddings, h, *skip)
        h = self.outputs(self.norm(h, silu=True))
        return nnf.pixel_shuffle(h, self.config.patch)[..., :height, :width]

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
        total = positions * _weights(self.inputs, self.outputs)
        for layer in self.down:
            positions //= 1 if isinstance(layer, Stage) else 4
            total += positions * _weights(layer)
        total += positions * _weights(self.middle)
        for layer in self.up:
            positions *= 1 if isinstance(layer, Stage) else 4
            total += positions * _weights(layer)
        return 2 * total

    def _layer(self, layer: nn.Module, embeddings: Embeddings, *inputs: Tensor) -> Tensor:
        """Inputs (B, C_i, H, W), side by side, through a layer; checkpointed (Chen et al. 2016)."""
        if not (self.checkpointed and self.training and torch.is_grad_enabled()):
            return _through(layer, embeddings, *inputs)
        output: Tensor = checkpoint(
            _through,
            layer,
            embeddings,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=self.config.dropout > 0,
        )
        return output


def _through(layer: nn.Module, embeddings: Embeddings, *inputs: Tensor) -> Tensor:
    h = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
    output: Tensor = layer(h, embeddings)
    return output


def _resampler(channels: int, config: NetworkConfig, direction: str) -> nn.Module:
    if config.resample == "res":
        return blocks.ResidualBlock(channels, channels, config, direction)
    kind = blocks.Downsample if direction == "down" else blocks.Upsample
    return kind(channels, config)


def _weights(*parts: nn.Module) -> int:
    """How many weights of two-dimensional convolutions there are."""
    return sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 4)
