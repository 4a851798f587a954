"""The U-Net F(x, c_noise, condition): one family, of which the published networks are members."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig, StageBlocks
from ddpm_cli.core.models import attention, blocks
from ddpm_cli.core.models.embeddings import BlockContext, ConditionEmbedding
from ddpm_cli.core.models.layers import glorot, normalisation, zeroed


class Stage(nn.Module):
    """A residual or ConvNeXt block, and the attention that follows it."""

    def __init__(
        self, kinds: StageBlocks, inputs: int, outputs: int, config: NetworkConfig
    ) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * (len(kinds) - 1)]
        self.blocks = nn.ModuleList(
            _block(kind, width, outputs, config) for kind, width in zip(kinds, widths, strict=True)
        )

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H, W)."""
        for block in self.blocks:
            x = block(x, context)
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
        case _:
            return attention.ChannelAttention(outputs, config)


class UNet(nn.Module):
    """Down through the levels keeping every feature map, through the middle, and up using them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        folded = config.channels * config.patch**2
        self.conditioning = ConditionEmbedding(config)
        self.inputs = glorot(nn.Conv2d(folded, config.width, 3, padding=1))

        channels, kept = config.width, [config.width]
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for depth, level in enumerate(config.levels):
            if depth:
                self.down.append(_resampler(channels, config, "down"))
                kept.append(channels)
            for kinds in level.down:
                self.down.append(Stage(kinds, channels, level.width, config))
                channels = level.width
                kept.append(channels)

        for kinds in config.bottom:
            self.middle.append(Stage(kinds, channels, channels, config))

        for depth, level in reversed(list(enumerate(config.levels))):
            for kinds in level.up:
                self.up.append(Stage(kinds, channels + kept.pop(), level.width, config))
                channels = level.width
            if depth:
                self.up.append(_resampler(channels, config, "up"))

        self.norm = normalisation(channels, config)
        outputs = folded * (2 if config.learned_variance else 1)
        self.outputs = zeroed(nn.Conv2d(channels, outputs, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W), c_noise (B,), condition -> F (B, C or 2 C, H, W), of any H and W."""
        context = self.conditioning(c_noise, condition)
        height, width = x.shape[2:]
        below, right = (-side % self.config.granularity for side in (height, width))
        if below or right:
            x = nnf.pad(x, (0, right, 0, below))

        h = self.inputs(nnf.pixel_unshuffle(x, self.config.patch))
        kept = [h]
        for layer in self.down:
            h = layer(h, context)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, context)
        for layer in self.up:
            if isinstance(layer, Stage):
                h = torch.cat([h, kept.pop()], dim=1)
            h = layer(h, context)
        h = self.outputs(nnf.silu(self.norm(h)))
        return nnf.pixel_shuffle(h, self.config.patch)[..., :height, :width]


def _resampler(channels: int, config: NetworkConfig, way: str) -> nn.Module:
    if config.resample == "res":
        return blocks.ResidualBlock(channels, channels, config, way)
    kind = blocks.Downsample if way == "down" else blocks.Upsample
    return kind(channels, config)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
