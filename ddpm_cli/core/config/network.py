"""The U-Net's recipe: plain settings, without torch, that say which blocks lie where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ddpm_cli.core.config.serialisation import one_of, positive
from ddpm_cli.core.errors import UsageError

CHANNEL_CHANGING = ("res", "conv")  # blocks that change the number of channels, and begin a stage
ATTENTION = ("attn", "class-attn", "linear-attn", "text-attn")  # those that have heads
BLOCKS = (*CHANNEL_CHANGING, *ATTENTION, "channel-attn")

StageBlocks = tuple[str, ...]
"""A res or conv, and the blocks that follow it until the next one."""


@dataclass(frozen=True)
class TextConfig:
    """What turns a caption into the vectors that text-attn blocks attend to."""

    encoder: str = "bytes"  # learned along with the rest; or a frozen encoder's folder or hub name
    length: int = 128  # bytes, or a frozen encoder's tokens; longer captions are refused
    width: int = 128  # of the learned transformer; or of the frozen encoder's vectors
    layers: int = 2  # of the learned transformer
    heads: int = 4
    fingerprint: str = ""  # of a frozen encoder's weights

    def __post_init__(self) -> None:
        for name in ("length", "width", "layers", "heads"):
            positive(name, getattr(self, name))
        if self.encoder == "bytes" and self.width % self.heads:
            raise UsageError(
                f"a text width of {self.width} cannot be split into {self.heads} heads"
            )


@dataclass(frozen=True)
class NetworkConfig:
    """The U-Net F(x, c_noise, condition); by default the CIFAR-10 network of Ho et al. (2020).

    A recipe names a level's blocks in order, as "res,attn,res,attn". Each res and conv leaves its
    result to the way up, where a level takes one more: up_blocks are the same blocks, and the last
    res or conv with what follows it once more, unless told otherwise.
    """

    size: tuple[int, int] = (32, 32)  # height, width in pixels
    channels: int = 3
    classes: tuple[str, ...] = ()  # names; empty: unconditional
    text: TextConfig | None = None  # None: no captions
    width: int = 128  # channels of the first level
    multipliers: tuple[int, ...] = (1, 2, 2, 2)  # of the width, one a level; each halves the sides
    blocks: tuple[str, ...] = ("res,res", "res,attn,res,attn", "res,res", "res,res")  # a level each
    middle: str = "res,attn,res"
    up_blocks: tuple[str, ...] = ()  # finest level first, as blocks; empty: from blocks
    heads: int = 1  # of attention
    head_width: int | None = None  # channels of a head, which then decides how many there are
    attn_patch: int = 1  # attention's tokens are patches of so many pixels' side at their level
    time: str = "add"  # how time and class enter a block: "add" (DDPM) or "scale-shift" (FiLM)
    time_width: int | None = None  # of the vector that tells blocks of them; None: 4 x width
    class_width: int | None = None  # of a class's embedding; None: time_width
    null_class: bool = True  # a learned embedding for "no class", which guidance needs
    encoding: str = "sin-cos"  # of c_noise: sines first (DDPM), or "cos-sin" (improved DDPM, ADM)
    resample: str = "conv"  # halve and double by convolution, pooling ("pool") or in a res ("res")
    padding: str = "after"  # of halving convolutions: "after" (DDPM's SAME) or "around"
    resample_skip: bool = False  # a resampling res has a convolution in its skip (DDPM++)
    skip_scale: float = 1.0  # of a residual sum; DDPM++ takes sqrt(1/2)
    groups: int | None = None  # of normalisation; None: 32, fewer for narrow levels
    epsilon: float = 1e-6  # of normalisation
    augmented: bool = False  # told how training moved a picture (Karras et al. 2022, appendix F.2)
    patch: int = 1  # pixels are folded into channels in patch x patch squares
    dropout: float = 0.1
    learned_variance: bool = False  # the output has a second half: where the variance lies

    def __post_init__(self) -> None:
        one_of("channels", self.channels, (1, 3, 4))
        one_of("time", self.time, ("add", "scale-shift"))
        one_of("encoding", self.encoding, ("sin-cos", "cos-sin"))
        one_of("resample", self.resample, ("conv", "pool", "res"))
        one_of("padding", self.padding, ("after", "around"))
        for name in ("width", "heads", "patch", "attn_patch", "epsilon", "skip_scale"):
            positive(name, getattr(self, name))
        for name in ("head_width", "time_width", "class_width", "groups"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        positive("dropout", self.dropout, zero=True, below=1)
        if not self.multipliers or min(*self.multipliers, *self.size) < 1:
            raise UsageError("multipliers and size must be whole numbers of at least 1")
        self._check_widths()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels, finest first. Raises UsageError for recipes that do not fit them."""
        count = len(self.multipliers)
        down = [_stages("blocks", recipe) for recipe in _for_each("blocks", self.blocks, count)]
        up = [(*stages, stages[-1]) for stages in down]
        if self.up_blocks:
            recipes = _for_each("up-blocks", self.up_blocks, count)
            up = [_stages("up-blocks", recipe) for recipe in recipes]
        for level, (there, back) in enumerate(zip(down, up, strict=True)):
            if len(back) != len(there) + 1:
                raise UsageError(
                    f"up-blocks of level {level} hold {len(back)} res or conv, and the way down "
                    f"left {len(there) + 1} results for them: give as many"
                )
        widths = [self.width * multiplier for multiplier in self.multipliers]
        return tuple(Level(*level) for level in zip(widths, down, up, strict=True))

    @property
    def bottom(self) -> tuple[StageBlocks, ...]:
        """The stages between the way down and the way up."""
        return _stages("middle", self.middle)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of blocks that it has anywhere."""
        stages = [s for level in self.levels for s in (*level.down, *level.up)]
        return frozenset(kind for stage in (*stages, *self.bottom) for kind in stage)

    @property
    def granularity(self) -> int:
        """Pictures are padded until both sides are multiples of this many pixels."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1) * self.attn_patch)

    @property
    def conditioned(self) -> bool:
        """Whether it learns what pictures show, by class or by text."""
        return bool(self.classes) or self.text is not None

    @property
    def embedding_dim(self) -> int:
        """Width of the vector that tells blocks of noise level and class."""
        return 4 * self.width if self.time_width is None else self.time_width

    def heads_of(self, channels: int) -> int:
        """How many heads attention over so many channels has."""
        return self.heads if self.head_width is None else channels // self.head_width

    def groups_of(self, channels: int) -> int:
        """Groups of normalisation: 32, or fewer that leave no less than 4 channels in each."""
        return self.groups or math.gcd(32, channels // 4)

    def check(self) -> None:
        """Raise UsageError where blocks attend to what pictures are not given."""
        kinds = self.kinds
        if "class-attn" in kinds and not self.classes:
            raise UsageError("class-attn makes its queries of classes, and there are none to learn")
        if "text-attn" in kinds and self.text is None:
            raise UsageError("text-attn attends to captions, and there are none to learn")

    def _check_widths(self) -> None:
        if self.width % 2:
            raise UsageError(f"width {self.width} should be even: noise levels are pairs of waves")
        for channels in (self.width * m for m in self.multipliers):
            if (self.groups is None and channels % 4) or channels % (self.groups or 1):
                raise UsageError(
                    f"a level of {channels} channels cannot be split into "
                    + ("groups of 4" if self.groups is None else f"{self.groups} groups")
                    + "; use another --width"
                )
        levels = [(level.width, (*level.down, *level.up)) for level in self.levels]
        for channels, stages in (*levels, (levels[-1][0], self.bottom)):
            attends = any(kind in ATTENTION for stage in stages for kind in stage)
            if attends and channels % (self.head_width or self.heads):
                parts = (
                    f"{self.heads} heads"
                    if self.head_width is None
                    else (f"heads of {self.head_width}")
                )
                raise UsageError(
                    f"a level of {channels} channels cannot be split into {parts}; use another "
                    "--width or --heads"
                )


class Level(NamedTuple):
    """A level of the U-Net."""

    width: int  # channels
    down: tuple[StageBlocks, ...]
    up: tuple[StageBlocks, ...]  # one more, for the picture that came from the level above


def _for_each(name: str, recipes: tuple[str, ...], levels: int) -> tuple[str, ...]:
    if len(recipes) not in (1, levels):
        raise UsageError(
            f"{name} has {len(recipes)} recipes for {levels} levels; give one for all, or one for "
            "each of the multipliers"
        )
    return recipes * levels if len(recipes) == 1 else recipes


def _stages(name: str, recipe: str) -> tuple[StageBlocks, ...]:
    """Part a recipe, "res,attn,res", before each res and conv."""
    stages: list[StageBlocks] = []
    for kind in (word.strip() for word in recipe.split(",")):
        one_of(f"{name}: block", kind, BLOCKS)
        if kind in CHANNEL_CHANGING:
            stages.append((kind,))
        elif not stages:
            raise UsageError(f"{name} {recipe!r} must begin with {' or '.join(CHANNEL_CHANGING)}")
        else:
            stages[-1] = (*stages[-1], kind)
    return tuple(stages)


def with_text_attention(recipe: str) -> str:
    """The recipe with text-attn at the end of each stage of self-attention, unless it has some.

    At the end: the blocks before it keep their places, and so weights without it fit.
    """
    if "text-attn" in recipe:
        return recipe
    stages = _stages("blocks", recipe)
    return ",".join(
        kind for stage in stages for kind in (*stage, *(["text-attn"] if "attn" in stage else []))
    )


def without_text_attention(recipe: str) -> str:
    """The recipe without its text-attn."""
    kinds = (word.strip() for word in recipe.split(","))
    return ",".join(kind for kind in kinds if kind != "text-attn")
