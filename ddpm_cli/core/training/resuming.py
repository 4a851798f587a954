"""Which directory a run is written to, and the snapshot from which it resumes there."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.elastic import stopping, worker
from ddpm_cli.core.runtime.files import atomic_write, read_json, write_json
from ddpm_cli.core.runtime.locks import lock_run
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, unused_name
from ddpm_cli.core.training.planning import TrainingPlan
from ddpm_cli.core.training.saving import check_disk_space
from ddpm_cli.core.training.state import TrainingState


def choose_directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    """The run directory to use.

    Raises DdpmError rather than overwrite another run or other files, or start without the disk
    space to save in.
    """
    out = _directory(plan, request)
    check_disk_space(out, plan.config, plan.parameters)
    return out


def _directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    out, run = plan.out, RunDirectory(plan.out)
    mode = _resume_mode(run, request)
    if mode not in ("auto", "never") and not Path(mode).is_file():
        existing = snapshots.listed(run.snapshots)
        newest = f"; --resume auto resumes from {existing[-1]}" if existing else ""
        raise DdpmError(f"--resume {mode}: no such file{newest}")
    if mode == "never":
        if request.out is None and worker.may_restart():
            raise UsageError(
                "--resume never needs --out where torchrun or SLURM may start the command again: "
                "it then resumes there"
            )
        if request.out is None:
            return unused_name(out)
        if run.config.exists():
            raise DdpmError(
                f"{out} holds a run, which --resume never would overwrite; --resume auto resumes "
                "it, and another --out begins a new one"
            )
    elif run.config.exists():
        _check_same_run(run, plan.config)
        return out
    if out.exists() and not out.is_dir():
        raise DdpmError(f"{out} is a file; choose another --out")
    ours = (run.logs.name,)
    if out.is_dir() and any(p.name[0] != "." and p.name not in ours for p in out.iterdir()):
        raise DdpmError(f"{out} is not empty and holds no run; choose another --out")
    return out


def verify_named_snapshot(out: Path, request: TrainingRequest) -> None:
    """Raise DdpmError where training would resume from a damaged snapshot named by --resume."""
    mode = _resume_mode(RunDirectory(out), request)
    if mode not in ("auto", "never") and distributed.is_main():
        snapshots.verify(Path(mode))


def _check_same_run(run: RunDirectory, config: RunConfig) -> None:
    changes = run.read_config().differences(config)
    parts = {"fingerprint": "images", "labels": "labels", "captions": "captions"}
    for name, what in ((f"data.{part}", what) for part, what in parts.items()):
        if any(change.startswith(name) for change in changes):
            changed = f"the {what} of {config.data.source} are not the ones it was trained on"
            changes = [changed, *(change for change in changes if not change.startswith(name))]
    if changes:
        raise DdpmError(
            f"{run.path} holds a run that this command would change: {'; '.join(changes[:5])}. Run "
            "it as before to resume, or choose another --out (or --resume never) for a new run"
        )


def open_directory(
    plan: TrainingPlan, request: TrainingRequest, reporter: Reporter, locks: ExitStack
) -> Path:
    """Make the run directory and lock it for as long as `locks` is open."""
    out = choose_directory(plan, request)
    try:
        out.mkdir(parents=True, exist_ok=True)
        locks.enter_context(lock_run(out, reporter.say))
    except OSError as error:
        raise DdpmError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    return out


def prepare_directory(run: RunDirectory, config: RunConfig, images: int) -> None:
    """Write config.json, and discard what was logged and saved after so many images seen."""
    run.write_config(config)
    run.rewind_rows(images)
    snapshots.supersede_newer(run.snapshots, images)


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
    except DdpmError as error:
        raise DdpmError(f"{path} is not a snapshot of this run ({error})") from error


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
    if snapshot in ("auto", "never") or not run.resumed.is_file():
        return False
    try:
        recorded = from_dict(WeightsOrigin, read_json(run.resumed))
    except (OSError, ValueError) as error:
        raise DdpmError(
            f"{run.resumed} cannot be read ({error}); --resume auto resumes from the newest "
            "snapshot"
        ) from error
    path = Path(snapshot)
    return sha256_of(path) == recorded.sha256 if path.is_file() else snapshot == recorded.path


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
