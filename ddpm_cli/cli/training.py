"""A training by a command: asked for, planned, announced, run and summarised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

from ddpm_cli.cli import console, settings_text
from ddpm_cli.cli.options.groups import SettingOptions
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import ScoringRequest, TrainingRequest
from ddpm_cli.core.errors import listed
from ddpm_cli.core.runtime import quantities, start_up
from ddpm_cli.core.runtime.reporting import Log, Warned

if TYPE_CHECKING:
    from ddpm_cli.core.runtime.elastic.stopping import StopRequest
    from ddpm_cli.core.runtime.reporting import Reporter
    from ddpm_cli.core.training.preparation.advised import Advice
    from ddpm_cli.core.training.preparation.planning import TrainingPlan
    from ddpm_cli.core.training.preparation.trial import StepTime
    from ddpm_cli.core.training.trainer import Execution


_DRY_RUN_STOPPED = ": dry run stopped; nothing was trained, and what is decoded is kept"


def requested(request: SettingOptions, config: SettingOptions, **more: Any) -> TrainingRequest:
    """What the options of a training ask for."""
    values = request.nested()
    scoring = ScoringRequest(**values.pop("scoring", {}))
    return TrainingRequest(**values, scoring=scoring, settings=config.nested(), **more)


def run(
    asked: TrainingRequest,
    resources: MachineConfig,
    calls: settings_text.Calls,
    *,
    dry_run: bool,
    as_json: bool,
    instead: Callable[[TrainingRequest, Log], None] | None = None,
) -> None:
    """Train, in the processes that are asked for; or do something else `instead`."""
    from ddpm_cli.core.runtime.elastic import stopping

    with stopping.catch_signals() as stop:
        from ddpm_cli.core.runtime import provenance
        from ddpm_cli.core.training import resuming, session  # import torch, which takes seconds
        from ddpm_cli.core.training.preparation import distilling

        start_up.end()
        with session.requeue_if_preempted(resources):
            training = distilling.with_student(resuming.with_run_named(asked))
            log = Log(console.reporter())
            if instead is not None:
                instead(training, log)
                return
            log.note(f"started: {provenance.command()}")
            if dry_run or not session.launch_if_needed(training, resources, stop, log):
                _train(training, resources, stop, log, calls, dry_run=dry_run, as_json=as_json)


def _train(
    request: TrainingRequest,
    machine: MachineConfig,
    stop: StopRequest,
    reporter: Log,
    calls: settings_text.Calls,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train in this process, alone or as one of several ranks."""
    from ddpm_cli.core.runtime import distributed, threads
    from ddpm_cli.core.training import divergence, session
    from ddpm_cli.core.training.preparation import advice, preflight

    execution = session.execution_on(machine, reporter)
    if execution.device.type == "cpu" and (crowded := threads.warning()):
        reporter.say(Warned(crowded))
    with ExitStack() as group:
        with stop.raise_at_once(*((_DRY_RUN_STOPPED,) if dry_run else ())):
            group.enter_context(distributed.process_group(execution.device))
            processes = machine.processes if dry_run else distributed.world_size()
            plan = preflight.preflight(request, processes, execution, reporter)
            document = plan.summary()
            _announce(document, reporter)
            if warning := divergence.warning(plan.config, plan.preset):
                reporter.say(Warned(warning))
            if dry_run:
                document |= _looked_into(plan, request, execution, processes, calls, reporter)
                ready = "Dry run: everything is in order; nothing was trained."
                console.result(ready, document, as_json)
                return
            _advise(advice.of_source(plan.source, plan.captions, plan.config), reporter)
        summary = session.train(plan, request, execution, reporter, stop)
    distilled = plan.config.objective.consistency is not None
    guided = plan.config.guidable and not distilled
    closing = _closing(summary, guided=guided, stop_at_gap=plan.config.stop_at_gap)
    reporter.note(closing)
    console.result(closing, summary, as_json)


def _looked_into(
    plan: TrainingPlan,
    request: TrainingRequest,
    execution: Execution,
    processes: int,
    calls: settings_text.Calls,
    reporter: Reporter,
) -> dict[str, Any]:
    """Load all that a training needs, time a step, and say what was found; as a document."""
    from ddpm_cli.core.conversion.exporting import why_not_exportable
    from ddpm_cli.core.training import session
    from ddpm_cli.core.training.preparation import looking, preflight, trial

    session.load_scoring(request, execution.device, reporter)
    images = preflight.load_images(plan, request, execution.device, reporter)
    training, held_out = preflight.load_held_out(plan, images, request, execution.device, reporter)
    reporter.say("Measuring a few steps …")
    step = trial.measure(plan, execution, training, held_out, processes)
    seen = None if isinstance(step, str) else step.images_seen(plan.config, len(training))
    sized = request.size is not None
    hints = looking.advise(plan.source, plan.config, reporter, size_given=sized, seen=seen)
    _advise(hints, reporter)
    times = _announce_time(plan.summary(), step, reporter)
    origins = settings_text.origins(plan, calls)
    for line in settings_text.origin_lines(plan, origins):
        reporter.say(line)
    if request.log:
        reporter.say(f"Trackers: {', '.join(request.log)} can be used")
    obstacle = why_not_exportable(plan.config)
    if obstacle is None:
        reporter.say("Export to diffusers: possible, by ddpm convert")
    return times | {
        "advice": [asdict(hint) for hint in hints],
        "origins": settings_text.as_document(origins),
        "no_export_because": obstacle,
    }


def _announce(plan: dict[str, Any], reporter: Reporter) -> None:
    classes, text = plan["classes"], ""
    if plan["captions"]:
        text = f", {plan['captions']:,} captions ({plan['captions_from']}), as {plan['caption']!r}"
    named = f", {len(classes)} classes ({listed(classes, 12)})"
    height, width = plan["size"]
    for notice in plan["notices"]:
        reporter.say(notice)
    reporter.say(
        f"{plan['pictures']:,} images of {height}x{width}x{plan['channels']}"
        + (text + (named if classes else "") or ", unconditional")
        + (f"; given {plan['given']} of each" if "given" in plan else "")
    )
    if plan["no_classes_because"] and not plan["captions"]:
        reporter.say(f"No classes are learned: {plan['no_classes_because']}.")
    if plan["labels"]:
        reporter.say(f"Classes: {plan['labels']}")
    words = [f"preset {plan['preset']}"] if plan["preset"] else []
    words += [plan["preset_because"]] if plan["preset_because"] else []
    settings = ", ".join(words) or "settings of the run resumed"
    reporter.say(f"Network: {plan['parameters']:,} parameters ({settings})")
    if plan["clipped_betas"]:
        reporter.say(f"Schedule {plan['clipped_betas']}")
    limits = []
    if plan["images"]:
        steps = "1 step" if plan["steps"] == 1 else f"{plan['steps']:,} steps"
        limits.append(
            f"{plan['images']:,} images = {steps} of {plan['batch']} "
            f"= {_rounded(plan['epochs'])} epochs"
        )
    if plan["minutes"]:
        limits.append(f"{plan['minutes']:g} minutes")
    reporter.say(f"Training for {' or '.join(limits)}; run directory {plan['out']}")
    if plan["memory_bytes"]:
        reporter.say(_memory(plan["memory_bytes"]))
    _announce_disk(plan["disk_bytes"], reporter, whole=plan["images"] is not None)


def _memory(needed: dict[str, int]) -> str:
    """The memory of a process at its peak, and the parts of it that count."""
    parts = {
        "activations": needed["activations"],
        "weights, average and optimiser": sum(
            needed[name] for name in ("weights", "average", "optimiser")
        ),
        "gradient": needed["gradient"],
        "copies that are saved": needed["saving"],
        "images": needed["images"],
        "libraries": needed["process"],
    }
    total = needed["total"]
    named = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items() if size > total / 50)
    return f"Memory: about {_bytes(total)} at the peak ({named})"


def _bytes(count: int) -> str:
    """To two digits, as an estimate is not better."""
    number, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{float(f'{number:.2g}'):,g} {unit}"


def _announce_disk(needed: dict[str, int], reporter: Reporter, *, whole: bool) -> None:
    """Say what the files need. whole: of a run whose images are known, and so its averages."""
    cache = f"; {_bytes(needed['cache'])} of decoded images in the cache" if needed["cache"] else ""
    averages, of_weights = needed["averages"], needed["weights"] // 2  # which are two files
    count, each = averages // of_weights, "" if whole else " each time"
    stored = f", {count:,} averages in ema/ ({_bytes(averages)}{each})" if averages else ""
    reporter.say(
        f"Disk: about {_bytes(needed['total'])} for snapshots, weights{stored} and previews, of "
        f"{_bytes(needed['free'])} free{cache}"
    )
    if needed["total"] > needed["free"]:
        reporter.say(
            Warned("The disk will be full before the training ends: lower --keep or --keep-every")
        )


def _announce_time(
    plan: dict[str, Any], step: StepTime | str, reporter: Reporter
) -> dict[str, Any]:
    """Say how long the training will take; the same as fields of the document."""
    if isinstance(step, str):
        reporter.say(f"Time: {step}")
        return {"seconds_per_step": None, "seconds": None, "time_measured": step}
    limit = plan["minutes"] and 60 * plan["minutes"]
    seconds, whole = plan["steps"] and step.mean * plan["steps"], ""
    if seconds and not (limit and limit < seconds):
        least, most = (quantities.duration(x * plan["steps"]) for x in (step.fastest, step.slowest))
        whole = f", {least if least == most else f'{least} to {most}'} for all steps"
    elif limit:
        whole, seconds = f", {_rounded(limit / step.mean)} steps in {plan['minutes']:g} min", limit
    reporter.say(
        f"Time: about {step.mean:.2g} s a step{whole}; saves, previews and validation come on top "
        f"({step.measured}, in {step.spent:.1f} s)"
    )
    return {"seconds_per_step": step.mean, "seconds": seconds, "time_measured": step.measured}


def _advise(hints: Sequence[Advice], reporter: Reporter) -> None:
    for hint in hints:
        warned = Warned(f"Warning: {hint.line}")
        reporter.say(warned if hint.warning else f"Proposal: {hint.line}")


def _rounded(number: float) -> str:
    """To three digits, but no digit of a whole number is lost: 0.125, 3.05, 15,400."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _closing(summary: dict[str, Any], *, guided: bool, stop_at_gap: float | None) -> str:
    speed, skipped = summary["images_per_second"], summary["skipped_steps"]
    rate = f" ({speed:,.1f} images/s, start-up and saves aside)" if speed else ""
    bad = f"; {skipped:,} of {summary['steps']:,} steps were not finite" if skipped else ""
    time = quantities.duration(summary["seconds"])
    held_out, run = summary["loss_heldout"], quote(summary["run"])
    overfitted = held_out is not None and held_out > 1.01 * summary["best"]
    chosen = " --weights best" if overfitted else ""
    why = " (the held-out loss was lowest with these)" if overfitted else ""
    gap = summary["gap"]
    copied = "" if None in (gap, stop_at_gap) else f", gap {gap:.2f} of {stop_at_gap:g} that stops"
    return (
        f"Trained on {summary['images']:,} images in {time}{rate}"
        f"{_losses(summary)}{copied}{bad}.\n"
        f"Run directory: {summary['run']}\n"
        f"Next: ddpm sample {run}{chosen}{' --guidance 2' * guided}{why}"
    )


def _losses(summary: dict[str, Any]) -> str:
    """Those there are: of the last images, smoothed, held out, and the lowest of one of these."""
    words = {"loss": "loss", "loss_smooth": "smoothed", "loss_heldout": "held out"}
    losses = [(words[name], summary[name]) for name in words]
    losses.append((f"best {words[summary['best_of']]}", summary["best"]))
    return "".join(f", {name} {loss:.4f}" for name, loss in losses if loss is not None)
