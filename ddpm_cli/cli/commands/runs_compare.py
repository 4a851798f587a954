"""`ddpm runs compare`: how runs differ, in settings, curves and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from string import hexdigits
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console, tables
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import SettingOptions, grouped
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import quantities, start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

if TYPE_CHECKING:
    from ddpm_cli.core.runs.differences import Compared
    from ddpm_cli.core.runs.summary import RunSummary

_LONGEST = 40  # characters of a setting's value
_HASH = 64  # digits of a SHA-256
_MOST = 100  # images of a run


class CompareOptions(SettingOptions, of=Sampling, only=("steps", "sampler", "eta", "guidance")):
    """How the samples are drawn."""


@grouped
@stop_at_once()
def runs_compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Two runs or more: A B", show_default=False)
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-n",
            min=0,
            max=_MOST,
            help="Samples of each run, of the same seeds and, where all know them, the same "
            "classes. 0: none are drawn.",
        ),
    ] = 8,
    *,
    sampling: CompareOptions,
    seed: common.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for curves.png and samples.png.",
            show_default="compared/, compared-2/, … here",
        ),
    ] = None,
    overwrite: common.Overwrite = False,
    device: common.Device = "auto",
    precision: common.Precision = "auto",
    json: common.Json = False,
) -> None:
    """Compare runs: the settings that differ, curves over each other, samples side by side.

    Examples:
        ddpm runs compare runs/small runs/large
    """
    from ddpm_cli.core.runs import differences

    compared = differences.compare(runs or [])
    common.sampling_of(sampling.nested())  # checked before anything is loaded
    if not count and sampling.nested():
        raise UsageError("-n 0 draws no samples, and the other options say how to draw them")
    from ddpm_cli.core.runs import side_by_side
    from ddpm_cli.core.runtime import devices

    start_up.end()
    samples = None
    if count:
        chosen = devices.choose_device(device)
        precise = devices.choose_precision(precision, chosen)
        samples = side_by_side.Samples(count, seed, sampling.nested(), chosen, precise)
    pictures = side_by_side.draw(
        compared, side_by_side.new_place(out), samples, console.reporter(), overwrite=overwrite
    )
    text = "\n\n".join(filter(None, [*_paragraphs(compared), _written(pictures)]))
    console.result(text, compared.document() | pictures, json)


def _paragraphs(compared: Compared) -> list[str]:
    """Where the runs stand, the settings that differ, and what cannot be compared."""
    settings = compared.settings
    columns = [Column("SETTING", [one.option or one.name for one in settings])]
    for run, name in enumerate(compared.names):
        columns.append(Column(name, [_value(one.values[run]) for one in settings], cut="end"))
    told = tables.table(columns) if settings else "All settings are the same."
    return [_standing(compared), told, *(f"Caution: {words}." for words in compared.cautions)]


def _standing(compared: Compared) -> str:
    """State, progress, losses and scores, a column for each run."""
    facts: dict[str, Callable[[RunSummary], str]] = {
        "state": lambda run: run.state,
        "data": lambda run: run.data,
        "preset": lambda run: run.preset,
        "images seen": lambda run: f"{run.images:,}",
        "budget used": lambda run: "" if run.used is None else f"{100 * run.used:.0f} %",
        "training time": lambda run: (
            "" if run.seconds is None else quantities.duration(run.seconds)
        ),
        "loss, smoothed": lambda run: _loss(run.loss),
        "loss, held out": lambda run: _loss(run.held_out),
        "best score": lambda run: "" if run.score is None else _score(run),
    }
    shown = {name: [of(run) for run in compared.runs] for name, of in facts.items()}
    shown = {name: cells for name, cells in shown.items() if any(cells)}
    columns = [Column("RUN", list(shown))]
    for number, name in enumerate(compared.names):
        columns.append(Column(name, [cells[number] for cells in shown.values()], cut="start"))
    if len(compared.runs) == 2:
        changes = dict(zip(_CHANGES, compared.changes.values(), strict=True))
        firsts = dict(zip(_CHANGES, _firsts(compared.runs[0]), strict=True))
        cells = [_change(changes.get(name, [None])[-1], firsts.get(name)) for name in shown]
        columns.append(Column("DIFFERENCE", cells, right=True))
    return tables.table(columns)


_CHANGES = ("images seen", "training time", "loss, smoothed", "loss, held out", "best score")


def _firsts(run: RunSummary) -> Sequence[float | None]:
    """The numbers of the first run, in the order of the changes."""
    return run.images, run.seconds, run.loss, run.held_out, run.best


def _change(change: float | None, first: float | None) -> str:
    """By how many percent the second run's number is larger."""
    return "" if change is None or not first else f"{100 * change / first:+.1f} %"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.5f}"


def _score(run: RunSummary) -> str:
    assert run.score is not None
    return f"{run.score.label} {run.score.value:.4g} at {run.score.images:,} images"


def _value(value: Any) -> str:
    """A setting's value as it is given on the command line, or in short."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        text = ",".join(map(str, value))
        return text if len(text) <= _LONGEST else f"{len(value)} values"
    if isinstance(value, str) and len(value) == _HASH and not set(value) - set(hexdigits):
        return f"{value[:8]}…"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _written(pictures: dict[str, Any]) -> str:
    return "\n".join(
        f"{what}: {pictures[name]}"
        for name, what in (("curves", "Curves"), ("samples", "Samples"))
        if pictures[name]
    )
