"""`ddpm distill`: a model of few steps from a trained one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import settings_text, training
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import SettingOptions, grouped
from ddpm_cli.core.config.consistency import (
    parse_guidance,
    with_calls,
    with_guidance,
)
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig

_OF_REQUEST = (
    *("data", "data_root", "config", "cache", "skip_bad", "max_pixels", "out", "resume", "log"),
    *("time_limit", "stall_timeout"),
    *("scoring.every", "scoring.count", "scoring.weights", "scoring.features"),
)
_OF_CONFIG = (
    *("budget.images", "budget.minutes", "optimiser.batch", "optimiser.lr", "optimiser.seed"),
    *("network.dropout", "data.holdout", "holdout_data", "snapshot_every", "validate_every"),
    *("log_every", "keep", "keep_every", "preview"),
)
_TEACHERS = "the teacher's"


class RequestOptions(
    SettingOptions,
    of=TrainingRequest,
    only=_OF_REQUEST,
    defaults={"data": _TEACHERS, "out": "runs/<teacher>-distilled"},
):
    """Data, run directory and scores."""


class ConfigOptions(
    SettingOptions,
    of=RunConfig,
    only=_OF_CONFIG,
    defaults=dict.fromkeys(_OF_CONFIG, _TEACHERS)
    | {
        "budget.images": "what takes 30 % of the teacher's time, 45 % with --calls 0",
        "budget.minutes": "no limit",
        "optimiser.lr": "half of the teacher's, a quarter with --calls 0",
    },
):
    """Settings of the run."""


class MachineOptions(
    SettingOptions, of=MachineConfig, defaults={"precision": "auto, fp32 with --calls 0"}
):
    """Processes, device and precision."""


@grouped
def distill(
    teacher: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory or weights file: the teacher."),
    ],
    request: RequestOptions,
    config: ConfigOptions,
    machine: MachineOptions,
    *,
    calls: Annotated[
        int | None,
        typer.Option(
            help="Network calls of a sample that are learned, each from steps of the teacher; 0: "
            "any number, from the images alone, by consistency tuning.",
            show_default="2",
            rich_help_panel="Objective",
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            help="Learn the teacher with guidance: 2, or a range such as 1,4, of which ddpm sample "
            "--guidance then chooses. A step takes 1.7 times as long. With --calls 0, 1 is the "
            "teacher's own steps without guidance, which take a quarter longer.",
            show_default="none",
            rich_help_panel="Conditions",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, train nothing.")
    ] = False,
    json: common.Json = False,
) -> None:
    """Make a model of few steps of a trained model: it samples in two network calls.

    It is a run like any other, which begins with the teacher's weights, settings and data, and
    learns in each call where eight steps of the teacher lead to. The same command again resumes it.

    Examples:
        ddpm distill runs/mnist-28
        ddpm distill runs/cifar10-32 --images 2000000 --out runs/fast
        ddpm distill runs/photos-64 --guidance 1,4
        ddpm distill runs/mnist-28 --calls 0
    """
    asked = training.requested(request, config, teacher=teacher)
    if calls is not None:
        asked = replace(asked, settings=with_calls(asked.settings, calls))
    if guidance is not None:
        asked = replace(asked, settings=with_guidance(asked.settings, parse_guidance(guidance)))
    resources = MachineConfig(**machine.nested())
    typed = settings_text.calls(request, machine)
    training.run(asked, resources, typed, dry_run=dry_run, as_json=json)
