"""`ddpm train`: train a model on images."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli import console, settings_text, training
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import SettingOptions, grouped
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import UsageError

if TYPE_CHECKING:
    from ddpm_cli.core.runtime.reporting import Reporter


class RequestOptions(SettingOptions, of=TrainingRequest):
    """Data, preset, run directory and scores."""


class ConfigOptions(SettingOptions, of=RunConfig):
    """Settings of the run."""


class MachineOptions(SettingOptions, of=MachineConfig):
    """Processes, device and precision."""


@grouped
def train(
    request: RequestOptions,
    config: ConfigOptions,
    machine: MachineOptions,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, train nothing.")
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            help="Print all settings of the run as TOML, with comments (with --json as JSON), and "
            "end: --config FILE makes the same run of it.",
        ),
    ] = False,
    json: common.Json = False,
) -> None:
    """Train a diffusion model; the same command again resumes it.

    The budget is --images, --steps, --epochs or --minutes, whichever ends first; without any, the
    preset's. Unset options take the preset's values: those shown are of the preset `shapes`, and
    with --preset NAME --help those of NAME.

    Examples:
        ddpm train
        ddpm train --data photos/ --size 64 --minutes 60
        ddpm train --data cifar10 --preset cifar10-fast --nproc 8
    """
    if dry_run and print_config:
        raise UsageError("--dry-run reports and --print-config prints the settings: give one")
    resources = MachineConfig(**machine.nested())
    calls = settings_text.calls(request, machine)
    asked = training.requested(request, config)
    shown = partial(_print_config, resources, calls, as_json=json) if print_config else None
    training.run(asked, resources, calls, dry_run=dry_run, as_json=json, instead=shown)


def _print_config(
    machine: MachineConfig,
    calls: settings_text.Calls,
    request: TrainingRequest,
    reporter: Reporter,
    *,
    as_json: bool,
) -> None:
    """Print what the run would be, on a machine that need not be able to train it."""
    from ddpm_cli.core.config.serialisation import to_dict
    from ddpm_cli.core.config.toml import as_toml
    from ddpm_cli.core.runtime import devices
    from ddpm_cli.core.training.preparation.planning import plan_training

    named = machine.device != "auto"
    device = machine.device if named else devices.choose_device("auto").type
    plan = plan_training(request, reporter, device)
    for notice in plan.notices:
        reporter.say(notice)
    config = plan.whole_config
    text = as_toml(config, settings_text.remarks(plan))
    heading = settings_text.heading(plan, calls)
    console.result(f"{heading}\n{text}".rstrip(), to_dict(config), as_json)
