"""Options of `ddpm train` about machine and processes, and the launching of these."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.core.config.serialisation import is_number
from ddpm_cli.core.errors import DdpmError, PreemptedError, UsageError

_PANEL = "Execution"


@dataclass(frozen=True)
class MachineOptions:
    """What the work runs on."""

    nproc: common.Nproc = 1
    nnodes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Machines that train together, each running this command with --nproc, its own "
            "--node-rank and the same --rdzv-endpoint.",
            rich_help_panel=_PANEL,
        ),
    ] = 1
    node_rank: Annotated[
        int,
        typer.Option(min=0, help="Which of them this is, from 0.", rich_help_panel=_PANEL),
    ] = 0
    rdzv_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the machines meet: an address of that with --node-rank 0, and a free port.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often all processes are started again, from the newest snapshot, when one "
            "of several dies.",
            rich_help_panel=_PANEL,
        ),
    ] = 3
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Save and stop (exit code 75) before this time ends: 4h, 90m, 1d12h or seconds.",
            rich_help_panel=_PANEL,
            show_default="when the SLURM job ends (SLURM_JOB_END_TIME), if it is one",
        ),
    ] = None
    requeue: Annotated[
        bool,
        typer.Option(
            "--requeue",
            help="When stopped by a signal or for lack of time, put this SLURM job back into the "
            "queue once all is saved (scontrol requeue); Ctrl-C and SIGINT end it for good.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    stall_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds without a finished step after which a process writes down where it "
            "hangs, in the run's logs/, and ends; 0: never.",
            rich_help_panel=_PANEL,
        ),
    ] = 600.0
    device: common.Device = "auto"
    precision: common.Precision = "auto"
    microbatch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images in a forward pass of a process; less needs less memory, learns the same.",
            rich_help_panel=_PANEL,
            show_default="the process's whole share of --batch",
        ),
    ] = None
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Let torch compile the network first: minutes, then faster steps, on GPUs above "
            "all. The weights are the same with and without.",
            rich_help_panel=_PANEL,
        ),
    ] = False


def check(request: Any, asked: MachineOptions) -> None:
    """Refuse what cannot be, before anything starts."""
    from ddpm_cli.core.runtime import devices
    from ddpm_cli.core.runtime.elastic import slurm

    devices.check_processes(asked.nproc, asked.device)
    if asked.requeue:
        slurm.check_requeue()
    if request.resume == "never" and asked.nnodes > 1:
        raise UsageError(
            "--resume never with --nnodes: a node that comes back must find the run; begin a new "
            "one by an --out that is not there yet"
        )
    if asked.node_rank >= asked.nnodes:
        raise UsageError(
            f"--node-rank {asked.node_rank} should be less than --nnodes {asked.nnodes}"
        )
    if asked.nnodes == 1:
        return
    host, _, port = (asked.rdzv_endpoint or "").rpartition(":")
    if not host or not is_number(port) or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"--nnodes {asked.nnodes} needs --rdzv-endpoint HOST:PORT, an address of the machine "
            f"with --node-rank 0 such as node01:29500 (seen: {asked.rdzv_endpoint or 'none'})"
        )


def launch_if_needed(request: Any, asked: MachineOptions, stop: Any) -> bool:
    """Where several processes are asked for and not there yet: check all once, then start them.

    Raises WorkersFailedError where they did not end well, and what `stop` (a StopRequest) raises where a
    signal comes before they are there.
    """
    from ddpm_cli.core.runtime import distributed
    from ddpm_cli.core.runtime.elastic import launch, slurm
    from ddpm_cli.core.runtime.run_directory import RunDirectory
    from ddpm_cli.core.training import planning, resuming, session

    if asked.nproc == 1 and asked.nnodes == 1:
        slurm.attach()
        return False
    if distributed.under_launcher():
        return False
    nodes = launch.Nodes()
    if asked.nnodes > 1 and asked.rdzv_endpoint:
        nodes = launch.Nodes(asked.nnodes, asked.node_rank, asked.rdzv_endpoint)
    reporter = console.reporter()
    with stop.raise_at_once():
        plan = planning.plan(request)
        session.check_batch(plan.config, asked.nproc * asked.nnodes)
        out = resuming.choose_directory(plan, request)
        if nodes.count == 1:  # several wait longer for each other once they have met
            session.load_images(plan, request, reporter)
        run = RunDirectory(out)
        how = launch.LaunchConfig(
            asked.nproc, nodes, asked.max_restarts, run.logs, run.save_seconds
        )
        launch.launch(how, [*sys.argv[1:], "--out", str(out)], reporter)
    return True


@contextmanager
def requeue_if_preempted(asked: MachineOptions) -> Iterator[None]:
    """Where the block was preempted, after all was saved: put the SLURM job back into the queue.

    One process does that: the launcher of the first node, after its workers ended, or the first
    process, where another launcher started them.
    """
    try:
        yield
    except DdpmError as error:
        if asked.requeue and error.exit_code == PreemptedError.exit_code:
            _requeue(asked, error)
        raise


def _requeue(asked: MachineOptions, ending: DdpmError) -> None:
    from ddpm_cli.core.runtime import distributed
    from ddpm_cli.core.runtime.elastic import slurm, stopping, worker

    if worker.is_worker() or asked.node_rank or not distributed.is_main():
        return
    try:
        with stopping.signal_handler(
            signal.SIG_IGN
        ):  # scontrol inherits that: it outlives what it ends
            slurm.requeue()
    except DdpmError as error:
        raise PreemptedError(f"{ending}; the job is not in the queue again: {error}") from error
