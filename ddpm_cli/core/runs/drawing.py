"""The network of an inspection as a picture."""

from __future__ import annotations

from pathlib import Path

from ddpm_cli.core.figures import network
from ddpm_cli.core.runs.anatomy import DECODER, EMBEDDING, ENCODER, MIDDLE, Anatomy, Part
from ddpm_cli.core.runs.inspection import Inspection


def draw(path: Path, found: Inspection) -> None:
    """Write the picture of the network, which the inspection has, as PNG."""
    anatomy = found.network
    assert anatomy is not None
    pairs = zip(anatomy.of(ENCODER), reversed(anatomy.of(DECODER)), strict=True)
    rows = [_row(anatomy, encoder, decoder) for encoder, decoder in pairs]
    rows += [_row(anatomy, middle, None) for middle in anatomy.of(MIDDLE)]
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
        f"{count(parameters)} parameters, {count(flops)}FLOP",
        flops / max(1, anatomy.flops),
    )


def _group(part: Part) -> network.Group:
    blocks = [kind for stage in part.stages for kind in stage]
    return network.Group(blocks, part.width, max(part.size or (1,)))


def _about(anatomy: Anatomy) -> list[str]:
    channels, height, width = anatomy.image
    (embedding,) = anatomy.of(EMBEDDING)
    return [
        f"{count(anatomy.parameters)} parameters, {count(anatomy.flops)}FLOP for an image of "
        f"{height} x {width} x {channels}",
        f"an embedding of {embedding.width} numbers of noise level and condition modulates the "
        "blocks",
    ]


def count(number: int) -> str:
    """A number to three digits with its unit: "35.7 M", "12.4 G", "640 "."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "
