"""Names of our U-Net's tensors in the U-Nets of diffusers and of OpenAI, and the conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints.tensors import listed, misfits
from ddpm_cli.core.config.network import NetworkConfig, StageBlocks
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet

Tensors = dict[str, Tensor]


class Part(NamedTuple):
    """A block, or a resampler, of our U-Net."""

    kind: str  # "res", "attn", "halve" or "double"
    path: str  # "down", "middle" or "up"
    position: int  # in our module list of that path
    block: int  # in its stage; of a resampler: the number of blocks of the stage before it
    level: int  # 0 is the finest; of a resampler: the level that it ends
    stage: int  # within the level

    @property
    def name(self) -> str:
        """Prefix of its names in our state dict."""
        prefix = f"{self.path}.{self.position}"
        return prefix if self.kind in ("halve", "double") else f"{prefix}.blocks.{self.block}"


class Layout(NamedTuple):
    """The names of the same network in another library."""

    part_name: Callable[[Part, int], str]  # prefix of a part, in a network of this many levels
    ends: dict[str, str]  # layers outside the parts: our name, their name
    kinds: dict[str, dict[str, tuple[str, ...]]]  # layers within a part; several are concatenated


def _parts(config: NetworkConfig) -> Iterator[Part]:
    """The parts in the order of the forward pass."""
    indices = count()
    for depth, level in enumerate(config.levels):
        if depth:
            yield Part("halve", "down", next(indices), len(level.down[-1]), depth - 1, 0)
        yield from _blocks("down", level.down, depth, indices)
    yield from _blocks("middle", config.bottom, 0, count())
    indices = count()
    for depth, level in reversed(list(enumerate(config.levels))):
        yield from _blocks("up", level.up, depth, indices)
        if depth:
            yield Part("double", "up", next(indices), len(level.up[-1]), depth, 0)


def _blocks(
    path: str, stages: tuple[StageBlocks, ...], level: int, indices: Iterator[int]
) -> Iterator[Part]:
    for number, stage in enumerate(stages):
        index = next(indices)
        for block, kind in enumerate(stage):
            yield Part(kind, path, index, block, level, number)


def _in_diffusers(part: Part, levels: int) -> str:
    level = levels - 1 - part.level if part.path == "up" else part.level
    block = "mid_block" if part.path == "middle" else f"{part.path}_blocks.{level}"
    names = {"res": "resnets", "attn": "attentions"}
    return f"{block}.{names.get(part.kind, part.path + 'samplers')}.{part.stage}"


def _in_openai(part: Part, levels: int) -> str:
    if part.path == "down":  # the first convolution is input_blocks.0
        return f"input_blocks.{part.position + 1}.{part.block if part.kind != 'halve' else 0}"
    if part.path == "middle":  # res, attn, res
        return f"middle_block.{2 * part.stage + part.block}"
    index = part.position - (
        levels - 1 - part.level
    )  # a resampler is in the list of its last stage
    return f"output_blocks.{index - (part.kind == 'double')}.{part.block}"


DIFFUSERS = Layout(
    _in_diffusers,
    {
        "conditioning.first": "time_embedding.linear_1",
        "conditioning.second": "time_embedding.linear_2",
        "conditioning.classes": "class_embedding",
        "inputs": "conv_in",
        "norm": "conv_norm_out",
        "outputs": "conv_out",
    },
    {
        "res": {
            "norm1": ("norm1",),
            "conv1": ("conv1",),
            "condition": ("time_emb_proj",),
            "norm2": ("norm2",),
            "conv2": ("conv2",),
            "skip": ("conv_shortcut",),
        },
        "attn": {
            "norm": ("group_norm",),
            "qkv": ("to_q", "to_k", "to_v"),
            "out": ("to_out.0",),
        },
        "halve": {"conv": ("conv",)},
        "double": {"conv": ("conv",)},
    },
)
OPENAI = Layout(
    _in_openai,
    {
        "conditioning.first": "time_embed.0",
        "conditioning.second": "time_embed.2",
        "conditioning.classes": "label_emb",
        "inputs": "input_blocks.0.0",
        "norm": "out.0",
        "outputs": "out.2",
    },
    {
        "res": {
            "norm1": ("in_layers.0",),
            "conv1": ("in_layers.2",),
            "condition": ("emb_layers.1",),
            "norm2": ("out_layers.0",),
            "conv2": ("out_layers.3",),
            "skip": ("skip_connection",),
        },
        "attn": {"norm": ("norm",), "qkv": ("qkv",), "out": ("proj_out",)},
        "halve": {"conv": ("op",)},
        "double": {"conv": ("conv",)},
    },
)


def import_tensors(theirs: Tensors, layout: Layout, network: UNet) -> Tensors:
    """Their tensors under this network's names and in its shapes, float32.

    Raises DdpmError with the names that are missing, have another shape or are unknown.
    """
    ours = network.state_dict()
    names = _layer_names(layout, network.config)
    expected = {
        theirs_name: piece
        for name, tensor in ours.items()
        for theirs_name, piece in _pieces(name, tensor, names).items()
    }
    reshaped = {
        name: _with_dimensions(tensor, expected[name].ndim) if name in expected else tensor
        for name, tensor in theirs.items()
    }
    if wrong := misfits(reshaped, expected):
        raise DdpmError(f"the tensors are not those of the network they describe: {listed(wrong)}")
    return {
        name: torch.cat([reshaped[piece].float() for piece in _pieces(name, tensor, names)])
        for name, tensor in ours.items()
    }


def export_tensors(ours: Mapping[str, Tensor], layout: Layout, config: NetworkConfig) -> Tensors:
    """Our tensors under their names, in our shapes."""
    names = _layer_names(layout, config)
    pieces = [_pieces(name, tensor, names) for name, tensor in ours.items()]
    return {name: piece.clone() for part in pieces for name, piece in part.items()}


def _pieces(name: str, tensor: Tensor, names: dict[str, tuple[str, ...]]) -> Tensors:
    """Split a tensor of ours into those of theirs, by their names, each in our shape."""
    layer, _, leaf = name.rpartition(".")
    theirs = names[layer]
    chunks = zip(theirs, tensor.chunk(len(theirs)), strict=True)
    return {f"{their_layer}.{leaf}": chunk for their_layer, chunk in chunks}


def _with_dimensions(tensor: Tensor, dimensions: int) -> Tensor:
    """Append dimensions of size 1: a linear layer is a 1 x 1 convolution."""
    return tensor.reshape(*tensor.shape, *[1] * (dimensions - tensor.ndim))


def _layer_names(layout: Layout, config: NetworkConfig) -> dict[str, tuple[str, ...]]:
    """Each of our layers with those of theirs that it is concatenated from."""
    names: dict[str, tuple[str, ...]] = {}
    for name, end in layout.ends.items():
        names[name] = (end,)
    for part in _parts(config):
        resampling = part.kind in ("halve", "double")
        kind = "res" if resampling and config.resample == "res" else part.kind
        prefix = layout.part_name(part, len(config.levels))
        for name, theirs in layout.kinds[kind].items():
            names[f"{part.name}.{name}"] = tuple(f"{prefix}.{layer}" for layer in theirs)
    return names
