"""One call of `ddpm train`: plan it, open its run directory, train, sum up."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.config import Origin, RunConfig
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet, parameter_count
from ddpm_cli.core.plain import updated
from ddpm_cli.core.presets import SYSTEMS, fitting, preset
from ddpm_cli.core.runtime import distributed, stopping, watchdog, worker
from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.locking import locked
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.rundir import RUNS, RunDirectory, free_name
from ddpm_cli.core.training import captioning, snapshots, starting
from ddpm_cli.core.training.budget import Clock
from ddpm_cli.core.training.saving import check_room
from ddpm_cli.core.training.state import Progress, State
from ddpm_cli.core.training.trainer import Machine, Score, Trainer

_FOLLOW_DATA = {  # settings that a --config file does not bring to other pictures
    "network": ("size", "channels", "classes"),
    "data": ("source", "fingerprint", "captions", "examples", "example_labels"),
}


@dataclass(frozen=True)
class Request:
    """What the user asked for; None where the preset or the data decide."""

    data: str = "shapes"
    preset: str | None = None
    config: Path | None = None  # a file of settings over the preset's
    size: tuple[int, int] | None = None
    channels: int | None = None
    conditional: bool | None = None
    captions: bool | None = None
    out: Path | None = None
    resume: str = "auto"
    init_from: Path | None = None  # whose weights a new run starts from
    skip_bad: bool = False
    time_limit: float | None = None  # seconds from the start of the command
    stall_timeout: float = 600.0  # seconds without a step after which a process ends; 0: never
    settings: dict[str, Any] = field(default_factory=dict)  # over the preset's and the file's


@dataclass(frozen=True)
class Plan:
    """A run that could start: its pictures' source, its config and its directory."""

    source: Source
    captions: Captions | None  # those that are learned
    config: RunConfig
    preset: str
    out: Path

    @property
    def parameters(self) -> int:
        """The network's size."""
        with torch.device("meta"):
            return parameter_count(UNet(self.config.network))

    def summary(self) -> dict[str, Any]:
        """What `--dry-run` reports."""
        config = self.config
        clock = Clock(config, len(self.source) - config.data.holdout, Progress())
        batch = config.optimiser.batch
        return {
            "out": str(self.out),
            "preset": self.preset,
            "parameters": self.parameters,
            "pictures": len(self.source),
            "classes": list(config.network.classes),
            "captions": 0 if self.captions is None else len(self.captions.sentences),
            "captions_from": None if self.captions is None else self.captions.where,
            "caption": None if self.captions is None else self.captions.sentences[0],
            "text_encoder": None if config.network.text is None else config.network.text.encoder,
            "size": list(config.network.size),
            "channels": config.network.channels,
            "batch": batch,
            "images": clock.images,
            "steps": clock.images and clock.images // batch,
            "epochs": clock.images and clock.images / (len(self.source) - config.data.holdout),
            "minutes": config.budget.minutes,
        }


def plan(request: Request) -> Plan:
    """Settle everything about a run before anything is written: data, preset, file, options."""
    source = open_source(request.data)
    channels = request.channels or source.native_channels
    name = request.preset or fitting(source.name, channels, request.size or source.native_size)
    chosen = preset(name)

    config, size = updated(RunConfig(), chosen.settings), request.size or source.native_size
    if request.init_from is not None:
        fallback = None if request.resume == "never" else request.out
        config = _over(config, starting.settings(request.init_from, fallback))
        size, channels = (
            request.size or config.network.size,
            request.channels or config.network.channels,
        )
    if request.config is not None:
        config = _over(config, _settings_in(request.config), str(request.config))
    settings = dict(request.settings)
    data, network = settings.get("data", {}), settings.get("network", {})
    if request.captions is False and data.get("templates"):
        raise UsageError("--caption makes captions, and --no-captions learns none")
    templates = data.get("templates", config.data.templates)
    wanted = False if request.captions is None and chosen.unconditional else request.captions
    told = captioning.learned(source, wanted, templates)
    conditional = not (chosen.unconditional or told)
    if request.conditional is not None:
        conditional = request.conditional
    if request.conditional and not source.classes:
        raise UsageError(f"--conditional, but {request.data} has no class folders")
    settings["network"] = network | {
        "size": list(size),
        "channels": channels,
        "classes": list(source.classes) if conditional else [],
        **captioning.network_settings(config.network, network, told),
    }
    settings["data"] = data | {
        "source": request.data,
        "fingerprint": source.fingerprint,
        **captioning.data_settings(told, templates, source.labels if conditional else None),
    }
    if settings.get("budget"):  # one given limit replaces all of the preset's
        none = dict.fromkeys(("images", "steps", "epochs", "minutes"))
        settings["budget"] = none | settings["budget"]
    config = _over(config, settings)
    config = updated(config, {"network": {"augmented": config.data.augment > 0}})
    _check(config, len(source))
    out = request.out or RUNS / _name(source.name, config.network.size)
    if request.init_from is not None and not (
        RunDirectory(out).config.exists() and request.resume != "never"
    ):
        starting.read(request.init_from, config.network)  # refuses those of another network
    return Plan(source, told, config, name, out)


def _over(config: RunConfig, settings: dict[str, Any], where: str = "config") -> RunConfig:
    """The config under these settings; a schedule among them brings its system's along."""
    diffusion = settings.get("diffusion")
    schedule = diffusion.get("schedule") if isinstance(diffusion, dict) else None
    return updated(updated(config, SYSTEMS.get(str(schedule), {})), settings, where)


Scoring = Callable[[RunDirectory, RunConfig, loader.Pictures, int, stopping.StopRequest], Score]


def run(
    plan: Plan,
    request: Request,
    machine: Machine,
    reporter: Reporter,
    scoring: Scoring | None = None,
) -> dict[str, Any]:
    """Train as planned, alone or as one of several processes; a summary of how it ended.

    `scoring` makes what judges the weights now and then, once run and pictures are known.
    """
    config = plan.config
    if config.optimiser.batch < distributed.world_size():
        raise UsageError(
            f"--batch {config.optimiser.batch} is less than one image for each of "
            f"{distributed.world_size()} processes"
        )
    decoded = read_pictures(plan, request, reporter)
    pictures = captioning.with_texts(decoded, plan.captions, config, machine.device, reporter)
    parts = pictures.split(config.data.holdout, config.optimiser.seed)
    with ExitStack() as kept:
        open_directory = partial(_open_directory, plan, request, reporter, kept)
        run = RunDirectory(distributed.told_by_first(open_directory))
        return _train(run, config, request, machine, reporter, scoring, parts)


def _train(
    run: RunDirectory,
    config: RunConfig,
    request: Request,
    machine: Machine,
    reporter: Reporter,
    scoring: Scoring | None,
    pictures: tuple[loader.Pictures, loader.Pictures],
) -> dict[str, Any]:
    """Train in a run directory that is ours."""
    training, held_out = pictures
    reporter.say(f"Run directory: {run.path}")
    state = State.fresh(config, machine.device)
    resumed = _resume(run, state, request, reporter)
    config = replace(config, origin=_origin(run, state, request, resumed, reporter))
    distributed.told_by_first(lambda: _make_ready(run, config, state.progress.images))
    finished = Clock(config, len(training), state.progress).used >= 1
    if finished:
        reporter.say(
            "The budget is used up; give a larger one (--images, --minutes, …) to train on."
        )
    if scoring or not finished:
        limit = _time_limit(request, state.progress)
        stalls = watchdog.watching(run.logs, request.stall_timeout)
        with stopping.listening(limit) as stop, stalls:
            seen = state.progress.images
            with watchdog.paused():
                score = scoring(run, config, training, seen, stop) if scoring else None
            Trainer(run, config, state, training, held_out, machine, reporter, score).train(stop)
    distributed.barrier()
    progress = state.progress
    return {
        "run": str(run.path),
        "weights": str(run.weights),
        "parameters": parameter_count(state.network),
        "images": progress.images,
        "steps": progress.steps,
        "seconds": round(progress.seconds, 2),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 2),
        "loss": progress.loss_smooth,
        "best_loss": progress.best,
        "skipped_steps": progress.skipped,
        "resumed_at": resumed,
    }


def read_pictures(plan: Plan, request: Request, reporter: Reporter) -> loader.Pictures:
    """Decode the pictures, or find them in the cache; one process of a machine goes first."""
    network = plan.config.network
    with distributed.first_on_machine():
        return loader.prepare(
            plan.source, network.channels, network.size, reporter, skip_bad=request.skip_bad
        )


def choose_directory(plan: Plan, request: Request) -> Path:
    """The run directory to use.

    Raises DdpmError rather than touch another run or other files, or start without the space to
    save in.
    """
    out = _directory(plan, request)
    check_room(out, plan.config, plan.parameters)
    return out


def _directory(plan: Plan, request: Request) -> Path:
    out, run = plan.out, RunDirectory(plan.out)
    mode = _mode(run, request)
    if mode not in ("auto", "never") and not Path(mode).is_file():
        held = snapshots.listed(run.snapshots)
        newest = f"; the newest in {run.path} is {held[-1]}" if held else ""
        raise DdpmError(f"--resume {mode}: no such file{newest}")
    if mode == "never":
        if request.out is None and worker.may_restart():
            raise UsageError("--resume never with a launcher that restarts needs --out")
        if request.out is None:
            return free_name(out)
        if run.config.exists():
            raise DdpmError(
                f"{out} holds a run, which --resume never would overwrite; choose another --out"
            )
    elif run.config.exists():
        _check_same(run, plan.config)
        return out
    ours = (run.logs.name,)
    if out.is_dir() and any(p.name[0] != "." and p.name not in ours for p in out.iterdir()):
        raise DdpmError(f"{out} is not empty and holds no run; choose another --out")
    return out


def _make_ready(run: RunDirectory, config: RunConfig, images: int) -> None:
    """Write down what the run is, and undo what was logged and saved after so many images."""
    run.write_config(config)
    run.rewind_rows(images)
    snapshots.supersede_newer(run.snapshots, images)


def _mode(run: RunDirectory, request: Request) -> str:
    """How to resume: started again, a training goes on from its own snapshots, however it began."""
    again = request.resume == "never" or snapshots.listed(run.snapshots)
    return "auto" if again and worker.restarted() else request.resume


def _open_directory(plan: Plan, request: Request, reporter: Reporter, kept: ExitStack) -> Path:
    """Make the run directory and lock it for as long as `kept` is open."""
    out = choose_directory(plan, request)
    try:
        out.mkdir(parents=True, exist_ok=True)
        kept.enter_context(locked(out, reporter.say))
    except OSError as error:
        raise DdpmError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    return out


def _time_limit(request: Request, progress: Progress) -> stopping.TimeLimit | None:
    def used() -> tuple[float, float]:
        return progress.save_seconds, progress.seconds / max(1, progress.steps)

    end = stopping.end_of_time(request.time_limit)
    return None if end is None else stopping.TimeLimit(end, used)


def _check_same(run: RunDirectory, config: RunConfig) -> None:
    changes = run.read_config().differences(config)
    for name, what in (("data.fingerprint", "pictures"), ("data.captions", "captions")):
        if any(change.startswith(name) for change in changes):
            changed = f"the {what} of {config.data.source} are not the ones it was trained on"
            changes = [changed, *(change for change in changes if not change.startswith(name))]
    if changes:
        raise DdpmError(
            f"{run.path} holds a run that this command would change: {'; '.join(changes[:5])}. "
            "Run it as before to go on, or choose another --out (or --resume never) for a new run"
        )


def _resume(run: RunDirectory, state: State, request: Request, reporter: Reporter) -> int:
    """Bring the state to the snapshot asked for; the images it had seen, 0 for a fresh start.

    The first process chooses, so that all go on from the same one.
    """

    def chosen() -> Path | None:
        resume = _mode(run, request)
        if resume == "never":
            return None
        if resume == "auto":
            return snapshots.restore_newest(run.snapshots, state, reporter)
        snapshots.restore(Path(resume), state)
        return _adopt(run, Path(resume), state.progress.images)

    path = distributed.told_by_first(chosen)
    if path is None:
        reporter.say(f"No snapshot in {run.path}: starting from scratch.")
        return 0
    if not distributed.is_first():
        snapshots.restore(path, state)
    progress, now = state.progress, distributed.world_size()
    reporter.say(f"Resuming from {path} ({progress.images:,} images, {progress.steps:,} steps).")
    if warning := stopping.short_grace(progress.save_seconds):
        reporter.say(warning)
    if now != progress.processes:
        masks = ", and dropout's masks are others" if state.network.config.dropout else ""
        reporter.say(
            f"It was trained by {_processes(progress.processes)} and goes on with "
            f"{_processes(now)}: same batch and order; sums differ in the last digits{masks}."
        )
    return progress.images


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def _origin(
    run: RunDirectory, state: State, request: Request, resumed: int, reporter: Reporter
) -> Origin | None:
    """What the run started from; where it starts now, its state takes those weights over."""
    if resumed:
        return run.read_config().origin if run.config.is_file() else None
    if request.init_from is None:
        return None
    start = starting.read(request.init_from, state.network.config)
    starting.give(state, start)
    reporter.say(f"Starting from the weights of {request.init_from}.")
    return start.origin


def _adopt(run: RunDirectory, path: Path, images: int) -> Path:
    """Copy a snapshot from elsewhere into the run: started again, it must not go back further."""
    if path.resolve().parent == run.snapshots.resolve():
        return path
    snapshots.supersede_newer(run.snapshots, images - 1)
    with replacing(run.snapshots / f"{images:012d}.pt") as partial:
        shutil.copyfile(path, partial)
    return path


def _settings_in(path: Path) -> dict[str, Any]:
    """The settings of a JSON (config.json of a run, say) or TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise DdpmError(f"--config {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"--config {path} is neither JSON nor TOML: {error}") from error
    if not isinstance(settings, dict):
        raise DdpmError(f"--config {path} should hold named settings, like a run's config.json")
    for part, names in _FOLLOW_DATA.items():
        if isinstance(settings.get(part), dict):
            settings[part] = {k: v for k, v in settings[part].items() if k not in names}
    return settings


def _check(config: RunConfig, pictures: int) -> None:
    config.check()
    schedules.from_config(config.diffusion)  # refuses one that leaves no signal
    if not config.budget.given:
        raise UsageError("no budget: give --images, --steps, --epochs or --minutes")
    if config.data.holdout >= pictures:
        raise UsageError(
            f"--holdout {config.data.holdout} leaves nothing of {pictures} images to train on"
        )


def _name(source: str, size: tuple[int, int]) -> str:
    return f"{source}-{size[0]}" if size[0] == size[1] else f"{source}-{size[0]}x{size[1]}"
