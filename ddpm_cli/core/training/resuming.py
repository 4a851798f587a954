"""Which directory a run lives in, and the state from which it goes on there."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.elastic import stopping, worker
from ddpm_cli.core.runtime.files import atomic_write, write_text
from ddpm_cli.core.runtime.locks import lock_run
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, unused_name
from ddpm_cli.core.training.planning import TrainingPlan, TrainingRequest
from ddpm_cli.core.training.saving import check_room
from ddpm_cli.core.training.state import State


def choose_directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    """The run directory to use.

    Raises DdpmError rather than touch another run or other files, or start without the space to
    save in.
    """
    out = _directory(plan, request)
    check_room(out, plan.config, plan.parameters)
    return out


def _directory(plan: TrainingPlan, request: TrainingRequest) -> Path:
    out, run = plan.out, RunDirectory(plan.out)
    mode = _mode(run, request)
    if mode not in ("auto", "never") and not Path(mode).is_file():
        held = snapshots.listed(run.snapshots)
        newest = f"; --resume auto goes on from {held[-1]}" if held else ""
        raise DdpmError(f"--resume {mode}: no such file{newest}")
    if mode == "never":
        if request.out is None and worker.may_restart():
            raise UsageError(
                "--resume never needs --out where torchrun or SLURM may start the command again: "
                "it then goes on there"
            )
        if request.out is None:
            return unused_name(out)
        if run.config.exists():
            raise DdpmError(
                f"{out} holds a run, which --resume never would overwrite; --resume auto goes on "
                "with it, and another --out begins a new one"
            )
    elif run.config.exists():
        _check_same(run, plan.config)
        return out
    if out.exists() and not out.is_dir():
        raise DdpmError(f"{out} is a file; choose another --out")
    ours = (run.logs.name,)
    if out.is_dir() and any(p.name[0] != "." and p.name not in ours for p in out.iterdir()):
        raise DdpmError(f"{out} is not empty and holds no run; choose another --out")
    return out


def check_named(plan: TrainingPlan, request: TrainingRequest) -> None:
    """Raise DdpmError where training would go on from a snapshot named by --resume, damaged."""
    mode = _mode(RunDirectory(plan.out), request)
    if mode not in ("auto", "never"):
        snapshots.verify(Path(mode))


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


def open_directory(
    plan: TrainingPlan, request: TrainingRequest, reporter: Reporter, kept: ExitStack
) -> Path:
    """Make the run directory and lock it for as long as `kept` is open."""
    out = choose_directory(plan, request)
    try:
        out.mkdir(parents=True, exist_ok=True)
        kept.enter_context(lock_run(out, reporter.say))
    except OSError as error:
        raise DdpmError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    return out


def prepare_directory(run: RunDirectory, config: RunConfig, images: int) -> None:
    """Write down what the run is, and undo what was logged and saved after so many images."""
    run.write_config(config)
    run.rewind_rows(images)
    snapshots.supersede_newer(run.snapshots, images)


def resume(run: RunDirectory, state: State, request: TrainingRequest, reporter: Reporter) -> int:
    """Bring the state to the snapshot asked for; the images it had seen, 0 for a fresh start.

    The first process chooses, so that all go on from the same one.
    """

    def chosen() -> Path | None:
        mode = _mode(run, request)
        if mode == "never":
            return None
        if mode == "auto":
            if request.resume not in ("auto", "never"):
                reporter.say(
                    f"{run.path} went on from {request.resume} before: now from its own newest "
                    "snapshot. To go back to that one again, choose another --out."
                )
            newest = snapshots.restore_newest(run.snapshots, state, reporter)
            if newest is None and run.save_seconds():
                raise DdpmError(
                    f"{run.path} holds a run, but {run.snapshots} has no snapshot any more, and a "
                    "fresh start would overwrite the run's weights and metrics; bring a snapshot "
                    "back from a copy, or start a new run with --resume never"
                )
            if newest is None:
                _set_aside(run, reporter)
            return newest
        snapshots.restore(Path(mode), state)
        return _adopt(run, Path(mode), state.progress.images)

    path = distributed.broadcast_from_rank0(chosen)
    if path is None:
        reporter.say(f"No snapshot in {run.path}: starting from scratch.")
        return 0
    if not distributed.is_main():
        snapshots.restore(path, state)
    progress, now = state.progress, distributed.world_size()
    reporter.say(f"Resuming from {path} ({progress.images:,} images, {progress.steps:,} steps).")
    if warning := stopping.short_grace_warning(progress.save_seconds):
        reporter.say(warning)
    if now != progress.processes:
        masks = ", and dropout's masks are others" if state.network.config.dropout else ""
        reporter.say(
            f"It was trained by {_processes(progress.processes)} and goes on with "
            f"{_processes(now)}: same batch and order; sums differ in the last digits{masks}."
        )
    return progress.images


def _set_aside(run: RunDirectory, reporter: Reporter) -> None:
    """Keep weights that lie where a start from scratch will write its own.

    They are of a run that died before its first snapshot, or of a short one that lost it.
    """
    for weights in (run.weights, run.best):
        if weights.exists():
            kept = weights.with_name(f"{weights.name}.superseded")
            weights.replace(kept)
            reporter.say(f"{weights} has no snapshot to go with it: it is {kept.name} now.")


def _mode(run: RunDirectory, request: TrainingRequest) -> str:
    """How to resume: started again, a training goes on from its own snapshots, however it began."""
    held = snapshots.listed(run.snapshots)
    if worker.restarted():
        return "auto" if request.resume == "never" or held else request.resume
    return "auto" if held and _went_on_from(run, request.resume) else request.resume


def _went_on_from(run: RunDirectory, given: str) -> bool:
    """Whether the run's snapshots come after this one, which may be deleted by now."""
    if given in ("auto", "never") or not run.resumed.is_file():
        return False
    try:
        recorded = from_dict(WeightsOrigin, json.loads(run.resumed.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise DdpmError(f"{run.resumed} cannot be read ({error}); --resume auto goes on") from error
    path = Path(given)
    return sha256_of(path) == recorded.sha256 if path.is_file() else given == recorded.path


def _adopt(run: RunDirectory, path: Path, images: int) -> Path:
    """Make a snapshot the run's newest, from which the same command goes on: it is noted down."""
    origin = WeightsOrigin(str(path), sha256_of(path))
    own = snapshots.place(run.snapshots, images)
    if path.resolve() != own.resolve():
        with atomic_write(own) as partial:
            shutil.copyfile(path, partial)
            snapshots.supersede_newer(run.snapshots, images - 1)
    snapshots.supersede_newer(run.snapshots, images)
    write_text(run.resumed, json.dumps(to_dict(origin), indent=2) + "\n")
    return own


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"
