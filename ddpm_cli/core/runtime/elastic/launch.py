"""Start the same command as several processes, by torch's elastic agent, and again if one dies."""

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
from ddpm_cli.core.runtime.devices import cores
from ddpm_cli.core.runtime.elastic import stopping, worker
from ddpm_cli.core.runtime.elastic.failures import Failure, first_failure
from ddpm_cli.core.runtime.reporting import Reporter

_MEETING = 600  # seconds that nodes wait for each other
_KNOCK = 5  # seconds to wait for an answer of the first one
_ELSEWHERE = "the training ended on another node; what that one printed tells why"
_PARTING = 60  # seconds that nodes which ended wait for each other


@dataclass(frozen=True)
class Nodes:
    """The machines that work together, and where they meet. One meets itself anywhere."""

    count: int = 1
    rank: int = 0  # of this one; 0 hosts the meeting point
    endpoint: str = "127.0.0.1:0"  # port 0: the system picks a free one

    @property
    def address(self) -> str:
        """Under which name or number the others reach this machine."""
        host, _, port = self.endpoint.rpartition(":")
        if self.rank == 0:
            return host
        if not host.replace(".", "").isdigit():
            return socket.gethostname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])


@dataclass(frozen=True)
class Launch:
    """How many processes to start on this machine, and what to do when one dies."""

    processes: int
    nodes: Nodes = field(default_factory=Nodes)
    max_restarts: int = 0
    logs: Path | None = None  # a folder for what all but the first process print
    save_seconds: Callable[[], float] = lambda: 0.0  # what the last snapshot took


def launch(how: Launch, command: Sequence[str], reporter: Reporter) -> None:
    """Run `ddpm COMMAND` in workers, with torchrun's environment (RANK, WORLD_SIZE, …).

    Raises WorkersFailedError with the exit code and the message of the first worker that failed, unless
    they ended well. One that died, of an error of ours or by a signal, makes all start again, up
    to `max_restarts` times; one that ended on purpose does not.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # we tell it in fewer words
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a shared one keeps what died wrote
    with ExitStack() as kept:
        own = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="ddpm-")))
        logs = _Logs(how.logs or own, own / "endings", how.processes)
        left = how.max_restarts
        while True:
            _find_first_node(how.nodes, reporter)
            agent = None
            try:
                agent = _Agent(how, command, logs, left, reporter)
                with stopping.signal_handler(agent.pass_on):
                    return agent.work()
            except RendezvousConnectionError as error:  # the node with the meeting point is gone
                left = (left if agent is None else agent.left) - 1
                if left < 0 or how.nodes.rank == 0 or not logs.starts:
                    raise DdpmError(_no_meeting(how.nodes, error)) from error
                reporter.say(f"{how.nodes.endpoint} is gone; waiting for it to come back")
            except RendezvousClosedError as error:
                raise DdpmError(_ELSEWHERE) from error
            except SignalException as stop:  # torch heeds signals while it starts processes
                raise _stopped(int(stop.sigval), "while processes were starting") from stop
            except (RendezvousError, OSError) as error:
                raise DdpmError(_no_meeting(how.nodes, error)) from error


def _find_first_node(nodes: Nodes, reporter: Reporter) -> None:
    """Wait until the meeting point answers, in Python, which heeds signals: torch's wait does not.

    Raises DdpmError where it does not answer in time.
    """
    if nodes.rank == 0:
        return
    host, _, port = nodes.endpoint.rpartition(":")
    until, said = time.monotonic() + _MEETING, False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_KNOCK).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise DdpmError(_no_meeting(nodes, error)) from error
            if not said:
                reporter.say(f"Waiting for {nodes.endpoint} ({error.strerror or error})")
                said = True
        time.sleep(_KNOCK / 10)


def _stopped(number: int, when: str) -> WorkersFailedError:
    name, code = signal.Signals(number).name, 130 if number == signal.SIGINT else 75
    return WorkersFailedError(f"stopped by {name} {when}; {stopping.RERUN_HINT}", code)


def _no_meeting(nodes: Nodes, error: Exception) -> str:
    told = error.__cause__ or error
    why = first_line(told) if str(told) else "not all came in time"
    if nodes.count == 1:
        return f"cannot start several processes: {why}"
    return (
        f"the {nodes.count} nodes did not meet at {nodes.endpoint} ({why}); is the command with "
        "--node-rank 0 running there, and is the port free and open to the others?"
    )


class _Logs(LogsSpecs):
    """Where workers print and how they end: the first on the terminal, the others into files."""

    def __init__(self, folder: Path, endings: Path, processes: int) -> None:
        super().__init__()
        self.folder, self.starts = folder, 0
        self._endings = endings  # elsewhere: that the run's disk is full can still be told
        self._threads = str(max(1, cores() // processes))
        self._started = time.time()

    @property
    def root_log_dir(self) -> str:
        """The folder of all logs."""
        return str(self.folder)

    def discard(self) -> None:
        """Remove what only this launcher reads."""
        shutil.rmtree(self._endings.parent, ignore_errors=True)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Files for the workers about to start, whose environment is completed."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._started))
        folder = self.folder / (f"{stamp}-restart{self.starts}" if self.starts else stamp)
        endings = self._endings / str(self.starts)
        for made in (folder, endings):
            made.mkdir(parents=True, exist_ok=True)
        files = LogsDest()
        for local, env in envs.items():
            path = folder / f"rank{env['RANK']}"
            first = env["RANK"] == "0"
            files.stdouts[local] = "" if first else f"{path}.out"
            files.stderrs[local] = "" if first else f"{path}.err"
            files.error_files[local] = str(endings / f"rank{env['RANK']}.end.json")
            env[worker.ENDING] = files.error_files[local]
            env[worker.LAUNCHER] = str(os.getpid())
            env["TORCHELASTIC_RESTART_COUNT"] = str(self.starts)  # whatever the reason
            env.setdefault("OMP_NUM_THREADS", self._threads)
        self.starts += 1
        return files


class _Agent(LocalElasticAgent):
    """torch's agent, which here passes signals on and lets workers end on purpose."""

    def __init__(
        self, how: Launch, command: Sequence[str], logs: _Logs, left: int, reporter: Reporter
    ) -> None:
        nodes = how.nodes
        meeting = RendezvousParameters(
            "c10d",
            nodes.endpoint,
            run_id=os.environ.get("SLURM_JOB_ID", "ddpm") if nodes.count > 1 else uuid.uuid4().hex,
            min_nodes=nodes.count,
            max_nodes=nodes.count,
            local_addr=nodes.address,
            is_host=nodes.rank == 0,
            join_timeout=_MEETING,
            read_timeout=_MEETING,
        )
        spec = WorkerSpec(
            role="ddpm",
            local_world_size=how.processes,
            rdzv_handler=get_rendezvous_handler(meeting),
            entrypoint=sys.executable,
            args=("-m", "ddpm_cli", *command),
            max_restarts=left,
            monitor_interval=0.1,
            local_addr=nodes.address,
        )
        super().__init__(spec, logs, exit_barrier_timeout=_PARTING)
        self._how, self._spec, self._reporter, self._logs = how, spec, reporter, logs
        self._heeded = stopping.handled_signals()
        self._signal, self._interrupted, self._deadline = 0, False, 0.0

    @property
    def left(self) -> int:
        """How often the workers may still be started again."""
        return int(self._remaining_restarts)

    def work(self) -> None:
        """Start the workers and stay until they ended. Raises WorkersFailedError unless they did well."""
        try:
            result = self.run()
            if result is None:
                raise RendezvousClosedError
            if result.is_failed():
                raise self._ended(first_failure(result.failures))
        finally:
            self._spec.rdzv_handler.shutdown()

    def pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler: the workers get the same signal, and time to save.

        A second Ctrl-C leaves at once.
        """
        running = self._running()
        if number == signal.SIGINT and self._interrupted:
            for process in running:
                process.kill()
            self._logs.discard()
            stopping.exit_immediately()
        if not running:
            raise _stopped(number, "with no work under way")
        self._signal = self._signal or number
        self._interrupted |= number == signal.SIGINT
        if not self._deadline:
            self._deadline = time.monotonic() + stopping.grace_period(self._how.save_seconds())
        for process in running:
            process.send_signal(number)

    def _running(self) -> list[Any]:
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [h.proc for h in handlers.values() if h.proc.poll() is None]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        started: dict[int, Any] = super()._start_workers(worker_group)
        for number in stopping.SIGNALS:  # torch takes some of them when it starts processes
            signal.signal(number, self.pass_on if number in self._heeded else signal.SIG_IGN)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """As torch does; but where a worker ended on purpose, or was told to, none is restarted."""
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            first = first_failure(result.failures)
            if first.purpose is not None or self._signal or first.stopped:
                self._exit_barrier()  # type: ignore[no-untyped-call]
                raise self._ended(first)
            if self.left:
                allowed = self._how.max_restarts
                self._reporter.say(
                    f"{first.line} Starting all again from the newest snapshot "
                    f"({allowed - self.left + 1} of {allowed}; logs in {self._logs.folder})."
                )
        elif self._deadline and time.monotonic() > self._deadline:
            for process in self._running():
                process.kill()
        return result

    def _ended(self, first: Failure) -> WorkersFailedError:
        """What the first failure means for the whole command."""
        if first.purpose is not None:
            return WorkersFailedError(first.message or _ELSEWHERE, first.purpose)
        number = self._signal or first.stopped
        if number and (first.stopped or first.lost):  # not all were listening yet
            return _stopped(number, "before the first step")
        if self._deadline and time.monotonic() > self._deadline:
            return WorkersFailedError(
                f"the processes did not end in time and were killed; {stopping.RERUN_HINT}", 1
            )
        where = f"\nThe logs are in {self._logs.folder}" if self._how.logs else ""
        return WorkersFailedError(
            f"{first.line}{where}\n{first.traceback or stopping.RERUN_HINT}", 1
        )
