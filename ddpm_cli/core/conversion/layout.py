"""Where each tensor of our U-Net lies in the U-Nets of diffusers and of OpenAI, and moving it."""

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
    side: str  # "down", "middle" or "up"
    at: int  # in our list of that side
    block: int  # in its stage; of a resampler: how many the stage before it has
    level: int  # 0 is the finest; of a resampler: whose end it is
    stage: int  # within the level

    @property
    def name(self) -> str:
        """What our state dict calls it."""
        place = f"{self.side}.{self.at}"
        return place if self.kind in ("halve", "double") else f"{place}.blocks.{self.block}"


class Layout(NamedTuple):
    """How others lay out the same network."""

    place: Callable[[Part, int], str]  # the name of a part, in a network of so many levels
    ends: dict[str, str]  # layers outside the parts: ours, theirs
    kinds: dict[str, dict[str, tuple[str, ...]]]  # layers within a part; several make up one


def _parts(config: NetworkConfig) -> Iterator[Part]:
    """The parts in the order of the forward pass."""
    places = count()
    for depth, level in enumerate(config.levels):
        if depth:
            yield Part("halve", "down", next(places), len(level.down[-1]), depth - 1, 0)
        yield from _blocks("down", level.down, depth, places)
    yield from _blocks("middle", config.bottom, 0, count())
    places = count()
    for depth, level in reversed(list(enumerate(config.levels))):
        yield from _blocks("up", level.up, depth, places)
        if depth:
            yield Part("double", "up", next(places), len(level.up[-1]), depth, 0)


def _blocks(
    side: str, stages: tuple[StageBlocks, ...], level: int, places: Iterator[int]
) -> Iterator[Part]:
    for number, stage in enumerate(stages):
        index = next(places)
        for block, kind in enumerate(stage):
            yield Part(kind, side, index, block, level, number)


def _in_diffusers(part: Part, levels: int) -> str:
    level = levels - 1 - part.level if part.side == "up" else part.level
    room = "mid_block" if part.side == "middle" else f"{part.side}_blocks.{level}"
    names = {"res": "resnets", "attn": "attentions"}
    return f"{room}.{names.get(part.kind, part.side + 'samplers')}.{part.stage}"


def _in_openai(part: Part, levels: int) -> str:
    if part.side == "down":  # the first convolution is input_blocks.0
        return f"input_blocks.{part.at + 1}.{part.block if part.kind != 'halve' else 0}"
    if part.side == "middle":  # res, attn, res
        return f"middle_block.{2 * part.stage + part.block}"
    index = part.at - (levels - 1 - part.level)  # a resampler is in the list of its last stage
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
    """Their tensors under the names of this network and in its shapes, float32.

    Raises DdpmError with what is missing, has another shape, or has no place in ours.
    """
    wanted = network.state_dict()
    places = _places(layout, network.config)
    expected = {
        theirs_name: piece
        for name, tensor in wanted.items()
        for theirs_name, piece in _pieces(name, tensor, places).items()
    }
    held = {
        name: _widened(tensor, expected[name].ndim) if name in expected else tensor
        for name, tensor in theirs.items()
    }
    if wrong := misfits(held, expected):
        raise DdpmError(f"the tensors are not those of the network they describe: {listed(wrong)}")
    return {
        name: torch.cat([held[piece].float() for piece in _pieces(name, tensor, places)])
        for name, tensor in wanted.items()
    }


def export_tensors(ours: Mapping[str, Tensor], layout: Layout, config: NetworkConfig) -> Tensors:
    """Our tensors under their names, in our shapes."""
    places = _places(layout, config)
    pieces = [_pieces(name, tensor, places) for name, tensor in ours.items()]
    return {name: piece.clone() for part in pieces for name, piece in part.items()}


def _pieces(name: str, tensor: Tensor, places: dict[str, tuple[str, ...]]) -> Tensors:
    """The tensors of theirs that one of ours is made of, by name, each in our shape."""
    layer, _, leaf = name.rpartition(".")
    names = places[layer]
    return {f"{place}.{leaf}": t for place, t in zip(names, tensor.chunk(len(names)), strict=True)}


def _widened(tensor: Tensor, dimensions: int) -> Tensor:
    """A linear layer is a convolution of 1 x 1: its weight with as many dimensions as ours."""
    return tensor.reshape(*tensor.shape, *[1] * (dimensions - tensor.ndim))


def _places(layout: Layout, config: NetworkConfig) -> dict[str, tuple[str, ...]]:
    """Our layers, and theirs that make up each."""
    found: dict[str, tuple[str, ...]] = {}
    for name, end in layout.ends.items():
        found[name] = (end,)
    for part in _parts(config):
        resampling = part.kind in ("halve", "double")
        kind = "res" if resampling and config.resample == "res" else part.kind
        place = layout.place(part, len(config.levels))
        for name, theirs in layout.kinds[kind].items():
            found[f"{part.name}.{name}"] = tuple(f"{place}.{layer}" for layer in theirs)
    return found
