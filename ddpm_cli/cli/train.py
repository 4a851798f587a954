"""`ddpm train`: a model from pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console, diffusion, judging, launching, options
from ddpm_cli.core.presets import PRESETS

_DATA = "Data"
_LENGTH = "Length"
_LEARNING = "Learning"
_SAVING = "Saving"
_JUDGING = "Judging"
_MACHINE = "Machine"

_PRESET_HELP = "Settings to start from: " + "; ".join(f"{n}: {p.about}" for n, p in PRESETS.items())


def train(
    data: Annotated[
        str,
        typer.Option(
            help="A folder or .zip of images (sub-folders are classes), the built-in shapes, or "
            "mnist, fashion-mnist, kmnist, svhn, stl10, cifar10, cifar100.",
            rich_help_panel=_DATA,
        ),
    ] = "shapes",
    preset: Annotated[
        str | None,
        typer.Option(help=f"{_PRESET_HELP}.", rich_help_panel=_DATA, show_default="by the data"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON or TOML file of settings over the preset's, such as a run's config.json.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Picture size in pixels, 64 or 64x128 (height x width): images are cropped to "
            "that shape around their centre and resized.",
            rich_help_panel=_DATA,
            show_default="the images' own up to 64, else 64",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            help="1 grey, 3 colour, 4 with alpha.",
            rich_help_panel=_DATA,
            show_default="1 if all are grey, else 3",
        ),
    ] = None,
    unconditional: Annotated[
        bool | None,
        typer.Option(
            "--unconditional/--conditional",
            help="Ignore the classes, or learn them.",
            rich_help_panel=_DATA,
            show_default="learn them, unless the preset says otherwise",
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            help="Mirror half of the images.", rich_help_panel=_DATA, show_default="by the preset"
        ),
    ] = None,
    holdout: Annotated[
        int | None,
        typer.Option(
            help="Images kept out of training to measure a validation loss on.",
            rich_help_panel=_DATA,
            show_default="0",
        ),
    ] = None,
    skip_bad: options.SkipBad = False,
    images: Annotated[
        int | None, typer.Option(help="Stop after this many images seen.", rich_help_panel=_LENGTH)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Stop after this many optimiser steps.", rich_help_panel=_LENGTH),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Stop after this many passes over the data.", rich_help_panel=_LENGTH),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this many minutes of training.", rich_help_panel=_LENGTH),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when this many snapshots in a row bring no better (held-out) loss.",
            rich_help_panel=_LENGTH,
            show_default="never",
        ),
    ] = None,
    schedule: diffusion.Schedule = None,
    timesteps: diffusion.Timesteps = None,
    beta_min: diffusion.BetaMin = None,
    beta_max: diffusion.BetaMax = None,
    parameterisation: diffusion.Parameterisation = None,
    loss: diffusion.Loss = None,
    weighting: diffusion.Weighting = None,
    weighting_gamma: diffusion.WeightingGamma = None,
    noise_levels: diffusion.NoiseLevels = None,
    noise_mean: diffusion.NoiseMean = None,
    noise_std: diffusion.NoiseStd = None,
    learned_variance: diffusion.LearnedVariance = None,
    vlb_weight: diffusion.VlbWeight = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Images an optimiser step, over all processes together.", rich_help_panel=_LEARNING
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate (AdamW).", rich_help_panel=_LEARNING)
    ] = None,
    class_drop: Annotated[
        float | None,
        typer.Option(
            help="Share of labels hidden in training, which is what makes --guidance possible.",
            rich_help_panel=_LEARNING,
            show_default="0.1",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of weights, order and noise.", rich_help_panel=_LEARNING, show_default="0"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run directory.", rich_help_panel=_SAVING, show_default="runs/<data>-<size>"
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on from the newest snapshot if there is one; never: start a new run; or "
            "a snapshot's path.",
            rich_help_panel=_SAVING,
        ),
    ] = "auto",
    snapshot_every: Annotated[
        int | None, typer.Option(help="Images between snapshots.", rich_help_panel=_SAVING)
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Snapshots kept.", rich_help_panel=_SAVING, show_default="2")
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(
            help="Pictures in a preview grid, drawn at every snapshot; 0: none.",
            rich_help_panel=_SAVING,
        ),
    ] = None,
    fid_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images between scores: FID of drawn pictures against the training's, in "
            "scores.jsonl; the best weights are kept. Its cost is printed beforehand.",
            rich_help_panel=_JUDGING,
            show_default="never",
        ),
    ] = None,
    fid_n: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Pictures drawn for a score.",
            rich_help_panel=_JUDGING,
            show_default="5000",
        ),
    ] = None,
    fid_weights: Annotated[
        Path | None,
        typer.Option(
            help="FID Inception weights.",
            rich_help_panel=_JUDGING,
            show_default="the published ones, downloaded once",
        ),
    ] = None,
    fid_features: Annotated[
        Path | None,
        typer.Option(
            help="A classifier of ddpm train-classifier instead: scores are labelled local.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    nproc: options.Nproc = 1,
    nnodes: launching.Nnodes = 1,
    node_rank: launching.NodeRank = 0,
    rdzv_endpoint: launching.RdzvEndpoint = None,
    max_restarts: launching.MaxRestarts = 3,
    time_limit: launching.TimeLimit = None,
    requeue: launching.Requeue = False,
    stall_timeout: launching.StallTimeout = 600.0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    microbatch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images in a forward pass of a process; less needs less memory, learns the same.",
            rich_help_panel=_MACHINE,
            show_default="the process's whole share of --batch",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, train nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a diffusion model; the same command again goes on where the last one stopped.

    The budget is --images, --steps, --epochs or --minutes, whichever ends first; without any, the
    preset's. Unset options take the preset's values.
    """
    from ddpm_cli.core.runtime import stopping
    from ddpm_cli.core.training.session import Request

    request = Request(
        data=data,
        preset=preset,
        config=config,
        size=options.parse_size(size),
        channels=channels,
        conditional=None if unconditional is None else not unconditional,
        out=out,
        resume=resume,
        skip_bad=skip_bad,
        time_limit=stopping.parse_time_limit(time_limit),
        stall_timeout=stall_timeout,
        settings=_given(
            data={"flip": flip, "holdout": holdout},
            network={"learned_variance": learned_variance},
            diffusion={
                "schedule": schedule,
                "timesteps": timesteps,
                "beta_min": beta_min,
                "beta_max": beta_max,
                "parameterisation": parameterisation,
            },
            objective={
                "loss": loss,
                "weighting": weighting,
                "weighting_gamma": weighting_gamma,
                "vlb_weight": vlb_weight,
                "noise_levels": noise_levels,
                "noise_mean": noise_mean,
                "noise_std": noise_std,
            },
            optimiser={"batch": batch, "lr": lr, "class_drop": class_drop, "seed": seed},
            budget={"images": images, "steps": steps, "epochs": epochs, "minutes": minutes},
            snapshot_every=snapshot_every,
            keep=keep,
            preview=preview,
            patience=patience,
        ),
    )
    judged = judging.in_training(fid_every, fid_n, fid_weights, fid_features)
    processes = launching.Processes(nproc, nnodes, node_rank, rdzv_endpoint, max_restarts, requeue)
    if dry_run or not launching.launched(request, processes, device):
        with launching.requeueing(requeue):
            _work(request, device, precision, microbatch, judged, dry_run=dry_run, as_json=json)


def _work(
    request: Any,
    device: str,
    precision: str,
    microbatch: int | None,
    judged: judging.InTraining | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train in this process, alone or as one of several."""
    from ddpm_cli.core.judging import Plan, TrainingScore
    from ddpm_cli.core.runtime import devices, distributed
    from ddpm_cli.core.training import session
    from ddpm_cli.core.training.trainer import Machine

    reporter = console.reporter()
    chosen = devices.choose_device(device)
    machine = Machine(chosen, devices.choose_precision(precision, chosen), microbatch)
    with distributed.joined(chosen):
        plan = distributed.alike(lambda: session.plan(request))
        _announce(plan.summary(), reporter)
        scoring = None
        if judged is not None:
            how = Plan(judged.every, judged.count, judged.network.load(chosen, reporter))
            scoring = partial(TrainingScore, how, reporter, machine.precision)
        if dry_run:
            session.choose_directory(plan, request)
            session.read_pictures(plan, request, reporter)
            console.result(
                "Dry run: everything is in order; nothing was trained.", plan.summary(), as_json
            )
            return

        summary = session.run(plan, request, machine, reporter, scoring)
    console.result(_closing(summary), summary, as_json)


def _given(**settings: Any) -> dict[str, Any]:
    """The settings without those left to the preset."""
    nested = {
        name: {key: item for key, item in value.items() if item is not None}
        if isinstance(value, dict)
        else value
        for name, value in settings.items()
    }
    return {name: value for name, value in nested.items() if value not in (None, {})}


def _announce(plan: dict[str, Any], reporter: Any) -> None:
    classes = plan["classes"]
    named = f", {len(classes)} classes ({', '.join(classes[:12])}{', …' if classes[12:] else ''})"
    height, width = plan["size"]
    reporter.say(
        f"{plan['pictures']:,} images of {height}x{width}x{plan['channels']}"
        + (named if classes else ", unconditional")
    )
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
