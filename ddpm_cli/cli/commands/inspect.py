"""`ddpm inspect`: what a run or a file of weights is."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli import console, tables
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import quantities, start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.files import new_file

if TYPE_CHECKING:
    from ddpm_cli.core.runs.anatomy import Anatomy, Part
    from ddpm_cli.core.runs.inspection import Inspection

_BAR = 8  # columns of the longest bar of operations
_LABEL = 11  # columns of the labels


@grouped
@stop_at_once()
def inspect(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run, weights file, snapshot, classifier, folder of diffusers, or another "
            "program's weights. Default: the newest run."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the network, level by level, into this PNG.")
    ] = None,
    overwrite: common.OverwriteFile = False,
    json: common.Json = False,
) -> None:
    """Show what a run or file is: network, noise, objective, data, training, origin.

    The network is drawn level by level, with parameters and operations (FLOPs) of the forward pass
    of one image. Nothing of a file is unpickled, and no weights are read.

    Examples:
        ddpm inspect
        ddpm inspect runs/shapes-32 --plot network.png
        ddpm inspect weights.safetensors --json
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot} should end in .png")
    from ddpm_cli.core.runs import facts, inspection

    start_up.end()
    found = inspection.inspect(run)
    document = facts.document(found)
    lines = [_facts(found)]
    if found.network is not None:
        lines.insert(0, _network(found.network))
    if plot is not None:
        if found.network is None:
            raise UsageError(f"--plot draws a network, and {found.path} has none of ddpm")
        from ddpm_cli.core.runs import drawing  # imports matplotlib

        with new_file(plot, "--plot", overwrite=overwrite) as path:
            drawing.draw(path, found)
        document["plot"] = str(path)
        lines.append(f"Drawn: {path}")
    console.result("\n\n".join([str(found.path), *lines]), document, json)


def _network(network: Anatomy) -> str:
    """The parts in a table, indented as the U, with all of them together in the last line."""
    parts = network.parts
    most = max(part.flops for part in parts)
    total = (
        "total",
        "",
        "",
        "",
        "",
        quantities.count(network.parameters),
        quantities.count(network.flops),
        "",
    )
    rows = [*(_row(part, most) for part in parts), total]
    titles = ("PART", "SIZE", "WIDTH", "BLOCKS", "HEADS", "PARAMS", "FLOPS", "")
    cells = list(zip(*rows, strict=True))
    right = ("WIDTH", "HEADS", "PARAMS", "FLOPS")
    needed = {"": 1, "HEADS": 2}
    return tables.table(
        [
            Column(
                title,
                cells[i],
                right=title in right,
                needed=needed.get(title, 0),
                cut="end" if title == "BLOCKS" else "",
            )
            for i, title in enumerate(titles)
        ]
    )


def _row(part: Part, most: int) -> tuple[str, ...]:
    size = "" if part.size is None else f"{part.size[0]}x{part.size[1]}"
    heads = str(part.heads) if part.heads else ""
    bar = "█" * round(_BAR * part.flops / most) if most else ""
    numbers = (quantities.count(part.parameters), quantities.count(part.flops))
    return (_name(part), size, str(part.width), _blocks(part), heads, *numbers, bar)


def _name(part: Part) -> str:
    """The part, further to the right the coarser its level is."""
    levels = part.name in ("encoder", "decoder")
    inner = part.level + 1 if levels or part.name == "middle" else 0
    return f"{' ' * (inner + (part.name == 'middle'))}{part.name}" + (
        f" {part.level + 1}" if levels else ""
    )


def _blocks(part: Part) -> str:
    """The blocks, with stages that follow each other and are equal counted: 2 x res,attn."""
    words: list[tuple[str, int]] = []
    for stage in part.stages:
        text = ",".join(stage)
        if words and words[-1][0] == text:
            words[-1] = (text, words[-1][1] + 1)
        else:
            words.append((text, 1))
    return ", ".join(f"{count} x {text}" if count > 1 else text for text, count in words)


def _facts(found: Inspection) -> str:
    """A line each, wrapped behind its label."""
    from ddpm_cli.core.runs.facts import facts

    width = max(40, min(100, shutil.get_terminal_size().columns))
    lines = []
    for label, text in facts(found):
        first, *rest = wrap(text, width - _LABEL, break_long_words=False) or [""]
        lines.append(f"{label:<{_LABEL}}{first}")
        lines += (" " * _LABEL + line for line in rest)
    return "\n".join(lines)
