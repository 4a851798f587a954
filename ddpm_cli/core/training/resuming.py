"""Which directory a run is written to, and the snapshot from which it resumes there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote

import torch

from ddpm_cli.core.checkpoints import post_hoc, snapshots
from ddpm_cli.core.checkpoints.tensors import mismatches
from ddpm_cli.core.config.fields import settings_of
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError, UsageError, first_line, listed
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.elastic import stopping, worker
from ddpm_cli.core.runtime.files import (
    atomic_write,
    cannot_write,
    new_folder,
    numbered_names,
    read_json,
    write_json,
)
from ddpm_cli.core.runtime.locks import LOCK, lock_run
from ddpm_cli.core.runtime.reporting import Reporter, Warned
from ddpm_cli.core.runtime.run_directory import (
    RunDirectory,
    existing_runs,
    run_of_snapshot,
    why_no_run,
)
from ddpm_cli.core.training.preparation.planning import TrainingPlan
from ddpm_cli.core.training.saving import check_disk_space
from ddpm_cli.core.training.state import TrainingState


def with_run_named(request: TrainingRequest) -> TrainingRequest:
    """The request with a run that --resume names, by its folder or a file in it, as its paths.

    Without --out the run itself is continued. Raises DdpmError for a folder that holds no run,
    or none with a snapshot.
    """
    if request.resume in ("auto", "never"):
        return request
    path = Path(request.resume)
    if not path.is_dir():
        run = run_of_snapshot(path)
        return request if run is None or request.out else replace(request, out=run.path)
    run = run_of_snapshot(path) or RunDirectory(path)
    if not run.config.is_file():
        raise DdpmError(f"--resume {why_no_run(path, run.config.name)}")
    existing = snapshots.listed(run.snapshots)
    if not existing:
        raise DdpmError(f"--resume {path}: there is no snapshot in {run.snapshots}")
    if request.out is None or request.out.absolute() == run.path.absolute():
        return replace(request, out=request.out or run.path, resume="auto")
    recorded = _recorded_resume(RunDirectory(request.out))
    if recorded is not None and Path(recorded.path).parent.absolute() == run.snapshots.absolute():
        return replace(request, resume=recorded.path)
    return replace(request, resume=str(existing[-1]))


def choose_directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    """The run directory to use.

    Raises DdpmError rather than overwrite another run or other files, or start without the disk
    space to save in.
    """
    out = _directory(plan, request)
    check_disk_space(out, plan.config, plan.parameters, plan.images)
    return out


def _directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    out, run = plan.out, RunDirectory(plan.out)
    mode = _resume_mode(run, request)
    if mode not in ("auto", "never") and not Path(mode).is_file():
        existing = snapshots.listed(run.snapshots)
        newest = f"; --resume auto resumes from {existing[-1]}" if existing else ""
        raise DdpmError(f"--resume {mode}: no such file{newest}{existing_runs(Path(mode))}")
    if mode == "never":
        if request.out is None and worker.may_restart():
            raise UsageError(
                "--resume never needs --out where torchrun or SLURM may start the command again: "
                "it then resumes there"
            )
        if request.out is None:
            return next(name for name in numbered_names(out) if not name.exists())
        if run.config.exists():
            raise DdpmError(
                f"{out} holds a run, which --resume never would overwrite; --resume auto resumes "
                "it, and another --out begins a new one"
            )
    elif run.config.exists():
        _check_same_run(run, plan.config)
        _check_snapshots_run(mode, plan.config)
        return out
    _check_snapshots_run(mode, plan.config)
    if out.exists() and not out.is_dir():
        raise DdpmError(f"{out} is a file; choose another --out")
    ours = (run.logs.name,)
    if out.is_dir() and any(p.name[0] != "." and p.name not in ours for p in out.iterdir()):
        raise DdpmError(f"{out} is not empty and holds no run; choose another --out")
    return out


def verify_named_snapshot(out: Path, request: TrainingRequest, network: NetworkConfig) -> None:
    """Raise DdpmError where --resume names a damaged snapshot, or one of another network."""
    mode = _resume_mode(RunDirectory(out), request)
    if mode in ("auto", "never") or not distributed.is_main():
        return
    found = snapshots.read(Path(mode))["network"]
    with torch.device("meta"):
        expected = build(network).state_dict()
    if wrong := mismatches(found, expected):
        raise DdpmError(
            f"--resume {mode} is of another network than this training's: "
            f"{listed(wrong, separator='; ')}; leave out the "
            "options and settings that change the network"
        )


def _check_same_run(run: RunDirectory, config: RunConfig) -> None:
    """Raise DdpmError with the settings that would change in the run."""
    if changes := _changes(run, config):
        raise DdpmError(
            f"{run.path} holds a run that this command would change: {changes}. What is not given "
            f"stays as it is with --out {quote(str(run.path))}; a new run takes --resume never, or "
            "another --out"
        )


def _check_snapshots_run(mode: str, config: RunConfig) -> None:
    """Raise DdpmError where --resume names a snapshot of a run with other settings."""
    run = None if mode in ("auto", "never") else run_of_snapshot(Path(mode))
    if run is not None and (changes := _changes(run, config)):
        raise DdpmError(
            f"--resume {mode} is of a run that this command would change: {changes}. Leave those "
            f"settings out; or start from its weights alone, by --init-from {quote(str(run.path))}"
        )


def _changes(run: RunDirectory, config: RunConfig) -> str:
    """What of a run's fixed settings would change, in words; "" for nothing."""
    recorded = run.read_config()
    changes = recorded.differences(config)
    if any(change.startswith("data.fingerprint ") for change in changes):
        return (
            f"the images of {config.data.source} are not the ones it was trained on (to train on "
            f"them from its weights: ddpm train --init-from {quote(str(run.path))} --data "
            f"{quote(config.data.source)} --out NEW)"
        )
    for part in ("labels", "captions"):
        if any(change.startswith(f"data.{part} ") for change in changes):
            changed = f"the {part} of {config.data.source} are not the ones it was trained on"
            others = (change for change in changes if not change.startswith(f"data.{part} "))
            changes = [changed, *others]
    return listed(_by_option(changes), separator="; ")


_FOLLOW = {  # settings that follow from others, which are named alone
    "network.augmented": ("data.augment",),
    "network.given_channels": ("data.given", "data.given_data", "network.channels"),
    "network.given_noise": ("data.given", "data.given_noise"),
    "network.multi_label": ("network.classes",),
    "data.labels": ("network.classes",),
    "data.templates": ("data.captions",),
}


def _by_option(changes: Sequence[str]) -> list[str]:
    """Changes such as "network.width 32 -> 64" by their options, "--width 32 -> 64".

    Those that have none keep their names; those that follow from another are left out.
    """
    options = {
        setting.name: setting.option.split("/")[0]
        for setting in settings_of(RunConfig)
        if setting.info.panel is not None
    }
    changed = {change.partition(" ")[0] for change in changes}
    return [
        f"{options.get(name, name)} {rest}".rstrip()
        for name, _, rest in (change.partition(" ") for change in changes)
        if changed.isdisjoint(_FOLLOW.get(name, ()))
    ]


def open_directory(
    plan: TrainingPlan, request: TrainingRequest, reporter: Reporter, locks: ExitStack
) -> Path:
    """Make the run directory and lock it for as long as `locks` is open."""
    out = choose_directory(plan, request)
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    locks.push(lambda kind, *_: _remove(out, missing) if kind else None)
    try:
        if request.out is None and request.resume == "never":
            out = new_folder(out)  # which no other call takes
        out.mkdir(parents=True, exist_ok=True)
        locks.enter_context(lock_run(out, reporter.say))
    except OSError as error:
        raise cannot_write(out, error) from error
    return out


def _remove(out: Path, created: Sequence[Path]) -> None:
    """Remove the folders created for a run that was refused before it wrote anything."""
    with suppress(OSError):
        if out in created and [path.name for path in out.iterdir()] in ([], [LOCK]):
            (out / LOCK).unlink(missing_ok=True)
            for folder in created:
                folder.rmdir()


def prepare_directory(run: RunDirectory, config: RunConfig, images: int) -> None:
    """Write config.json, and discard what was logged and saved after so many images seen."""
    run.write_config(config)
    run.rewind_rows(images)
    snapshots.supersede_newer(run.snapshots, images)
    post_hoc.supersede_newer(run, images)


def resume(
    run: RunDirectory, state: TrainingState, request: TrainingRequest, reporter: Reporter
) -> int:
    """Restore the state from the snapshot requested; the images it had seen, 0 if there is none.

    Rank 0 chooses the snapshot, so that all resume from the same one.
    """
    path = distributed.broadcast_from_rank0(lambda: _restore(run, state, request, reporter))
    if path is None:
        reporter.say(f"No snapshot in {run.path}: starting from scratch.")
        return 0
    if not distributed.is_main():
        load_snapshot(path, state)
    progress, now = state.progress, distributed.world_size()
    reporter.say(f"Resuming from {path} ({progress.images:,} images, {progress.steps:,} steps).")
    if state.power_averages and (snapshots.read_config(path) or {}).get("ema_every") is None:
        reporter.say(
            Warned(
                f"{path} holds no averages for --ema-every: they begin with its weights, which "
                f"stand for those of the {progress.images:,} images before. Long averages are "
                "right once several times as many are seen"
            )
        )
    if warning := stopping.short_grace_warning(progress.save_seconds):
        reporter.say(warning)
    if now != progress.processes:
        masks = ", and dropout's masks differ" if state.network.config.dropout else ""
        reporter.say(
            f"It was trained by {_processes(progress.processes)} and resumes with "
            f"{_processes(now)}: same batch and order; sums differ in the last digits{masks}."
        )
    return progress.images


def load_snapshot(path: Path, state: TrainingState) -> None:
    """Restore the state from one snapshot. Raises DdpmError for a damaged file or another run's."""
    _load(path, snapshots.read(path), state)


def _load(path: Path, contents: snapshots.StateDict, state: TrainingState) -> None:
    try:
        state.load_state_dict(contents)
    except (DdpmError, LookupError, TypeError, ValueError) as error:
        raise DdpmError(f"{path} is not a snapshot of this run ({first_line(error)})") from error


def _restore(
    run: RunDirectory, state: TrainingState, request: TrainingRequest, reporter: Reporter
) -> Path | None:
    """Restore from the snapshot requested, on rank 0; its path, None for a new run."""
    mode = _resume_mode(run, request)
    if mode == "never":
        return None
    if mode != "auto":
        load_snapshot(Path(mode), state)
        return _adopt(run, Path(mode), state.progress.images)
    if request.resume not in ("auto", "never"):
        reporter.say(
            f"{run.path} resumed from {request.resume} before: now from its own newest snapshot. "
            "To return to that one again, choose another --out."
        )
    newest = restore_newest(run.snapshots, state, reporter)
    if newest is None and run.save_seconds():
        raise DdpmError(
            f"{run.path} holds a run, but {run.snapshots} has no snapshot any more, and a fresh "
            "start would overwrite the run's weights and metrics; bring a snapshot back from a "
            "copy, or start a new run with --resume never"
        )
    if newest is None:
        _set_weights_aside(run, reporter)
    return newest


def restore_newest(folder: Path, state: TrainingState, reporter: Reporter) -> Path | None:
    """Restore the newest snapshot that can be read; None where there are none.

    Raises DdpmError where there are some and none can be read: a fresh start would overwrite them.
    """
    for path, contents in snapshots.read_newest_first(folder, reporter):
        _load(path, contents, state)
        return path
    if existing := snapshots.listed(folder):
        raise DdpmError(
            f"none of the {len(existing)} snapshots in {folder} can be read; bring them "
            "back from a copy, or start a new run with --resume never"
        )
    return None


def _set_weights_aside(run: RunDirectory, reporter: Reporter) -> None:
    """Rename weights that a start from scratch would overwrite.

    They are of a run that died before its first snapshot, or of a short one that lost it.
    """
    for weights in (run.weights, run.best):
        if weights.exists():
            renamed = weights.with_name(f"{weights.name}.superseded")
            weights.replace(renamed)
            reporter.say(f"{weights} has no snapshot to resume from: it is {renamed.name} now.")


def _resume_mode(run: RunDirectory, request: TrainingRequest) -> str:
    """How to resume: a restarted training uses its own snapshots, however it began."""
    existing = snapshots.listed(run.snapshots)
    if worker.restarted():
        return "auto" if request.resume == "never" or existing else request.resume
    return "auto" if existing and _resumed_from(run, request.resume) else request.resume


def _resumed_from(run: RunDirectory, snapshot: str) -> bool:
    """Whether the run once resumed from this snapshot, which may be deleted by now."""
    recorded = None if snapshot in ("auto", "never") else _recorded_resume(run)
    if recorded is None:
        return False
    path = Path(snapshot)
    return sha256_of(path) == recorded.sha256 if path.is_file() else snapshot == recorded.path


def _recorded_resume(run: RunDirectory) -> WeightsOrigin | None:
    """The snapshot that --resume last named for a run; None without one."""
    if not run.resumed.is_file():
        return None
    try:
        return from_dict(WeightsOrigin, read_json(run.resumed))
    except (OSError, ValueError) as error:
        raise DdpmError(
            f"{run.resumed} cannot be read ({error}); --resume auto resumes from the newest "
            "snapshot"
        ) from error


def _adopt(run: RunDirectory, path: Path, images: int) -> Path:
    """Copy a snapshot into the run as its newest, and record it: the same command resumes there."""
    origin = WeightsOrigin(str(path), sha256_of(path))
    own = snapshots.snapshot_path(run.snapshots, images)
    if path.resolve() != own.resolve():
        with atomic_write(own, durable=True) as partial:
            shutil.copyfile(path, partial)
            snapshots.supersede_newer(run.snapshots, images - 1)
    snapshots.supersede_newer(run.snapshots, images)
    write_json(run.resumed, to_dict(origin))
    return own


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"
