"""Launch the same command as several worker processes, by torch's elastic agent, with restarts."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from ddpm_cli.core.errors import DdpmError, WorkersFailedError, first_line
from ddpm_cli.core.runtime import start_up, threads
from ddpm_cli.core.runtime.elastic import stopping, worker, world
from ddpm_cli.core.runtime.elastic.failures import Failure, first_failure
from ddpm_cli.core.runtime.reporting import Reporter, Warned

_RENDEZVOUS_TIMEOUT = 600  # seconds that nodes wait for each other
_CONNECT_TIMEOUT = 5  # seconds to wait for an answer from the rendezvous endpoint
_EXIT_BARRIER_TIMEOUT = 60  # seconds that nodes which ended wait for each other
_FAILED_ON_ANOTHER_NODE = "the training ended on another node; see its output for the reason"


@dataclass(frozen=True)
class Nodes:
    """The nodes of a training and their rendezvous."""

    count: int = 1
    rank: int = 0  # of this node; 0 hosts the rendezvous
    endpoint: str = "127.0.0.1:0"  # port 0: the system picks a free one

    @property
    def address(self) -> str:
        """The host name or address at which other nodes reach this one."""
        host, _, port = self.endpoint.rpartition(":")
        if self.rank == 0:
            return host
        if not host.replace(".", "").isdigit():
            return socket.gethostname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])


@dataclass(frozen=True)
class LaunchConfig:
    """How many workers to start on this machine, and how often to restart them."""

    processes: int
    nodes: Nodes = field(default_factory=Nodes)
    max_restarts: int = 0
    logs: Path | None = None  # a folder for the output of all ranks but 0
    save_seconds: Callable[[], float] = lambda: 0.0  # of the last snapshot
    again: str = "from the newest snapshot"  # what restarted workers go on with, for messages
    kept: str = stopping.RERUN_HINT  # after a stop or a failure, for messages


def launch(config: LaunchConfig, command: Sequence[str], reporter: Reporter) -> None:
    """Run `ddpm COMMAND` in workers, with torchrun's environment (RANK, WORLD_SIZE, …).

    A worker that died, by a bug or a signal, makes all workers restart, up to `max_restarts` times;
    one that ended on purpose does not. Raises WorkersFailedError with the exit code and message of
    the first failure, or DdpmError where the nodes do not meet.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # reported below in a line
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else keys of dead workers remain
    nodes = config.nodes
    world.check_interfaces()
    if nodes.count > 1:
        world.check_host(nodes.endpoint.rpartition(":")[0], f"--rdzv-endpoint {nodes.endpoint}")
        reporter.say(f"Node {nodes.rank} of {nodes.count} meets the others at {nodes.endpoint}")
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddpm-")))
        logs = _WorkerLogs(config.logs or temporary, temporary / "errors", config.processes)
        restarts = config.max_restarts
        while True:
            wait_for_rendezvous(nodes, reporter)
            agent = None
            try:
                agent = _Agent(config, command, logs, restarts, reporter)
                with stopping.signal_handler(agent.forward_signal):
                    return agent.run_workers()
            except RendezvousConnectionError as error:  # the node with the rendezvous is gone
                restarts = (restarts if agent is None else agent.restarts_left) - 1
                if restarts < 0 or nodes.rank == 0 or not logs.starts:
                    raise DdpmError(_rendezvous_failed(nodes, error)) from error
                reporter.say(Warned(f"{nodes.endpoint} is gone; waiting for it to come back"))
            except RendezvousClosedError as error:
                raise DdpmError(_FAILED_ON_ANOTHER_NODE) from error
            except SignalException as error:  # torch handles signals while it starts processes
                number = int(error.sigval)
                raise _stopped(number, "while processes were starting", config.kept) from error
            except (RendezvousError, OSError) as error:
                raise DdpmError(_rendezvous_failed(nodes, error)) from error


def wait_for_rendezvous(nodes: Nodes, reporter: Reporter) -> None:
    """Wait until the rendezvous endpoint accepts connections.

    In Python, which handles signals meanwhile, as torch's own wait does not. Raises DdpmError
    where it does not answer in time.
    """
    if nodes.rank == 0:
        return
    host, _, port = nodes.endpoint.rpartition(":")
    deadline, reported = time.monotonic() + _RENDEZVOUS_TIMEOUT, False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise DdpmError(_rendezvous_failed(nodes, error)) from error
            if not reported:
                reporter.say(f"Waiting for {nodes.endpoint} ({error.strerror or error})")
                reported = True
        time.sleep(_CONNECT_TIMEOUT / 10)


def _stopped(number: int, when: str, kept: str) -> WorkersFailedError:
    name, code = signal.Signals(number).name, 130 if number == signal.SIGINT else 75
    return WorkersFailedError(f"stopped by {name} {when}; {kept}", code)


def _rendezvous_failed(nodes: Nodes, error: Exception) -> str:
    cause = error.__cause__ or error
    reason = first_line(cause) if str(cause) else "not all joined in time"
    if nodes.count == 1:
        return f"cannot start several processes: {reason}"
    return (
        f"the {nodes.count} nodes did not all connect to {nodes.endpoint} ({reason}); is the "
        "command with --node-rank 0 running there, and is the port free and open to the others?"
    )


class _WorkerLogs(LogsSpecs):
    """Output and error files of workers; rank 0 prints to the terminal, the others into files."""

    def __init__(self, folder: Path, error_folder: Path, processes: int) -> None:
        super().__init__()
        self.folder, self.starts = folder, 0
        self._error_folder = error_folder  # not on the run's disk, which may be full
        self._threads = str(threads.share(processes))
        self._started = time.time()

    @property
    def root_log_dir(self) -> str:
        """The folder of all logs."""
        return str(self.folder)

    def discard(self) -> None:
        """Remove the temporary files of this launcher."""
        shutil.rmtree(self._error_folder.parent, ignore_errors=True)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Name the files of the workers about to start, and complete their environment."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._started))
        folder = self.folder / (f"{stamp}-restart{self.starts}" if self.starts else stamp)
        errors = self._error_folder / str(self.starts)
        for parent in (folder, errors):
            parent.mkdir(parents=True, exist_ok=True)
        files = LogsDest()
        for local, env in envs.items():
            path = folder / f"rank{env['RANK']}"
            to_terminal = env["RANK"] == "0"
            files.stdouts[local] = "" if to_terminal else f"{path}.out"
            files.stderrs[local] = "" if to_terminal else f"{path}.err"
            files.error_files[local] = str(errors / f"rank{env['RANK']}.json")
            env[worker.ERROR_FILE] = files.error_files[local]
            env[worker.LAUNCHER] = str(os.getpid())
            env["TORCHELASTIC_RESTART_COUNT"] = str(self.starts)  # torch counts failures only
            env.setdefault("OMP_NUM_THREADS", self._threads)
        self.starts += 1
        return files


class _Agent(LocalElasticAgent):
    """torch's agent; forwards signals to workers and does not restart those that end on purpose."""

    def __init__(
        self,
        config: LaunchConfig,
        command: Sequence[str],
        logs: _WorkerLogs,
        restarts: int,
        reporter: Reporter,
    ) -> None:
        nodes = config.nodes
        rendezvous = RendezvousParameters(
            "c10d",
            nodes.endpoint,
            run_id=os.environ.get("SLURM_JOB_ID", "ddpm") if nodes.count > 1 else uuid.uuid4().hex,
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            local_addr=nodes.address,
            is_host=nodes.rank == 0,
            join_timeout=_RENDEZVOUS_TIMEOUT,
            read_timeout=_RENDEZVOUS_TIMEOUT,
        )
        spec = WorkerSpec(
            role="ddpm",
            local_world_size=config.processes,
            rdzv_handler=get_rendezvous_handler(rendezvous),
            entrypoint=sys.executable,
            args=(*start_up.program("ddpm_cli.__main__"), *command),
            max_restarts=restarts,
            monitor_interval=0.1,
            local_addr=nodes.address,
        )
        super().__init__(spec, logs, exit_barrier_timeout=_EXIT_BARRIER_TIMEOUT)
        self._config, self._spec, self._reporter, self._logs = config, spec, reporter, logs
        self._handled_signals = stopping.handled_signals()
        self._signal, self._interrupted, self._deadline = 0, False, 0.0

    @property
    def restarts_left(self) -> int:
        """How often the workers may still be restarted."""
        return int(self._remaining_restarts)

    def run_workers(self) -> None:
        """Start the workers and wait for their end. Raises WorkersFailedError where one failed."""
        try:
            result = self.run()
            if result is None:
                raise RendezvousClosedError
            if result.is_failed():
                raise self._error(first_failure(result.failures))
        finally:
            self._spec.rdzv_handler.shutdown()

    def forward_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: sends the workers the same signal and gives them time to save.

        A second Ctrl-C kills them and exits.
        """
        running = self._running_processes()
        if number == signal.SIGINT and self._interrupted:
            for process in running:
                process.kill()
            self._logs.discard()
            stopping.exit_immediately()
        if not running:
            raise _stopped(number, "while no processes were running", self._config.kept)
        self._signal = self._signal or number
        self._interrupted |= number == signal.SIGINT
        if not self._deadline:
            self._deadline = time.monotonic() + stopping.grace_period(self._config.save_seconds())
        for process in running:
            process.send_signal(number)

    def _running_processes(self) -> list[Any]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [h.proc for h in handlers.values() if h.proc.poll() is None]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        started: dict[int, Any] = super()._start_workers(worker_group)
        for number in stopping.SIGNALS:  # torch sets its own handlers when it starts processes
            handled = number in self._handled_signals
            signal.signal(number, self.forward_signal if handled else signal.SIG_IGN)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """As torch does, but no restart where a worker ended on purpose or by a stop signal."""
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            first = first_failure(result.failures)
            if first.intended_exit_code is not None or self._signal or first.stop_signal:
                self._exit_barrier()  # type: ignore[no-untyped-call]
                raise self._error(first)
            if self.restarts_left:
                allowed = self._config.max_restarts
                restart = allowed - self.restarts_left + 1
                self._reporter.say(
                    Warned(
                        f"{first.summary} Restarting all {self._config.again} "
                        f"({restart} of {allowed}; logs in {self._logs.folder})."
                    )
                )
        elif self._deadline and time.monotonic() > self._deadline:
            for process in self._running_processes():
                process.kill()
        return result

    def _error(self, first: Failure) -> WorkersFailedError:
        """The error of the whole command after its first failure."""
        if first.intended_exit_code is not None:
            message = first.message or _FAILED_ON_ANOTHER_NODE
            return WorkersFailedError(message, first.intended_exit_code)
        number = self._signal or first.stop_signal
        if number and (first.stop_signal or first.lost_peers):  # before all handlers were set
            return _stopped(number, "while processes were starting", self._config.kept)
        if self._deadline and time.monotonic() > self._deadline:
            return WorkersFailedError(
                f"the processes did not end in time and were killed; {self._config.kept}", 1
            )
        logs = f"\nThe logs are in {self._logs.folder}" if self._config.logs else ""
        return WorkersFailedError(
            f"{first.summary}{logs}\n{first.traceback or self._config.kept}", 1
        )
