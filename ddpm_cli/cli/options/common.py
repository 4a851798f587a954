"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli.options.groups import SettingOptions, default_of, help_of
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError

CONDITIONS, SAMPLING, MACHINE, DATA = "Conditions", "Sampling", "Machine", "Data"  # panels

SEED = "Image i depends on seed + i alone."

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, the rest on stderr.")
]
Device = Annotated[
    str, typer.Option(help=help_of(MachineConfig, "device"), rich_help_panel=MACHINE)
]
Precision = Annotated[
    str, typer.Option(help=help_of(MachineConfig, "precision"), rich_help_panel=MACHINE)
]
Nproc = Annotated[
    int, typer.Option(min=1, help=help_of(MachineConfig, "nproc"), rich_help_panel=MACHINE)
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave unreadable images out instead of stopping.",
        rich_help_panel=DATA,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=help_of(TrainingRequest, "max_pixels"),
        show_default=default_of(TrainingRequest, "max_pixels"),
        rich_help_panel=DATA,
    ),
]
Run = Annotated[
    Path | None,
    typer.Argument(
        help="A run directory, weights file or snapshot. Default: the newest run under runs/."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help=SEED, rich_help_panel=SAMPLING)]
Batch = Annotated[
    str,
    typer.Option(
        help="Images at a time in a process, or auto: on a GPU what its memory allows, 64 "
        "elsewhere. Changes speed and memory only.",
        rich_help_panel=MACHINE,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier call left at --out.")
]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file if it is there.")
]


def run_and_rest(places: list[str], count: int, what: str) -> tuple[Path | None, list[str]]:
    """Arguments of which the first may be a run: (the run, the `count` others). Raises UsageError.

    what: the others, for messages.
    """
    if len(places) not in (count, count + 1):
        raise UsageError(f"give {what}, with a run before or without; not {len(places)} arguments")
    run = Path(places[0]) if len(places) > count else None
    return run, places[-count:]


class SamplingOptions(SettingOptions, of=Sampling):
    """How images are sampled."""

    @property
    def sampling(self) -> Sampling:
        """The settings, checked against each other."""
        return sampling_of(self.nested())


class SheetOptions(SettingOptions, of=Sampling, several=("steps", "eta", "guidance", "sampler")):
    """The same, of which some take several values: those of a contact sheet."""


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """Settings by their names, checked against each other."""
    return Sampling(**settings)
