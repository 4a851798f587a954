"""Configs of diffusers' UNet2DModel <-> NetworkConfig."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.config.unet import StageBlocks
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet


class _Block(NamedTuple):
    """A block type of diffusers; a block is a level of ours."""

    down: str  # name in down_block_types
    up: str  # name in up_block_types
    attention: bool
    resample: str | None  # to the next level; None: by downsample_type


_BLOCKS = (
    _Block("DownBlock2D", "UpBlock2D", False, "conv"),
    _Block("AttnDownBlock2D", "AttnUpBlock2D", True, None),
    _Block("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D", False, "res"),
)
_MIDDLES = {True: (("res", "attn"), ("res",)), False: (("res",), ("res",))}  # by add_attention
_ALIKE = "--blocks of as many res in every level, and attn after all of a level's or none"
_OF_THE_AVERAGE = frozenset(  # bookkeeping that EMAModel.save_pretrained adds to a config.json
    [
        "decay",
        "min_decay",
        "optimization_step",
        "update_after_step",
        "use_ema_warmup",
        "inv_gamma",
        "power",
    ]
)


@dataclass(frozen=True)
class UNet2DConfig:
    """A UNet2DModel's config.json: diffusers' names and defaults."""

    sample_size: tuple[int, int] | None = None  # height, width
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    @property
    def is_score_network(self) -> bool:
        """Whether it is NCSN++ (Song et al. 2021), whose noise levels are Fourier features."""
        return self.time_embedding_type == "fourier"


def read(document: dict[str, Any], where: str) -> UNet2DConfig:
    """Read a config.json. Raises DdpmError for unknown settings."""
    settings = {
        name: value
        for name, value in document.items()
        if not name.startswith("_") and name not in _OF_THE_AVERAGE
    }
    if isinstance(settings.get("sample_size"), int):
        settings["sample_size"] = [settings["sample_size"]] * 2
    return from_dict(UNet2DConfig, settings, where)


def document(theirs: UNet2DConfig) -> dict[str, Any]:
    """Contents of a config.json, where a square sample_size is one number."""
    size = theirs.sample_size
    square = size is not None and size[0] == size[1]
    return to_dict(theirs) | ({"sample_size": size[0]} if size and square else {})


def to_network_config(
    theirs: UNet2DConfig, size: tuple[int, int], null_class: int | None
) -> NetworkConfig:
    """The NetworkConfig of the same network. Raises DdpmError for unsupported settings."""
    _check_import(theirs)
    base = theirs.block_out_channels[0]
    down = [block.attention for block in _down(theirs)]
    up = [block.attention for block in reversed(_up(theirs))]
    blocks = [_stages(attention, theirs.layers_per_block) for attention in down]
    up_blocks = [_stages(attention, theirs.layers_per_block + 1) for attention in up]
    classes = [str(i) for i in range(theirs.num_class_embeds or 0) if i != null_class]
    return NetworkConfig(
        size=size,
        channels=theirs.in_channels,
        classes=tuple(classes),
        null_class=null_class is not None,
        width=base,
        multipliers=tuple(channels // base for channels in theirs.block_out_channels),
        blocks=tuple(blocks),
        up_blocks=() if up == down else tuple(up_blocks),
        middle=",".join(sum(_MIDDLES[theirs.add_attention], ())),
        head_width=theirs.attention_head_dim,
        modulation="scale-shift" if theirs.resnet_time_scale_shift == "scale_shift" else "add",
        embedding_width=theirs.time_embedding_dim,
        encoding="sin-cos" if theirs.freq_shift else "cos-sin",
        resample=_resample(theirs),
        padding="around" if theirs.downsample_padding else "after",
        groups=theirs.norm_num_groups,
        epsilon=theirs.norm_eps,
        dropout=theirs.dropout,
        learned_variance=theirs.out_channels == 2 * theirs.in_channels,
    )


def sin_cos_swapped(theirs: UNet2DConfig) -> bool:
    """Whether the timestep embedding has sines and cosines in the other order than ours."""
    return theirs.flip_sin_to_cos == bool(theirs.freq_shift)


def from_network(network: UNet) -> UNet2DConfig:
    """The UNet2DConfig of the same network. Raises DdpmError where there is none."""
    _check_export(network)
    ours = network.config
    levels = ours.levels
    attention = [(_attention(level.down), _attention(level.up)) for level in levels]
    groups = min(_norm_groups(network))
    classes = len(ours.classes) + ours.null_class
    resample_type = {"conv": "conv", "res": "resnet"}[ours.resample]
    return UNet2DConfig(
        sample_size=ours.size,
        in_channels=ours.channels,
        out_channels=ours.channels * (2 if ours.learned_variance else 1),
        time_embedding_dim=ours.embedding_width,
        freq_shift=1 if ours.encoding == "sin-cos" else 0,
        flip_sin_to_cos=ours.encoding == "cos-sin",
        down_block_types=tuple(_block_type(down, ours).down for down, _ in attention),
        up_block_types=tuple(_block_type(up, ours).up for _, up in reversed(attention)),
        block_out_channels=tuple(level.width for level in levels),
        layers_per_block=len(levels[0].down),
        downsample_padding=1 if ours.padding == "around" else 0,
        downsample_type=resample_type,
        upsample_type=resample_type,
        dropout=ours.dropout,
        attention_head_dim=_head_width(ours),
        norm_num_groups=groups,
        attn_norm_num_groups=groups if ours.modulation == "scale-shift" else None,
        norm_eps=ours.epsilon,
        resnet_time_scale_shift="scale_shift" if ours.modulation == "scale-shift" else "default",
        add_attention=ours.middle_stages == _MIDDLES[True],
        num_class_embeds=classes if ours.classes else None,
    )


def _check_import(c: UNet2DConfig) -> None:
    """Raise DdpmError for a setting that our U-Net does not support, by its name."""
    scaled = c.resnet_time_scale_shift == "scale_shift"
    widths, groups = c.block_out_channels, c.norm_num_groups
    for name, supported in {
        "center_input_sample": not c.center_input_sample,
        "time_embedding_type": c.time_embedding_type == "positional",
        "freq_shift": c.freq_shift in (0, 1),
        "mid_block_type": c.mid_block_type == "UNetMidBlock2D",
        "mid_block_scale_factor": c.mid_block_scale_factor == 1,
        "downsample_padding": c.downsample_padding in (0, 1),
        "downsample_type": c.downsample_type in ("conv", "resnet"),
        "upsample_type": c.upsample_type == c.downsample_type,
        "act_fn": c.act_fn in ("silu", "swish"),
        "class_embed_type": c.class_embed_type is None,
        "resnet_time_scale_shift": c.resnet_time_scale_shift in ("default", "scale_shift"),
        # With scale_shift, the middle's attention has a normalisation only where this is set.
        "attn_norm_num_groups": not c.add_attention
        or c.attn_norm_num_groups == c.norm_num_groups
        or (c.attn_norm_num_groups is None and not scaled),
        "out_channels": c.out_channels in (c.in_channels, 2 * c.in_channels),
        "block_out_channels": min(widths, default=0) > 0
        and all(width % widths[0] == 0 for width in widths),
        "norm_num_groups": groups is not None
        and groups > 0
        and all(width % groups == 0 for width in widths),
        "down_block_types": len(c.down_block_types) == len(c.block_out_channels),
        "up_block_types": len(c.up_block_types) == len(c.block_out_channels),
    }.items():
        if not supported:
            kind = " (it is a network of score SDEs, NCSN++)" if c.is_score_network else ""
            raise DdpmError(
                f"{name} {getattr(c, name)!r} of its config.json has no counterpart in our "
                f"U-Net{kind}"
            )
    for width in _attention_widths(c) if c.attention_head_dim else ():
        if width % (c.attention_head_dim or 1):
            raise DdpmError(
                f"attention_head_dim {c.attention_head_dim} of its config.json does not divide the "
                f"{width} channels of a level with attention, which our U-Net needs"
            )


def _attention_widths(c: UNet2DConfig) -> set[int]:
    """Channels of the levels with attention."""
    widths, up = c.block_out_channels, reversed(_up(c))
    levels = zip(widths, _down(c), up, strict=True)
    found = {width for width, *blocks in levels if any(block.attention for block in blocks)}
    return found | ({widths[-1]} if c.add_attention else set())


def _down(c: UNet2DConfig) -> list[_Block]:
    return _blocks(c.down_block_types, {block.down: block for block in _BLOCKS})


def _up(c: UNet2DConfig) -> list[_Block]:
    return _blocks(c.up_block_types, {block.up: block for block in _BLOCKS})


def _blocks(types: tuple[str, ...], by_name: dict[str, _Block]) -> list[_Block]:
    for name in types:
        if name not in by_name:
            raise DdpmError(
                f"a block {name} has no counterpart in our U-Net; supported: {', '.join(by_name)}"
            )
    return [by_name[name] for name in types]


def _resample(c: UNet2DConfig) -> str:
    """How it resamples between levels; the last blocks of both paths do not resample."""
    default = {"conv": "conv", "resnet": "res"}[c.downsample_type]
    resampling = [*_down(c)[:-1], *_up(c)[:-1]]
    kinds = {block.resample or default for block in resampling} or {"conv"}
    if len(kinds) > 1:
        raise DdpmError(
            "some of its levels resample by convolutions and others by resnets; ours have one kind "
            "for all levels"
        )
    return kinds.pop()


def _stages(attention: bool, count: int) -> str:
    return ",".join(["res,attn" if attention else "res"] * count)


def _check_export(network: UNet) -> None:
    """Raise DdpmError for all that a UNet2DModel lacks, with the settings to train without it."""
    c = network.config
    multiple = 2 ** (len(c.multipliers) - 1)
    unsupported = sorted(c.kinds - {"res", "attn"})
    table = (
        (c.text is not None, "captions", "--no-captions"),
        (c.given_channels > 0, "an image that is given", "neither --given nor --given-data"),
        (c.patch > 1, f"pixels folded by {c.patch}", "--patch 1"),
        (c.attn_patch > 1, f"attention over patches of {c.attn_patch}", "--attn-patch 1"),
        (c.class_width is not None, f"a class_width of {c.class_width}", "no --class-width"),
        (c.resample == "pool", "resampling by pooling", "--resample conv or res"),
        (c.multi_label, "several classes an image", "one class an image, or --unconditional"),
        (c.resample_skip, "a convolution in a resampler's skip", "resample_skip false in --config"),
        (
            c.skip_scale != 1,
            f"a residual sum scaled by {c.skip_scale:g}",
            "skip_scale 1 in --config",
        ),
        (
            c.middle_stages not in _MIDDLES.values(),
            f"a middle of {c.middle}",
            "middle res,attn,res or res,res in --config",
        ),
        (
            any(pixels % c.size_multiple for pixels in c.size),
            f"images of {c.size[0]}x{c.size[1]}, which it pads",
            f"a --size of multiples of {multiple}",
        ),
        (bool(unsupported), f"{' and '.join(unsupported)} blocks", "--blocks of res and attn"),
        (
            any(s.count("attn") > 1 for level in c.levels for s in (*level.down, *level.up)),
            "several attn after one res",
            "one attn after each res in --blocks",
        ),
        *(
            (True, f"levels with {' and '.join(map(str, sorted(values)))} {what}", fix)
            for values, what, fix in _shared(network)
            if len(values) > 1
        ),
    )
    obstacles = [(what, fix) for present, what, fix in table if present]
    if obstacles:
        whats, fixes = (", ".join(dict.fromkeys(texts)) for texts in zip(*obstacles, strict=True))
        raise DdpmError(
            f"diffusers' UNet2DModel has no counterpart for {whats}; to export, train with {fixes}"
        )


def _shared(network: UNet) -> Iterator[tuple[set[int], str, str]]:
    """Numbers that all levels of a UNet2DModel share: ours, what they are, the setting for one."""
    c = network.config
    groups = _norm_groups(network)
    yield groups, "groups of normalisation", f"groups {min(groups)} in --config"
    yield {len(level.down) for level in c.levels}, "res blocks", _ALIKE
    for path in (path for level in c.levels for path in (level.down, level.up)):
        yield {stage.count("attn") for stage in path}, "attn after a res", _ALIKE
    yield _head_widths(c), "channels in a head of attention", "--head-width"


def _norm_groups(network: UNet) -> set[int]:
    """Numbers of groups of all normalisations: powers of 2, so the least divides all widths."""
    return {norm.num_groups for norm in network.modules() if isinstance(norm, nn.GroupNorm)}


def _attention(path: tuple[StageBlocks, ...]) -> bool:
    """Whether a level has attention on a path: after `_check_export`, in all stages or none."""
    return "attn" in path[0]


def _block_type(attention: bool, c: NetworkConfig) -> _Block:
    return next(b for b in _BLOCKS if b.attention == attention and b.resample in (None, c.resample))


def _head_width(c: NetworkConfig) -> int | None:
    """The heads' width; None: one head as wide as its level, in diffusers, too."""
    return next(iter(_head_widths(c)), None)


def _head_widths(c: NetworkConfig) -> set[int]:
    """Widths of the heads, of all levels with attention."""
    if c.heads == 1 and c.head_width is None:
        return set()
    with_attention = {
        level.width for level in c.levels if "attn" in {*sum(level.down + level.up, ())}
    }
    if c.middle_stages == _MIDDLES[True]:
        with_attention.add(c.levels[-1].width)
    return {width // c.heads_of(width) for width in with_attention}
