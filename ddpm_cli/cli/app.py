"""The map of the commands, and the place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ddpm_cli import __version__
from ddpm_cli.cli import console
from ddpm_cli.cli.commands.convert import convert
from ddpm_cli.cli.commands.data import data
from ddpm_cli.cli.commands.distill import distill
from ddpm_cli.cli.commands.doctor import doctor
from ddpm_cli.cli.commands.ema import ema
from ddpm_cli.cli.commands.fetch_weights import fetch_weights
from ddpm_cli.cli.commands.fid import fid
from ddpm_cli.cli.commands.gif import gif
from ddpm_cli.cli.commands.inception_score import inception_score
from ddpm_cli.cli.commands.inspect import inspect
from ddpm_cli.cli.commands.inspect_schedule import inspect_schedule
from ddpm_cli.cli.commands.interpolate import interpolate
from ddpm_cli.cli.commands.invert import invert
from ddpm_cli.cli.commands.memorisation import memorisation
from ddpm_cli.cli.commands.nll import nll
from ddpm_cli.cli.commands.pull import pull
from ddpm_cli.cli.commands.push import push
from ddpm_cli.cli.commands.report import report
from ddpm_cli.cli.commands.runs import runs
from ddpm_cli.cli.commands.runs_clean import runs_clean
from ddpm_cli.cli.commands.runs_compare import runs_compare
from ddpm_cli.cli.commands.sample import sample
from ddpm_cli.cli.commands.sweep import sweep
from ddpm_cli.cli.commands.train import train
from ddpm_cli.cli.commands.train_classifier import train_classifier
from ddpm_cli.cli.options.arguments import Command, Group
from ddpm_cli.cli.options.preset_help import PresetHelp
from ddpm_cli.core.config import environment
from ddpm_cli.core.errors import DdpmError, WorkersFailedError
from ddpm_cli.core.runtime.elastic import worker

app = typer.Typer(
    name="ddpm",
    cls=Group,
    help="Train, sample and evaluate pixel-space diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(data)
app.command(cls=PresetHelp)(train)
app.command(cls=Command)(distill)
app.command(cls=Command)(sample)
app.command(cls=Command)(sweep)
app.command(cls=Command)(gif)
app.command(cls=Command)(interpolate)
app.command(cls=Command)(invert)
app.command(cls=Command)(ema)
app.command(cls=Command)(report)
app.command(cls=Command)(fid)
app.command(cls=Command)(inception_score)
app.command(cls=Command)(memorisation)
app.command(cls=Command)(fetch_weights)
app.command(cls=Command)(train_classifier)
app.command(cls=Command)(nll)
app.command(cls=Command)(convert)
app.command(cls=Command)(push)
app.command(cls=Command)(pull)
app.command(cls=Command)(inspect)
app.command(cls=Command)(inspect_schedule)
app.command(cls=Command)(runs)
app.command("runs clean", cls=Command)(runs_clean)
app.command("runs compare", cls=Command)(runs_compare)
app.command(cls=Command)(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ddpm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", metavar="", help="Show where an error arose; may stand anywhere."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            metavar="",
            help="Show warnings, errors and the result only; or behind the command.",
        ),
    ] = False,
) -> None:
    """Train, sample and evaluate pixel-space diffusion models."""
    console.be_quiet(quiet)


def main() -> None:
    """Run the command line: one line for errors that users can fix, a traceback for our bugs."""
    if "--traceback" in sys.argv:
        os.environ[environment.TRACEBACK] = "1"  # workers inherit it
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # we report lost connections
    worker.start()
    with console.tolerate_closed_streams():
        worker.exit_process(_run())


@contextmanager
def _errors_of_the_machine_in_a_line() -> Iterator[None]:
    """Turn a file that cannot be used, or too little memory, into a DdpmError."""
    try:
        yield
    except (OSError, MemoryError) as error:
        known = DdpmError.of_machine(error)
        if known is None:
            raise
        raise known from error


def _run() -> int | str | None:
    """Run the command; the exit code."""
    try:
        with _errors_of_the_machine_in_a_line():
            app(prog_name="ddpm")
    except DdpmError as error:
        reported = worker.report_failure(error)
        of_workers = reported or isinstance(error, WorkersFailedError)
        if environment.is_on(environment.TRACEBACK) and not of_workers:
            raise
        if not reported:
            console.fail(str(error))
        return error.exit_code
    except SystemExit as exit_:
        if isinstance(exit_.code, int) and exit_.code:  # because another process failed
            message = "another process reported the reason"
            worker.record_failure(message, exit_.code, lost_peers=True)
        return exit_.code
    except Exception as error:
        if not worker.report_failure(error):
            raise
        return 1
    return 0
