"""The settings of the U-Net: its levels, the blocks of each, and their hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ddpm_cli.core.config.fields import (
    above_zero,
    channels_above_zero,
    choice,
    each,
    number,
    one_of,
    parse_numbers,
    setting,
    shortened,
)
from ddpm_cli.core.config.network_inputs import Architecture
from ddpm_cli.core.errors import UsageError

_MOST_LEVELS = 12  # the coarsest has sides of a 2048th

CHANNEL_CHANGING = ("res", "conv")  # blocks that may change the width; each begins a stage
ATTENTION = ("attn", "class-attn", "linear-attn", "text-attn")  # blocks with heads
BLOCKS = (*CHANNEL_CHANGING, *ATTENTION, "channel-attn")

_PANEL = "Network"

StageBlocks = tuple[str, ...]
"""The blocks of a stage: a res or conv, and the blocks up to the next res or conv."""


@dataclass(frozen=True)
class UNetSettings(Architecture):
    """The U-Net; by default the CIFAR-10 network of Ho et al. (2020).

    A recipe lists the blocks of a level in order, such as "res,attn,res,attn". Each res or conv
    begins a stage. A decoder level takes one skip connection from each encoder stage and one from
    the level's input, so it has one stage more: by default the encoder's stages, with the last one
    repeated.
    """

    SPELLED = "the U-Net"

    multipliers: tuple[int, ...] = setting(
        (1, 2, 2, 2),
        "Multipliers of the width, one per level, as 1,2,2,2; each level halves the sides.",
        panel=_PANEL,
        parse=parse_numbers(int, "--multipliers", "whole numbers such as 1,2,2,2"),
        check=each(number(most=1024)),
    )
    blocks: tuple[str, ...] = setting(
        ("res,res", "res,attn,res,attn", "res,res", "res,res"),
        f"A level's blocks in order, as res,attn,res,attn, of {', '.join(BLOCKS)} (residual, "
        "ConvNeXt, self-attention, attention by class, of linear cost, to the caption, and ECA); "
        "once for all levels, or repeated for each, the finest first.",
        panel=_PANEL,
    )
    middle: str = setting("res,attn,res", "Blocks between encoder and decoder.")
    up_blocks: tuple[str, ...] = setting(
        (), "The decoder's blocks, finest level first; empty: the encoder's, the last repeated."
    )
    attn_patch: int = setting(
        1,
        "Side, in pixels of their level, of the patches that attn attends over.",
        unit="pixels",
        panel=_PANEL,
        check=number(most=1024),
    )
    modulation: str = setting(
        "add",
        "How noise level and class modulate a block: add (DDPM) or scale-shift (improved DDPM).",
        panel=_PANEL,
        aliases=("--time",),
        check=choice("add", "scale-shift"),
    )
    resample: str = setting(
        "conv",
        "Down- and upsampling: conv (convolutions), pool (means and repeats), or res (within "
        "residual blocks, as DDPM++ and ADM).",
        panel=_PANEL,
        check=choice("conv", "pool", "res"),
    )
    padding: str = setting(
        "after",
        "Padding of downsampling convolutions: after (TensorFlow's SAME) or around.",
        check=choice("after", "around"),
    )
    resample_skip: bool = setting(
        False, "A convolution in the skip of resampling residual blocks (DDPM++)."
    )
    skip_scale: float = setting(
        1.0, "Factor of residual sums; DDPM++ has sqrt(1/2).", check=above_zero
    )
    groups: int | None = setting(
        None,
        "Groups of group normalisation; none: 32, fewer for narrow levels.",
        check=channels_above_zero,
    )

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels, finest first. Raises UsageError for recipes that do not fit the levels."""
        count = len(self.multipliers)
        down = [_stages("blocks", recipe) for recipe in _for_each("blocks", self.blocks, count)]
        up = [(*stages, stages[-1]) for stages in down]
        if self.up_blocks:
            recipes = _for_each("up-blocks", self.up_blocks, count)
            up = [_stages("up-blocks", recipe) for recipe in recipes]
        for level, (encoder, decoder) in enumerate(zip(down, up, strict=True)):
            if len(decoder) != len(encoder) + 1:
                raise UsageError(
                    f"up-blocks of level {level} have {len(decoder)} res or conv for "
                    f"{len(encoder) + 1} skip connections: give as many"
                )
        widths = [self.width * multiplier for multiplier in self.multipliers]
        return tuple(Level(*level) for level in zip(widths, down, up, strict=True))

    @property
    def middle_stages(self) -> tuple[StageBlocks, ...]:
        """The stages between encoder and decoder."""
        return _stages("middle", self.middle)

    @property
    def kinds(self) -> frozenset[str]:
        """All types of blocks in the network."""
        stages = [s for level in self.levels for s in (*level.down, *level.up)]
        return frozenset(kind for stage in (*stages, *self.middle_stages) for kind in stage)

    def groups_of(self, channels: int) -> int:
        """Groups of normalisation: by default at most 32, of at least 4 channels each."""
        return self.groups or math.gcd(32, channels // 4)

    def own_size_multiple(self) -> int:
        """A patch of attention at the coarsest level."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1) * self.attn_patch)

    def own_encoding_dim(self) -> int:
        """The width of the finest level."""
        return self.width

    def own_embedding_dim(self) -> int:
        """Four times that width (Ho et al. 2020)."""
        return 4 * self.width

    def own_summary(self) -> tuple[str, str]:
        """The widths of the levels; their recipes."""
        widths = ", ".join(str(level.width) for level in self.levels)
        return f"U-Net of {widths} channels", "; ".join(self.blocks)

    def check_architecture(self) -> None:
        """Raise UsageError for levels, widths or heads that make no U-Net."""
        if not self.multipliers or len(self.multipliers) > _MOST_LEVELS:
            raise UsageError(
                f"--multipliers should be 1 to {_MOST_LEVELS} numbers, one for each level, not "
                f"{len(self.multipliers)}"
            )
        for channels in (self.width * m for m in self.multipliers):
            if (self.groups is None and channels % 4) or channels % (self.groups or 1):
                raise UsageError(
                    f"a level of {channels} channels cannot be split into "
                    + ("groups of 4" if self.groups is None else f"{self.groups} groups")
                    + "; use another --width"
                )
        levels = [(level.width, (*level.down, *level.up)) for level in self.levels]
        for channels, stages in (*levels, (levels[-1][0], self.middle_stages)):
            if any(kind in ATTENTION for stage in stages for kind in stage):
                self.check_heads(channels, "a level")

    def check_conditions(self) -> None:
        """Raise UsageError for blocks without the condition that they attend to."""
        kinds = self.kinds
        if "class-attn" in kinds and not self.classes:
            raise UsageError(
                "class-attn attends by class, and the network is trained without classes"
            )
        if "text-attn" in kinds and self.text is None:
            raise UsageError(
                "text-attn attends to captions, and the network is trained without captions"
            )


class Level(NamedTuple):
    """A level of the U-Net: all blocks at one resolution."""

    width: int  # channels
    down: tuple[StageBlocks, ...]  # of the encoder
    up: tuple[
        StageBlocks, ...
    ]  # of the decoder: one more, for the skip connection of the level's input


def _for_each(name: str, recipes: tuple[str, ...], levels: int) -> tuple[str, ...]:
    if len(recipes) not in (1, levels):
        raise UsageError(
            f"{name} has {len(recipes)} recipes for {levels} levels; give one for all, or one for "
            "each level (multipliers)"
        )
    return recipes * levels if len(recipes) == 1 else recipes


def _stages(name: str, recipe: str) -> tuple[StageBlocks, ...]:
    """Split a recipe such as "res,attn,res" before each res and conv."""
    stages: list[StageBlocks] = []
    for kind in (word.strip() for word in recipe.split(",")):
        one_of(f"{name}: block", kind, BLOCKS)
        if kind in CHANNEL_CHANGING:
            stages.append((kind,))
        elif not stages:
            raise UsageError(
                f"{name} {shortened(recipe)} must begin with {' or '.join(CHANNEL_CHANGING)}"
            )
        else:
            stages[-1] = (*stages[-1], kind)
    return tuple(stages)


def with_text_attention(recipe: str) -> str:
    """The recipe with text-attn at the end of each stage with attn, unless it has text-attn.

    At the end, so that the indices of the other blocks stay, and with them their parameter names.
    """
    if "text-attn" in recipe:
        return recipe
    stages = _stages("blocks", recipe)
    return ",".join(
        kind for stage in stages for kind in (*stage, *(["text-attn"] if "attn" in stage else []))
    )


def without_text_attention(recipe: str) -> str:
    """The recipe without text-attn blocks."""
    kinds = (word.strip() for word in recipe.split(","))
    return ",".join(kind for kind in kinds if kind != "text-attn")
