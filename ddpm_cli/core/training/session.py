"""One call of `ddpm train`: read the pictures, open the run directory, train, sum up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.data import loader
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.models.unet import parameter_count
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.elastic import stopping, watchdog
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import captioning, initial_weights, resuming
from ddpm_cli.core.training.budget import Clock
from ddpm_cli.core.training.planning import TrainingPlan, TrainingRequest
from ddpm_cli.core.training.state import Progress, State
from ddpm_cli.core.training.trainer import Execution, Score, Trainer

Scoring = Callable[
    [RunDirectory, RunConfig, loader.DecodedImages, int, stopping.StopRequest], Score
]


def run(
    plan: TrainingPlan,
    request: TrainingRequest,
    machine: Execution,
    reporter: Reporter,
    stop: stopping.StopRequest,
    scoring: Scoring | None = None,
) -> dict[str, Any]:
    """Train as planned, alone or as one of several processes; a summary of how it ended.

    `scoring` makes what judges the weights now and then, once run and pictures are known. Raises
    PreemptedError or StoppedByUserError where `stop` noted a signal.
    """
    config = plan.config
    check_batch(config, distributed.world_size())
    with stop.raise_at_once():
        # Before what takes long.
        distributed.run_on_all_ranks(lambda: resuming.choose_directory(plan, request))
        decoded = load_images(plan, request, reporter)
        pictures = captioning.with_texts(decoded, plan.captions, config, machine.device, reporter)
    parts = pictures.split(config.data.holdout, config.optimiser.seed)
    with ExitStack() as kept:
        open_directory = partial(resuming.open_directory, plan, request, reporter, kept)
        run = RunDirectory(distributed.broadcast_from_rank0(open_directory))
        kept.enter_context(devices.enough_memory("use a smaller --microbatch: it learns the same"))
        return _train(run, config, request, machine, reporter, stop, scoring, parts)


def _train(
    run: RunDirectory,
    config: RunConfig,
    request: TrainingRequest,
    machine: Execution,
    reporter: Reporter,
    stop: stopping.StopRequest,
    scoring: Scoring | None,
    pictures: tuple[loader.DecodedImages, loader.DecodedImages],
) -> dict[str, Any]:
    """Train in a run directory that is ours."""
    training, held_out = pictures
    reporter.say(f"Run directory: {run.path}")
    state = State.fresh(config, machine.device)
    resumed = resuming.resume(run, state, request, reporter)
    config = replace(config, origin=_origin(run, state, request, resumed, reporter))
    distributed.broadcast_from_rank0(
        lambda: resuming.prepare_directory(run, config, state.progress.images)
    )
    finished = Clock(config, len(training), state.progress).used >= 1
    if finished:
        reporter.say(
            "The budget is used up; give a larger one (--images, --minutes, …) to train on."
        )
        distributed.broadcast_from_rank0(lambda: _write_missing_weights(run, config, state))
    if scoring or not finished:
        stop.limit = _time_limit(request, state.progress)
        with watchdog.watching(run.logs, request.stall_timeout):
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


def _write_missing_weights(run: RunDirectory, config: RunConfig, state: State) -> None:
    """A run that began with another's last snapshot has none yet."""
    if not run.weights.exists():
        weights.save(run.weights, state.average.state_dict(), config, state.progress.images)


def check_batch(config: RunConfig, processes: int) -> None:
    """Raise UsageError where a batch is less than one image for each process."""
    batch = config.optimiser.batch
    if batch < processes:
        raise UsageError(
            f"--batch {batch} is less than one image for each of {processes} processes"
        )


def load_images(
    plan: TrainingPlan, request: TrainingRequest, reporter: Reporter
) -> loader.DecodedImages:
    """Decode the pictures, or find them in the cache; one process of a machine goes first."""
    network = plan.config.network
    with distributed.local_rank0_first():
        return loader.prepare(
            plan.source, network.channels, network.size, reporter, skip_bad=request.skip_bad
        )


def _origin(
    run: RunDirectory, state: State, request: TrainingRequest, resumed: int, reporter: Reporter
) -> WeightsOrigin | None:
    """What the run started from; where it starts now, its state takes those weights over."""
    if resumed:
        return run.read_config().origin if run.config.is_file() else None
    if request.init_from is None:
        return None
    start = initial_weights.read(request.init_from, state.network.config)
    initial_weights.give(state, start)
    reporter.say(f"Starting from the weights of {request.init_from}.")
    return start.origin


def _time_limit(request: TrainingRequest, progress: Progress) -> stopping.TimeLimit | None:
    def used() -> tuple[float, float]:
        save, step = progress.save_seconds, progress.seconds / max(1, progress.steps)
        return (save + progress.validation_seconds if save else 0.0), step

    end = stopping.end_of_time(request.time_limit)
    return None if end is None else stopping.TimeLimit(end, used)
