"""`ddpm report`: a run, or two beside each other, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


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
            help="Two runs in one page: the settings that differ, curves over each other, samples "
            "side by side.",
        ),
    ] = False,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Draw a grid, a film and a contact sheet for the page: 36 images in 50 steps and "
            "about as much again. Without it the page has the pictures that lie in the run.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page (.html). An earlier page of ddpm report is replaced.",
            show_default="report.html in the run; comparison.html in the first of two",
        ),
    ] = None,
    overwrite: common.OverwriteFile = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Show a run in one HTML page: state, curves, samples, scores, settings.

    The page loads nothing from elsewhere, so it can be sent to others as it is.

    Examples:
        ddpm report
        ddpm report runs/photos-64 --sample --open
        ddpm report runs/photos-64 --compare runs/photos-64-2
    """
    from ddpm_cli.core.report import page
    from ddpm_cli.core.runtime import devices, provenance, run_directory

    start_up.end()
    wanted = [paths.expanded(name) for name in runs or ()]
    if compare and len(wanted) != 2:
        raise UsageError(f"--compare takes two runs, not {len(wanted)}")
    if compare and sample:
        raise UsageError("--sample draws for the page of one run: leave out --compare")
    if len(wanted) > 2 - (not compare):
        raise UsageError(f"{len(wanted)} runs are given; a page of two needs --compare")
    records = [page.open_run(path) for path in wanted or [run_directory.newest_run()]]
    name = "comparison.html" if compare else "report.html"
    path = records[0].summary.path / name if out is None else out
    page.check(path, overwrite=overwrite)
    reporter = console.reporter()
    if compare:
        written = page.write_comparison(records, path, reporter)
    else:
        chosen = devices.choose_device(device) if sample else None
        written = page.write(records[0], path, reporter, chosen)
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    document = {
        "out": str(path),
        "runs": [str(record.summary.path) for record in records],
        "states": [record.summary.state for record in records],
        "bytes": written.bytes,
        "left_out": list(written.left_out),
        "provenance": provenance.gather(),
    }
    told = [f"{path} ({written.bytes / 1e6:.1f} MB)", *written.left_out]
    console.result("\n".join(told), document, json)
