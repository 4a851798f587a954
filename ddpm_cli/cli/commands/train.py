"""`ddpm train`: a model from pictures."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common, scoring
from ddpm_cli.cli.options import machine as launching
from ddpm_cli.cli.options.conditioning import ConditionOptions
from ddpm_cli.cli.options.diffusion import DiffusionOptions
from ddpm_cli.cli.options.groups import given, grouped
from ddpm_cli.cli.options.machine import MachineOptions
from ddpm_cli.cli.options.network import NetworkOptions
from ddpm_cli.cli.options.saving import SavingOptions
from ddpm_cli.cli.options.training import DataOptions, LearningOptions, LengthOptions


@grouped
def train(
    data: DataOptions,
    shown: ConditionOptions,
    length: LengthOptions,
    network: NetworkOptions,
    diffusion: DiffusionOptions,
    learning: LearningOptions,
    saving: SavingOptions,
    judged: scoring.InTrainingOptions,
    machine: MachineOptions,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, train nothing.")
    ] = False,
    json: common.Json = False,
) -> None:
    """Train a diffusion model; the same command again goes on where the last one stopped.

    The budget is --images, --steps, --epochs or --minutes, whichever ends first; without any, the
    preset's. Unset options take the preset's values.
    """
    from ddpm_cli.core.runtime.elastic import stopping

    with launching.requeue_if_preempted(machine), stopping.catch_signals() as stop:
        from ddpm_cli.core.training.planning import (
            TrainingRequest,  # brings torch, which takes a while
        )

        learned = diffusion.settings()
        request = TrainingRequest(
            data=data.data,
            preset=data.preset,
            config=data.config,
            size=common.parse_size(data.size),
            channels=data.channels,
            conditional=shown.conditional,
            captions=shown.captioned,
            out=saving.out,
            resume=saving.resume,
            init_from=learning.init_from,
            skip_bad=data.skip_bad,
            time_limit=stopping.parse_time_limit(machine.time_limit),
            stall_timeout=machine.stall_timeout,
            settings={
                **learned,
                "network": learned["network"] | network.settings() | shown.network(),
                "data": data.settings() | shown.data(),
                "optimiser": learning.settings() | shown.optimiser(),
                "budget": length.settings(),
                **given(patience=length.patience),
                **saving.settings(),
            },
        )
        launching.check(request, machine)
        if dry_run or not launching.launch_if_needed(request, machine, stop):
            _work(request, machine, stop, judged.requested, dry_run=dry_run, as_json=json)


def _work(
    request: Any,
    how: MachineOptions,
    stop: Any,
    judged: scoring.InTraining | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train in this process, alone or as one of several."""
    from ddpm_cli.core.runtime import devices, distributed
    from ddpm_cli.core.training import captioning, planning, resuming, session
    from ddpm_cli.core.training.trainer import Execution

    reporter = console.reporter()
    chosen = devices.choose_device(how.device)
    machine = Execution(
        chosen,
        devices.choose_precision(how.precision, chosen),
        how.microbatch,
        compiled=how.compiled and devices.can_compile(chosen, reporter),
    )
    with distributed.process_group(chosen):
        with stop.raise_at_once():
            plan = distributed.run_on_all_ranks(lambda: planning.plan(request))
            _announce(plan.summary(), reporter)
            scoring = None if judged is None else _scoring(judged, machine, reporter)
            if dry_run:
                session.check_batch(plan.config, how.nproc * how.nnodes)
                resuming.choose_directory(plan, request)
                resuming.check_named(plan, request)
                pictures = session.load_images(plan, request, reporter)
                captioning.with_texts(pictures, plan.captions, plan.config, chosen, reporter)
                console.result(
                    "Dry run: everything is in order; nothing was trained.", plan.summary(), as_json
                )
                return

        summary = session.run(plan, request, machine, reporter, stop, scoring)
    console.result(_closing(summary), summary, as_json)


def _scoring(judged: scoring.InTraining, machine: Any, reporter: Any) -> Any:
    from ddpm_cli.core.training.scoring import ScoringPlan, TrainingScorer  # brings torchvision

    asked = ScoringPlan(judged.every, judged.count, judged.network.load(machine.device, reporter))
    return partial(TrainingScorer, asked, reporter, machine.precision)


def _announce(plan: dict[str, Any], reporter: Any) -> None:
    classes, text = plan["classes"], ""
    if plan["captions"]:
        text = f", {plan['captions']:,} captions ({plan['captions_from']}), as {plan['caption']!r}"
    named = f", {len(classes)} classes ({', '.join(classes[:12])}{', …' if classes[12:] else ''})"
    height, width = plan["size"]
    reporter.say(
        f"{plan['pictures']:,} images of {height}x{width}x{plan['channels']}"
        + (text + (named if classes else "") or ", unconditional")
    )
    if plan["no_classes_because"] and not plan["captions"]:
        reporter.say(f"No classes are learned: {plan['no_classes_because']}.")
    reporter.say(f"Network: {plan['parameters']:,} parameters (preset {plan['preset']})")
    limits = []
    if plan["images"]:
        limits.append(
            f"{plan['images']:,} images = {plan['steps']:,} steps of {plan['batch']} "
            f"= {plan['epochs']:.3g} epochs"
        )
    if plan["minutes"]:
        limits.append(f"{plan['minutes']:g} minutes")
    reporter.say(f"Training for {' or '.join(limits)}; run directory {plan['out']}")


def _closing(summary: dict[str, Any]) -> str:
    return (
        f"Trained on {summary['images']:,} images in {summary['seconds'] / 60:.1f} min "
        f"({summary['images_per_second']:,.1f} images/s), loss {summary['loss']:.4f}.\n"
        f"Run directory: {summary['run']}\n"
        f"Next: ddpm sample {summary['run']}"
    )
