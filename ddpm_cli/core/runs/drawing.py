"""The network of an inspection as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ddpm_cli.core.figures import network
from ddpm_cli.core.runs.anatomy import (
    BLOCKS,
    DECODER,
    EMBEDDING,
    ENCODER,
    IN_CONTEXT,
    MIDDLE,
    Anatomy,
    Part,
)
from ddpm_cli.core.runs.inspection import Inspection
from ddpm_cli.core.runtime import quantities

_IN_A_LINE = 6  # blocks of a transformer


def draw(path: Path, found: Inspection) -> None:
    """Write the picture of the network, which the inspection has, as PNG."""
    anatomy = found.network
    assert anatomy is not None
    pairs = zip(anatomy.of(ENCODER), reversed(anatomy.of(DECODER)), strict=True)
    rows = [_row(anatomy, encoder, decoder) for encoder, decoder in pairs]
    rows += [_row(anatomy, middle, None) for middle in anatomy.of(MIDDLE)]
    for blocks in (*anatomy.of(BLOCKS), *anatomy.of(IN_CONTEXT)):
        rows += [_row(anatomy, some, None) for some in _lines(blocks)]
    network.draw(path, rows, str(found.path.absolute().name), _about(anatomy))


def _row(anatomy: Anatomy, left: Part, right: Part | None) -> network.Row:
    parts = [left] if right is None else [left, right]
    parameters, flops = sum(p.parameters for p in parts), sum(p.flops for p in parts)
    height, width = left.size or (1, 1)
    return network.Row(
        _group(left),
        None if right is None else _group(right),
        f"{height} x {width}",
        sum(stage != ("down",) for stage in left.stages) + 1,
        f"{quantities.count(parameters)} parameters, {quantities.count(flops)}FLOP",
        flops / max(1, anatomy.flops),
    )


def _lines(blocks: Part) -> Iterator[Part]:
    """The blocks of a transformer, which are alike, in lines of a few."""
    count = len(blocks.stages)
    for first in range(0, count, _IN_A_LINE):
        some = blocks.stages[first : first + _IN_A_LINE]
        share = len(some) / count
        parameters, flops = round(share * blocks.parameters), round(share * blocks.flops)
        yield replace(blocks, stages=some, parameters=parameters, flops=flops)


def _group(part: Part) -> network.Group:
    blocks = [kind for stage in part.stages for kind in stage]
    return network.Group(blocks, part.width, max(part.size or (1,)))


def _about(anatomy: Anatomy) -> list[str]:
    channels, height, width = anatomy.image
    (embedding,) = anatomy.of(EMBEDDING)
    return [
        f"{quantities.count(anatomy.parameters)} parameters, {quantities.count(anatomy.flops)}FLOP "
        f"for an image of {height} x {width} x {channels}",
        f"an embedding of {embedding.width} numbers of noise level and condition modulates the "
        "blocks",
    ]
