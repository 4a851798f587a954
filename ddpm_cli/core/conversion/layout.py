"""Parameter names of the U-Net in diffusers' and OpenAI's layouts, and conversion of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints.tensors import mismatches
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.unet import StageBlocks
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.models.unet import UNet

Tensors = dict[str, Tensor]


class Part(NamedTuple):
    """A block or a resampler of the U-Net."""

    kind: str  # "res", "attn", "downsample" or "upsample"
    side: str  # "down", "middle" or "up"
    position: int  # in the module list of that side
    block: int  # in its stage; of a resampler: number of blocks in the stage before it
    level: int  # 0 is the finest; of a resampler: the level that it ends
    stage: int  # within the level

    @property
    def name(self) -> str:
        """Its name in our state dict."""
        prefix = f"{self.side}.{self.position}"
        resampler = self.kind in ("downsample", "upsample")
        return prefix if resampler else f"{prefix}.blocks.{self.block}"


class Layout(NamedTuple):
    """Parameter names of the same network in another library."""

    prefix: Callable[[Part, int], str]  # of a part, in a network of so many levels
    outer: dict[str, str]  # layers outside the parts: our name, their name
    inner: dict[str, dict[str, tuple[str, ...]]]  # layers of a part: our name, their names


def _parts(config: NetworkConfig) -> Iterator[Part]:
    """The parts in the order of the forward pass."""
    indices = count()
    for depth, level in enumerate(config.levels):
        if depth:
            yield Part("downsample", "down", next(indices), len(level.down[-1]), depth - 1, 0)
        yield from _blocks("down", level.down, depth, indices)
    yield from _blocks("middle", config.middle_stages, 0, count())
    indices = count()
    for depth, level in reversed(list(enumerate(config.levels))):
        yield from _blocks("up", level.up, depth, indices)
        if depth:
            yield Part("upsample", "up", next(indices), len(level.up[-1]), depth, 0)


def _blocks(
    side: str, stages: tuple[StageBlocks, ...], level: int, indices: Iterator[int]
) -> Iterator[Part]:
    for number, stage in enumerate(stages):
        index = next(indices)
        for block, kind in enumerate(stage):
            yield Part(kind, side, index, block, level, number)


def _diffusers_prefix(part: Part, levels: int) -> str:
    level = levels - 1 - part.level if part.side == "up" else part.level
    block = "mid_block" if part.side == "middle" else f"{part.side}_blocks.{level}"
    names = {"res": "resnets", "attn": "attentions"}
    return f"{block}.{names.get(part.kind, part.side + 'samplers')}.{part.stage}"


def _openai_prefix(part: Part, levels: int) -> str:
    if part.side == "down":  # the first convolution is input_blocks.0
        return f"input_blocks.{part.position + 1}.{part.block if part.kind != 'downsample' else 0}"
    if part.side == "middle":  # res, attn, res
        return f"middle_block.{2 * part.stage + part.block}"
    # A resampler has no block of its own: it is the last module of the stage before it.
    index = part.position - (levels - 1 - part.level)
    return f"output_blocks.{index - (part.kind == 'upsample')}.{part.block}"


DIFFUSERS = Layout(
    _diffusers_prefix,
    {
        "embedding.first": "time_embedding.linear_1",
        "embedding.second": "time_embedding.linear_2",
        "embedding.classes": "class_embedding",
        "inputs": "conv_in",
        "norm": "conv_norm_out",
        "outputs": "conv_out",
    },
    {
        "res": {
            "norm1": ("norm1",),
            "conv1": ("conv1",),
            "modulation": ("time_emb_proj",),
            "norm2": ("norm2",),
            "conv2": ("conv2",),
            "skip": ("conv_shortcut",),
        },
        "attn": {
            "norm": ("group_norm",),
            "qkv": ("to_q", "to_k", "to_v"),
            "out": ("to_out.0",),
        },
        "downsample": {"conv": ("conv",)},
        "upsample": {"conv": ("conv",)},
    },
)
OPENAI = Layout(
    _openai_prefix,
    {
        "embedding.first": "time_embed.0",
        "embedding.second": "time_embed.2",
        "embedding.classes": "label_emb",
        "inputs": "input_blocks.0.0",
        "norm": "out.0",
        "outputs": "out.2",
    },
    {
        "res": {
            "norm1": ("in_layers.0",),
            "conv1": ("in_layers.2",),
            "modulation": ("emb_layers.1",),
            "norm2": ("out_layers.0",),
            "conv2": ("out_layers.3",),
            "skip": ("skip_connection",),
        },
        "attn": {"norm": ("norm",), "qkv": ("qkv",), "out": ("proj_out",)},
        "downsample": {"conv": ("op",)},
        "upsample": {"conv": ("conv",)},
    },
)


def import_tensors(theirs: Tensors, layout: Layout, network: UNet) -> Tensors:
    """Their tensors under the parameter names of this network and in its shapes, float32.

    Raises DdpmError with tensors that are missing, of another shape, or unknown.
    """
    state_dict = network.state_dict()
    names = _names(layout, network.config)
    expected = {
        theirs_name: piece
        for name, tensor in state_dict.items()
        for theirs_name, piece in _pieces(name, tensor, names).items()
    }
    reshaped = {
        name: _unsqueezed(tensor, expected[name].ndim) if name in expected else tensor
        for name, tensor in theirs.items()
    }
    if wrong := mismatches(reshaped, expected):
        raise DdpmError(
            "the tensors are not those of the network they describe: "
            f"{listed(wrong, separator='; ')}"
        )
    return {
        name: torch.cat([reshaped[piece].float() for piece in _pieces(name, tensor, names)])
        for name, tensor in state_dict.items()
    }


def export_tensors(ours: Mapping[str, Tensor], layout: Layout, config: NetworkConfig) -> Tensors:
    """Our tensors under their names, in our shapes."""
    names = _names(layout, config)
    pieces = [_pieces(name, tensor, names) for name, tensor in ours.items()]
    return {name: piece.clone() for part in pieces for name, piece in part.items()}


def _pieces(name: str, tensor: Tensor, names: dict[str, tuple[str, ...]]) -> Tensors:
    """Split one of our tensors into theirs (such as q, k and v), by their names, in our shapes."""
    layer, _, leaf = name.rpartition(".")
    theirs = names[layer]
    chunks = zip(theirs, tensor.chunk(len(theirs)), strict=True)
    return {f"{layer}.{leaf}": chunk for layer, chunk in chunks}


def _unsqueezed(tensor: Tensor, dimensions: int) -> Tensor:
    """Append dimensions of 1: the weight of a linear layer as that of a 1x1 convolution."""
    return tensor.reshape(*tensor.shape, *[1] * (dimensions - tensor.ndim))


def _names(layout: Layout, config: NetworkConfig) -> dict[str, tuple[str, ...]]:
    """The names of our layers, each with the names of theirs that it consists of."""
    names: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in layout.outer.items()}
    for part in _parts(config):
        resampling = part.kind in ("downsample", "upsample")
        kind = "res" if resampling and config.resample == "res" else part.kind
        prefix = layout.prefix(part, len(config.levels))
        for ours, theirs in layout.inner[kind].items():
            names[f"{part.name}.{ours}"] = tuple(f"{prefix}.{layer}" for layer in theirs)
    return names
