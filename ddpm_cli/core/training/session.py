"""One call of `ddpm train`: check, launch or train, and summarise."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.errors import DdpmError, PreemptedError, UsageError
from ddpm_cli.core.models import group_norm
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.runtime import devices, distributed, provenance
from ddpm_cli.core.runtime.elastic import slurm, stopping, watchdog, worker, world
from ddpm_cli.core.runtime.files import cannot_write, dumps, finite, new_folder
from ddpm_cli.core.runtime.reporting import Log, Reporter, Warned
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.tracking import processes
from ddpm_cli.core.training import appearance, initial_weights, resuming, teacher
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.metrics_log import MetricsLog
from ddpm_cli.core.training.preparation.planning import TrainingPlan
from ddpm_cli.core.training.preparation.preflight import load_held_out, load_images, preflight
from ddpm_cli.core.training.state import Progress, TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

if TYPE_CHECKING:
    from ddpm_cli.core.metrics.networks.extraction import Extractor


def launch_if_needed(
    request: TrainingRequest,
    machine: MachineConfig,
    stop: stopping.StopRequest,
    reporter: Reporter,
) -> bool:
    """Start the processes of --nproc and --nnodes, after the preflight, and wait for them.

    Returns False where one process is enough, or this is one of them already. Raises
    WorkersFailedError where they fail, and what `stop` raises on a signal before they run.
    """
    devices.check_processes(machine.nproc, machine.device)
    if machine.requeue:
        slurm.check_requeue()
    if request.resume == "never" and machine.nnodes > 1:
        raise UsageError(
            "--resume never with --nnodes: a node that comes back must find the run; begin a new "
            "one by an --out that is not there yet"
        )
    machine.check()
    if machine.processes == 1:
        world.attach_tasks()
        return False
    if distributed.under_launcher():
        return False
    from ddpm_cli.core.runtime.elastic import launch  # torch's, which takes long to import

    nodes = launch.Nodes()
    if machine.nnodes > 1 and machine.rdzv_endpoint:
        nodes = launch.Nodes(machine.nnodes, machine.node_rank, machine.rdzv_endpoint)
    with stop.raise_at_once():
        device = devices.choose_device(machine.device)
        precision = devices.choose_precision(machine.precision, device)
        execution = Execution(
            device,
            precision,
            machine.microbatch,
            checkpoint_activations=machine.checkpoint_activations,
            precision_given=machine.precision != "auto",
        )
        plan = preflight(request, machine.processes, execution, reporter)
        # Several nodes decode after the rendezvous, where they wait longer.
        if nodes.count == 1 and request.cache == "disk":
            images = load_images(plan, request, device, reporter)
            load_held_out(plan, images, request, device, reporter)
        new = request.out is None and request.resume == "never"
        run = RunDirectory(new_folder(plan.out) if new else plan.out)
        config = launch.LaunchConfig(
            machine.nproc, nodes, machine.max_restarts, run.logs, run.save_seconds
        )
        out = ["--out", str(run.path)] if new else []  # all write to the directory chosen here
        launch.launch(config, [*sys.argv[1:], *out], reporter)
    return True


def execution_on(machine: MachineConfig, reporter: Reporter) -> Execution:
    """The device and precision that the options name, on this machine."""
    device = devices.choose_device(machine.device)
    reason = group_norm.why_unfused(device) if device.type == "cuda" else ""
    if reason:
        reporter.say(
            Warned(f"Normalisation by torch, which is slower: ours does not work here: {reason}")
        )
    return Execution(
        device,
        devices.choose_precision(machine.precision, device),
        machine.microbatch,
        machine.compiled,
        machine.cuda_graph,
        machine.checkpoint_activations,
        precision_given=machine.precision != "auto",
    )


def load_scoring(
    request: TrainingRequest, device: torch.device, reporter: Reporter
) -> Extractor | None:
    """The feature network of --fid-every; None where no scores are requested."""
    if request.scoring.every is None:
        return None
    from ddpm_cli.core.training.scoring import load_extractor  # imports torchvision

    return load_extractor(request.scoring, device, reporter)


def train(
    plan: TrainingPlan,
    request: TrainingRequest,
    execution: Execution,
    log: Log,
    stop: stopping.StopRequest,
) -> dict[str, Any]:
    """Train as planned, alone or as one of several ranks; a summary of how it ended.

    On rank 0 the log is opened in the run directory. Raises PreemptedError or StoppedByUserError
    where `stop` received a signal.
    """
    try:
        return _train(plan, request, execution, log, stop)
    except Exception as error:
        log.note(f"{type(error).__name__}: {error}")
        raise


def _train(
    plan: TrainingPlan,
    request: TrainingRequest,
    execution: Execution,
    reporter: Log,
    stop: stopping.StopRequest,
) -> dict[str, Any]:
    config, execution = plan.config, plan.fitted(execution)
    with stop.raise_at_once():
        extractor = load_scoring(request, execution.device, reporter)
        images = load_images(plan, request, execution.device, reporter)
        training, held_out = load_held_out(plan, images, request, execution.device, reporter)
    stop.saves = True
    with ExitStack() as locks:
        opened = partial(resuming.open_directory, plan, request, reporter, locks)
        run = RunDirectory(distributed.broadcast_from_rank0(opened))
        locks.enter_context(
            devices.enough_memory("use a smaller --microbatch, or --checkpoint-activations")
        )
        reporter.say(f"Run directory: {run.path}")
        preset = plan.preset or next(reversed(run.presets()), "")
        record = provenance.gather(execution.device, preset)
        state = TrainingState.initial(config, execution.device)
        resumed_at = resuming.resume(run, state, request, reporter)
        origin = _origin(run, config, state, plan, resumed_at, reporter)
        config = replace(config, origin=origin)
        seen = state.progress.images
        distributed.broadcast_from_rank0(lambda: resuming.prepare_directory(run, config, seen))
        if teacher.is_needed(config):  # after config.json, without which a folder is no run
            resumed = None if request.resume in ("auto", "never") else Path(request.resume)
            distributed.broadcast_from_rank0(lambda: teacher.keep(run, config, resumed))
        distributed.broadcast_from_rank0(lambda: _open_log(run, record, reporter))
        distributed.broadcast_from_rank0(
            lambda: appearance.write_statistics(run, training, config, reporter)
        )
        budget = BudgetTracker(config, len(training), state.progress)
        finished = budget.is_over
        if finished:
            reporter.say(f"The budget is used up: {budget.used_up(config.budget, state.progress)}.")
            distributed.broadcast_from_rank0(lambda: _write_missing_weights(run, config, state))
        log = None
        if request.scoring.every or not finished:
            stop.limit = _time_limit(request, state.progress, reporter)
            names = request.log if distributed.is_main() else ()
            with (
                processes.following(names, run, seen, reporter),
                watchdog.watching(run.logs, request.stall_timeout),
            ):
                scorer = None
                if extractor is not None:
                    from ddpm_cli.core.training.scoring import TrainingScorer  # imports torchvision

                    with watchdog.paused():
                        scorer = TrainingScorer(
                            request.scoring,
                            extractor,
                            run,
                            config,
                            training,
                            seen,
                            execution,
                            reporter,
                            stop,
                        )
                trainer = Trainer(
                    run,
                    config,
                    state,
                    training,
                    held_out,
                    execution,
                    reporter,
                    scorer,
                    preset,
                )
                trainer.train(stop)
                log = trainer.log
        summary = _summary(run, config, state, log, resumed_at)
        distributed.barrier()
    return summary | {"provenance": record}


def _open_log(run: RunDirectory, record: dict[str, Any], log: Log) -> None:
    """Record this start of the run, and what was said so far."""
    try:
        with run.provenance.open("a", encoding="utf-8") as file:
            file.write(dumps(record, indent=None) + "\n")
    except OSError as error:
        raise cannot_write(run.provenance, error) from error
    log.open(run.log)


def _summary(
    run: RunDirectory,
    config: RunConfig,
    state: TrainingState,
    log: MetricsLog | None,
    resumed_at: int,
) -> dict[str, Any]:
    """How the training ended, of which there is a log where it ran. All ranks call this."""
    progress, speed, wait = state.progress, None, None
    if log is not None:
        speed = log.speed.mean
        (wait,) = distributed.all_reduce_max(log.speed.data_wait)
    summary = {
        "run": str(run.path),
        "weights": str(run.weights),
        "parameters": parameter_count(state.network),
        "images": progress.images,
        "steps": progress.steps,
        "seconds": round(progress.seconds, 2),
        "images_per_second": speed and round(speed, 2),
        "data_wait": wait and round(wait, 4),
        "peak_memory": log and log.peak_memory,
        "loss": progress.loss,
        "loss_smooth": progress.loss_smooth,
        "loss_heldout": progress.loss_heldout,
        "gap": progress.gap,
        "best": progress.best,
        "best_of": "loss_heldout" if config.data.holdout or config.holdout_data else "loss_smooth",
        "skipped_steps": progress.skipped,
        "resumed_at": resumed_at,
    }
    document: dict[str, Any] = finite(summary)
    return document


def _write_missing_weights(run: RunDirectory, config: RunConfig, state: TrainingState) -> None:
    """A run that began with another's last snapshot has no weights yet."""
    if not run.weights.exists():
        average, seen = state.average.state_dict(), state.progress.images
        weights.save(run.weights, average, config, seen, run.read_statistics())


def _origin(
    run: RunDirectory,
    config: RunConfig,
    state: TrainingState,
    plan: TrainingPlan,
    resumed_at: int,
    reporter: Reporter,
) -> WeightsOrigin | None:
    """What the run was initialised with; where it starts now, the state takes those weights."""
    if resumed_at:  # of this run, or of another, whose settings the plan has
        student = config.objective.consistency is not None
        other = plan.recorded if student else None
        return run.read_config().origin if run.config.is_file() else other
    if (init_from := plan.init_from) is None:
        return None
    initial = initial_weights.read(init_from, state.network.config)
    initial_weights.load_into(state, initial)
    reporter.say(f"Starting from the weights of {init_from}.")
    return initial.origin


def _time_limit(
    request: TrainingRequest, progress: Progress, reporter: Reporter
) -> stopping.TimeLimit | None:
    def used() -> tuple[float, float]:
        save, step = progress.save_seconds, progress.seconds / max(1, progress.steps)
        more = progress.validation_seconds + progress.preview_seconds
        return (save + more if save else 0.0), step

    end = stopping.end_of_time(request.time_limit, reporter)
    return None if end is None else stopping.TimeLimit(end, used)


@contextmanager
def requeue_if_preempted(machine: MachineConfig) -> Iterator[None]:
    """Put the SLURM job back into the queue where the block was preempted, after all was saved.

    One process does that: the launcher of the first node, after its workers ended, or rank 0, where
    another launcher started the ranks.
    """
    try:
        yield
    except DdpmError as error:
        if machine.requeue and error.exit_code == PreemptedError.exit_code:
            _requeue(machine, error)
        raise


def _requeue(machine: MachineConfig, preemption: DdpmError) -> None:
    if worker.is_worker() or machine.node_rank or not distributed.is_main():
        return
    try:
        with stopping.signal_handler(signal.SIG_IGN):  # inherited by scontrol, which ends this job
            slurm.requeue()
    except DdpmError as error:
        raise PreemptedError(f"{preemption}; the job is not in the queue again: {error}") from error
