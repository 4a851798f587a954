"""`ddpm report`: a run, or two beside each other, as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.files import in_words

if TYPE_CHECKING:
    from ddpm_cli.core.report.page import Written
    from ddpm_cli.core.report.records import Record


@grouped
@stop_at_once()
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [OTHER]",
            help="A run directory, and with --compare another. Default: the newest run under "
            "runs/.",
        ),
    ] = None,
    *,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Two runs in one page: the settings that differ, what cannot be compared, curves "
            "over each other, and side by side the previews after about as many images; samples "
            "with --sample.",
        ),
    ] = False,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Draw for the page: a grid, a film and a contact sheet (36 images in 50 steps and "
            "about as much again); with --compare 8 samples of each run, of the same seeds. "
            "Without it the page has the pictures that lie in the run, or the previews of both.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page (.html). An earlier page of ddpm report is replaced.",
            show_default="report.html in the run; comparison.html in the first of two",
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="A page for others: without the machine, the log and command lines, and of "
            "folders only the last part.",
        ),
    ] = False,
    overwrite: common.OverwriteFile = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Show a run in one HTML page: state, curves, samples, scores, settings.

    The page loads nothing from elsewhere. It names the machine, folders and command lines of the
    run, and has its log: add --public before you send it to others.

    Examples:
        ddpm report
        ddpm report runs/photos-64 --sample --open
        ddpm report runs/photos-64 --public --out for-others.html
        ddpm report runs/photos-64 --compare runs/photos-64-2
    """
    from ddpm_cli.core.report import page

    start_up.end()
    records = _opened(runs or (), compare=compare, public=public)
    name = "comparison.html" if compare else "report.html"
    path = records[0].summary.path / name if out is None else out
    page.check(path, overwrite=overwrite)
    written = _written(records, path, device if sample else None)
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    console.result(_told(written, public=public), _document(written, records), json)


def _opened(runs: Sequence[str], *, compare: bool, public: bool) -> list[Record]:
    """The runs of the page: one, or with --compare two."""
    from ddpm_cli.core.report import page
    from ddpm_cli.core.runtime import run_directory

    wanted = [paths.expanded(name) for name in runs]
    if compare and len(wanted) != 2:
        raise UsageError(f"--compare takes two runs, not {len(wanted)}")
    if len(wanted) > 2 - (not compare):
        raise UsageError(f"{len(wanted)} runs are given; a page of two needs --compare")
    found = wanted or [run_directory.newest_run()]
    return [page.open_run(path, public=public) for path in found]


def _written(records: Sequence[Record], path: Path, sample_on: str | None) -> Written:
    """Write the page of one run or two. sample_on: the device for samples; None: none."""
    from ddpm_cli.core.report import page
    from ddpm_cli.core.runtime import devices

    device = None if sample_on is None else devices.choose_device(sample_on)
    if len(records) == 2:
        return page.write_comparison(records, path, console.reporter(), device)
    return page.write(records[0], path, console.reporter(), device)


def _told(written: Written, *, public: bool) -> str:
    """Where the page is, what is not in it, and what of this machine is."""
    lines = [f"{written.path} ({in_words(written.bytes)})", *written.left_out]
    if not public:
        lines.append(
            "The page names folders of this machine, and of one run the machine, commands and "
            "log: for others, --public leaves them out."
        )
    return "\n".join(lines)


def _document(written: Written, records: Sequence[Record]) -> dict[str, Any]:
    """What was written, as JSON values."""
    from ddpm_cli.core.runtime import provenance

    return {
        "out": str(written.path),
        "runs": [str(record.summary.path) for record in records],
        "states": [record.summary.state for record in records],
        "public": records[0].public,
        "bytes": written.bytes,
        "left_out": list(written.left_out),
        "provenance": provenance.gather(),
    }
