"""Units of multi-process training: SLURM, time limits, locks, stalls, the first failure."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

from ddpm_cli import __version__
from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config.fields import parse_duration
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.data import loader
from ddpm_cli.core.errors import (
    DdpmError,
    DivergedError,
    PreemptedError,
    StoppedByUserError,
    UsageError,
    WorkersFailedError,
)
from ddpm_cli.core.runtime import devices, locks
from ddpm_cli.core.runtime.elastic import launch, slurm, stopping, watchdog, worker, world
from ddpm_cli.core.runtime.elastic.failures import first_failure
from ddpm_cli.core.runtime.elastic.launch import Nodes
from ddpm_cli.core.runtime.locks import lock_run
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.training import session
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.state import Progress
from tests.support import ranks
from tests.support.cli import Result

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[03-05,9],login", "gpu03"),
        ("a-1.example.org,b", "a-1.example.org"),
        ("rack[2-3]node[08-10]", "rack2node08"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert slurm.first_host(nodes) == first


def test_scontrol_expands_other_node_lists(scontrol: Path) -> None:
    assert slurm.first_host("odd{1..3}") == "first"
    assert scontrol.read_text() == "show hostnames odd{1..3}\n"


@pytest.fixture
def every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """All names of hosts resolve."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])


def attached(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    """The variables of torch.distributed under these variables of SLURM."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        before = dict(os.environ)
        world.attach_tasks()
        found = {name: os.environ[name] for name in names if name in os.environ}
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
    return found


@pytest.mark.usefixtures("every_host")
def test_tasks_of_srun_become_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
    nodes = {"SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "3", "SLURM_JOB_NODELIST": "gpu[03-04]"}
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu03"}
    assert attached(monkeypatch, **task, **nodes) == expected | {"MASTER_PORT": "29697"}
    own = {"MASTER_ADDR": "head", "MASTER_PORT": "1234"}
    assert attached(monkeypatch, **task, **nodes, **own) == expected | own
    assert attached(monkeypatch, **task, RANK="0", WORLD_SIZE="2") == {
        "RANK": "0",
        "WORLD_SIZE": "2",
    }


def test_a_single_task_and_a_batch_script_are_single_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert attached(monkeypatch, SLURM_PROCID="0", SLURM_NTASKS="1") == {}
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "ENVIRONMENT": "BATCH"}
    assert attached(monkeypatch, **script) == {}
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "localhost"}
    assert attached(monkeypatch, **script, **step)["WORLD_SIZE"] == "4"


def test_node_addresses() -> None:
    assert Nodes(2, 0, "gpu03:29500").address == "gpu03"
    assert Nodes(2, 1, "gpu03:29500").address == os.uname().nodename
    assert Nodes(2, 1, "127.0.0.1:29500").address == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4h", 14400), ("90m", 5400), ("3600", 3600), ("1d12h", 129600), ("1.5h", 5400), ("20s", 20)],
)
def test_time_limits(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "4 h", "-3", "0", "h", "1:30:00"])
def test_invalid_time_limits(text: str) -> None:
    with pytest.raises(UsageError, match="--time-limit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("environment", "gpus", "index"),
    [
        ({"RANK": "3", "SLURM_PROCID": "3"}, 1, 0),  # srun: each task sees its own GPU
        ({"RANK": "3", "SLURM_PROCID": "3", "SLURM_GPUS_PER_TASK": "1"}, 4, 3),  # or all GPUs
        (
            {"RANK": "3", "SLURM_PROCID": "0", "SLURM_GPUS_PER_TASK": "8"},
            8,
            3,
        ),  # a launcher in one task
        ({"RANK": "3"}, 1, None),
        ({"RANK": "3", "WORLD_SIZE": ""}, 1, 0),  # ranks of no launcher
        ({"RANK": "3", "SLURM_PROCID": "3", "TORCHELASTIC_RUN_ID": "x"}, 1, None),
    ],
)
def test_each_process_takes_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], gpus: int, index: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    world_of_four = {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}
    for name, value in (world_of_four | environment).items():
        monkeypatch.setenv(name, value)
    if index is None:
        with pytest.raises(UsageError, match="process 3 of this machine has no GPU"):
            devices.choose_device("cuda")
    else:
        assert devices.choose_device("cuda").index == index


PRINT_START = "import os; from ddpm_cli.core.runtime.elastic import worker; worker.start(); "
PRINT_START += "print(os.environ[worker.STARTED])"


def test_the_time_limit_counts_from_the_first_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps its launcher's start time; other commands ignore an inherited one."""

    def started() -> float:
        return float(subprocess.check_output([sys.executable, "-c", PRINT_START], text=True))

    before = time.time()
    monkeypatch.setenv(worker.STARTED, "1000")
    assert before <= started() <= time.time()
    monkeypatch.setenv(worker.LAUNCHER, str(os.getpid()))
    assert started() == 1000


def test_a_failure_is_reported_though_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error file is not on the run's disk, and is complete or missing."""
    logs = launch._WorkerLogs(tmp_path / "run", tmp_path / "own", 1)
    (file,) = logs.reify({0: {"RANK": "0"}}).error_files.values()
    assert Path(file).is_relative_to(tmp_path / "own")
    monkeypatch.setenv(worker.LAUNCHER, str(os.getppid()))
    monkeypatch.setenv(worker.ERROR_FILE, file)
    with monkeypatch.context() as patch:

        def full(self: Path, *args: Any, **kwargs: Any) -> None:
            self.touch()
            raise OSError(28, "No space left on device")

        patch.setattr(Path, "write_text", full)
        worker.record_failure("the disk is full", 1)
    without_file = ProcessFailure(0, 1, 1, file)
    assert first_failure({0: without_file}).message == "it ended with exit code 1"
    worker.record_failure("the disk is full", 1)
    failure = first_failure({0: ProcessFailure(0, 1, 1, file)})
    assert (failure.message, failure.intended_exit_code) == ("the disk is full", 1)


def test_errors_raised_on_all_ranks_are_reported_by_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, met, silent in (("0", True, False), ("3", True, True), ("3", False, False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr(worker, "_met_others", met)
        for error in (PreemptedError("x"), StoppedByUserError("x"), DivergedError("x")):
            assert worker.report_failure(error) == silent
        assert not worker.report_failure(DdpmError("of this process alone"))


@pytest.mark.parametrize(("environment", "code"), [({}, -signal.SIGABRT), ({"RANK": "1"}, 0)])
def test_one_of_several_exits_without_pythons_shutdown(
    environment: dict[str, str], code: int
) -> None:
    """In which a thread of gloo that frees a tensor aborts; here atexit always does."""
    program = (
        "import atexit, os, sys; from ddpm_cli.cli.app import main\n"
        "atexit.register(lambda: (sys.stdout.flush(), os.abort()))\n"
        "main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        env=os.environ | environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (code, f"ddpm {__version__}\n"), ended.stderr


def test_the_earlier_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.STARTED, "1000")
    assert stopping.end_of_time(None, Silent()) is None
    assert stopping.end_of_time(60, Silent()) == 1060
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1030")
    assert stopping.end_of_time(60, Silent()) == 1030


def test_the_time_limit_leaves_time_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the last snapshot's 30 s, two steps of 4 s, and 5 s to exit: 73 s."""
    now = [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    request = stopping.StopRequest(stopping.TimeLimit(1000.0, lambda: (30.0, 4.0)))
    for now[0], number in ((900.0, 0), (926.9, 0), (927.1, stopping.OUT_OF_TIME)):
        assert request.signal == number
    assert "the time limit" in str(stopping.stopped_error(request.signal, "run"))
    first = stopping.StopRequest(stopping.TimeLimit(1000.0, lambda: (30.0, 4.0)))
    first.on_signal(signal.SIGUSR1)
    assert first.signal == signal.SIGUSR1


def test_the_time_limit_includes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save of 10 s, a validation and preview of 100, steps of 2: 2 (110 + 2) + 5 s."""
    now = [0.0]
    monkeypatch.setenv(worker.STARTED, "0")
    monkeypatch.setattr(time, "time", lambda: now[0])
    progress = Progress(steps=10, seconds=20.0, save_seconds=10.0, validation_seconds=100.0)
    request: Any = SimpleNamespace(time_limit=1000.0)
    limit = session._time_limit(request, progress, Silent())
    assert limit is not None
    for now[0], must_stop in ((770.0, False), (772.0, True)):
        assert limit.must_stop() == must_stop


def test_a_second_ctrl_c_exits_immediately_after_any_signal() -> None:
    request = stopping.StopRequest()
    for number in (signal.SIGUSR1, signal.SIGINT):
        request.on_signal(number)
    assert request.signal == signal.SIGUSR1
    with pytest.raises(KeyboardInterrupt):
        request.on_signal(signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_while_processes_are_starting(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """torch handles it then, by a SignalException."""

    def run_workers(*args: Any) -> None:
        raise SignalException(f"got {number}", number)

    monkeypatch.setattr(launch._Agent, "run_workers", run_workers)
    with pytest.raises(WorkersFailedError, match=f"stopped by {number.name} while") as raised:
        launch.launch(launch.LaunchConfig(2), [], Silent())
    assert raised.value.exit_code == code


def test_nodes_meet_before_reading_images(train_tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait ten minutes for the rendezvous, and after it as long as reading takes."""
    launched: list[launch.LaunchConfig] = []
    monkeypatch.setattr(launch, "launch", lambda config, *args: launched.append(config))
    monkeypatch.setattr(loader, "prepare", lambda *args, **kwargs: pytest.fail("images were read"))
    nodes = ("--nnodes", 2, "--node-rank", 1, "--rdzv-endpoint", "127.0.0.1:29500")
    assert train_tiny(*nodes, "--out", "run").code == 0
    assert launched[0].nodes == Nodes(2, 1, "127.0.0.1:29500")


def test_at_the_time_limit_training_saves_and_is_requeued(
    train_tiny: Run, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    saved_before: list[bool] = []
    requeue = slurm.requeue

    def requeued() -> None:
        saved_before.append(bool(snapshots.listed(Path("run/snapshots"))))
        requeue()

    monkeypatch.setattr(slurm, "requeue", requeued)
    result = train_tiny("--out", "run", "--requeue", "--time-limit", "1s", "--images", 10**6)
    assert (result.code, "stopped by the time limit; run holds all" in result.err) == (
        75,
        True,
    )
    assert (scontrol.read_text(), saved_before) == ("requeue 77\n", [True])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1))
    assert train_tiny("--out", "run", "--images", 10**6).code == 75
    assert scontrol.read_text() == "requeue 77\n"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 3600))
    assert train_tiny("--out", "run", "--requeue", "--images", 64).code == 0
    assert scontrol.read_text() == "requeue 77\n"


def test_an_error_of_scontrol_does_not_hide_that_all_is_saved(
    train_tiny: Run, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    (scontrol.parent / "bin" / "scontrol").write_text("#!/bin/sh\necho no >&2; exit 1\n")
    result = train_tiny("--out", "run", "--requeue", "--time-limit", "1s", "--images", 10**6)
    assert (result.code, result.err.count("ddpm: ")) == (75, 1), result.err
    assert "run holds all progress: run the same command again" in result.err
    assert "the job is not in the queue again: scontrol requeue 77 failed: no" in result.err


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_while_images_are_read_ends_and_requeues(
    train_tiny: Run,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    number: int,
    code: int,
) -> None:
    """Before the first step immediately, in the launcher as in a single process."""

    def prepare(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("it continued")

    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(loader, "prepare", prepare)
    result = train_tiny("--out", "run", "--requeue", "--nproc", processes)
    assert result.code == code, result.err
    assert f"stopped by {signal.Signals(number).name} before the first step" in result.err
    assert scontrol.exists() == (code == 75)
    assert not Path("run").exists()


def test_a_signal_during_imports_is_handled(
    train_tiny: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = MachineConfig.check

    def signalled(config: MachineConfig) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        check(config)

    monkeypatch.setattr(MachineConfig, "check", signalled)
    result = train_tiny("--out", "run")
    assert (result.code, "stopped by SIGTERM before the first step" in result.err) == (75, True)


@pytest.fixture
def ignoring_hangups() -> Iterator[None]:
    """As under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.usefixtures("ignoring_hangups")
def test_signals_ignored_at_the_start_stay_ignored() -> None:
    with stopping.catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (stop.signal, signal.getsignal(signal.SIGHUP)) == (0, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


@pytest.mark.usefixtures("ignoring_hangups")
def test_signals_ignored_at_the_start_stay_ignored_by_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though torch sets handlers of SIGTERM, SIGINT and SIGHUP when it starts processes."""
    handlers: list[Any] = []

    def start(*args: Any) -> dict[int, Any]:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        return {}

    def run_workers(agent: Any) -> None:
        agent._start_workers(None)
        handlers.extend(map(signal.getsignal, (signal.SIGHUP, signal.SIGTERM)))
        handlers.append(agent.forward_signal)
        raise WorkersFailedError("done", 1)

    monkeypatch.setattr(LocalElasticAgent, "_start_workers", start)
    monkeypatch.setattr(launch._Agent, "run_workers", run_workers)
    with pytest.raises(WorkersFailedError):
        launch.launch(launch.LaunchConfig(2), [], Silent())
    assert handlers == [signal.SIG_IGN, handlers[2], handlers[2]]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("count", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_is_detected(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    assert not worker.restarted()
    for value, restarted in (("0", False), ("", False), ("2", True)):
        monkeypatch.setenv(count, value)
        assert worker.restarted() == restarted


def test_a_restarted_training_resumes_whatever_resume_says(
    train_tiny: Run, tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run("old", "--images", 8)
    (start,) = Path("old/snapshots").glob("*8.pt")
    for resume, images in (("never", 0), (start, 8)):
        command = ("--out", f"new-{images}", "--resume", resume, "--json", "--images")
        assert train_tiny(*command, 16).json()["resumed_at"] == images
        with monkeypatch.context() as patch:
            patch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
            assert train_tiny(*command, 24).json()["resumed_at"] == 16


@pytest.mark.parametrize("outer", ["TORCHELASTIC_MAX_RESTARTS", "SLURM_JOB_ID"])
def test_resume_never_needs_out_where_a_restart_is_possible(
    train_tiny: Run, monkeypatch: pytest.MonkeyPatch, outer: str
) -> None:
    monkeypatch.setenv(outer, "3")
    result = train_tiny("--resume", "never")
    assert (result.code, "needs --out" in result.err) == (2, True)


def test_a_run_keeps_the_snapshot_it_was_resumed_from(
    train_tiny: Run, tiny_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first snapshot, it resumes from there again."""
    tiny_run("old", "--images", 16)
    assert train_tiny("--out", "run", "--images", 8).code == 0
    (start,) = Path("old/snapshots").glob("*16.pt")

    def killed(self: BudgetTracker, *args: Any) -> Any:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(BudgetTracker, "update", killed)
        assert train_tiny("--out", "run", "--resume", start, "--images", 24).code == 9
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = train_tiny("--out", "run", "--resume", start, "--images", 24, "--json")
    assert again.json()["resumed_at"] == 16


def test_one_training_at_a_time(train_tiny: Run) -> None:
    run = Path("run")
    assert train_tiny("--out", "run", "--images", 8).code == 0
    program = (
        "import sys; from pathlib import Path\n"
        "from ddpm_cli.core.runtime.locks import lock_run\n"
        "with lock_run(Path('run'), print):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    partial = run / "snapshots" / ".000000000032.pt.abc.part"
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        partial.touch()
        refused = train_tiny("--out", "run")
        other.kill()
    assert refused.code == 1
    assert f"run is being written by process {other.pid} on {os.uname().nodename}" in refused.err
    assert partial.exists()
    (run / ".metrics.jsonl.abc.part").touch()
    others = {run / ".denoising.gif.abc.part", run / ".curves.png.abc.part"}  # of gif and others
    for file in others:
        file.touch()
    assert train_tiny("--out", "run", "--images", 8).code == 0
    assert set(run.rglob("*.part")) == others


def test_without_locks_the_holder_is_identified_by_host_and_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unsupported(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    messages: list[str] = []
    lock = tmp_path / ".lock"
    with lock_run(tmp_path, messages.append):
        assert "without locks" in messages[0]
        own = json.loads(lock.read_text())
    parent = own | {"pid": os.getppid()}  # alive, but started before this process
    assert locks._start_time(os.getppid()) != own["started"] == locks._start_time(os.getpid())
    lock.write_text(json.dumps(parent | {"started": locks._start_time(os.getppid())}))
    message = f"process {os.getppid()} on .*; if there is none, delete {lock}"
    with pytest.raises(DdpmError, match=message), lock_run(tmp_path, print):
        pass
    dead = own | {"pid": 2**22 + 1}
    elsewhere = parent | {"host": "another"}
    for holder in (dead, elsewhere, parent, own):  # the last two: their numbers were reused
        lock.write_text(json.dumps(holder))
        with lock_run(tmp_path, messages.append):
            pass


def test_a_gpu_out_of_memory_is_an_error_of_one_line(
    train_tiny: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(BudgetTracker, "update", full)
    result = train_tiny("--out", "run")
    assert (result.code, result.err.count("Traceback")) == (1, 0)
    assert "memory (CUDA out of memory); use a smaller --microbatch" in result.err


STALL = """
import sys, threading, time
from pathlib import Path
from ddpm_cli.core.runtime.elastic import watchdog
with watchdog.watching(Path("logs"), 0.5):
    with watchdog.paused():
        threading.Event().wait(3)
    for _ in range(30):
        time.sleep(0.1)
        watchdog.step()
    print("stepping", flush=True)
    def stuck_here():
        threading.Event().wait()
    stuck_here()
"""


def test_a_stalled_process_writes_its_stacks_and_exits(tmp_path: Path) -> None:
    """Neither a long pause nor many steps are stalls."""
    completed = subprocess.run(
        [sys.executable, "-c", STALL],
        capture_output=True,
        text=True,
        timeout=ranks.SECONDS,
        check=False,
    )
    assert (completed.returncode, completed.stdout) == (1, "stepping\n"), completed.stderr
    assert "no step ended for 0.5 seconds (--stall-timeout)" in completed.stderr
    assert "stuck_here" in Path("logs/stacks-rank0.txt").read_text()


def test_a_suspended_process_has_not_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is suspended, by SIGSTOP or with its machine, its clock may run on."""
    suspended, checks, exits = [0.0], itertools.count(), []
    waiting, checked_again = threading.Event(), threading.Event()
    clock = time.monotonic

    def monotonic() -> float:
        now = clock() + suspended[0]
        if threading.current_thread().name == "watchdog":
            waiting.set()
            if suspended[0] and next(checks) > 2:
                checked_again.set()
        return now

    monkeypatch.setattr(watchdog.time, "monotonic", monotonic)
    monkeypatch.setattr(watchdog, "_exit_with", exits.append)
    watch = watchdog._Watch(tmp_path / "logs" / "stacks.txt", 8.0)
    assert waiting.wait(60)
    suspended[0] = 1000.0
    assert checked_again.wait(60)
    watch.close()
    assert not exits


def test_a_training_that_does_not_stall_leaves_no_logs(tiny_run: Callable[..., Path]) -> None:
    tiny_run("run", "--images", 8, "--stall-timeout", 60)
    assert not Path("run/logs").exists()


def test_a_deadline_ends_the_process(tmp_path: Path) -> None:
    program = (
        "import threading; from ddpm_cli.core.runtime.elastic import watchdog\n"
        "with watchdog.deadline(60, lambda: 'in time'): pass\n"
        "with watchdog.deadline(0.1, lambda: 'nobody answers'): threading.Event().wait()"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=ranks.SECONDS,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (1, "ddpm: nobody answers\n")


def failed(
    timestamp: float, intended_exit_code: int | None = None, *, lost_peers: bool = False
) -> SimpleNamespace:
    """A worker that wrote its error file."""
    extra = {"py_callstack": "", "timestamp": str(int(timestamp))}
    data = {
        "message": {"message": f"at {timestamp}", "extraInfo": extra},
        "host": "h",
        "timestamp": timestamp,
        "intended_exit_code": intended_exit_code,
        "lost_peers": lost_peers,
    }
    return SimpleNamespace(exitcode=1, timestamp=int(timestamp), error_file_data=data)


def killed(timestamp: int, number: int) -> SimpleNamespace:
    """A worker killed by a signal, which torch's agent noticed at `timestamp`."""
    return SimpleNamespace(exitcode=-number, timestamp=timestamp, error_file_data={"message": "?"})


@pytest.mark.parametrize(
    "first_to_last",
    [
        # A bug; a rank that thereby lost its peers; one killed as it hung.
        [failed(100.2), failed(100.3, lost_peers=True), killed(131, signal.SIGKILL)],
        # A rank killed, which is noticed late; one that lost it; one stopped while starting.
        [killed(101, signal.SIGKILL), failed(100.2, lost_peers=True), killed(101, signal.SIGTERM)],
        # A lost connection, long after which torch's agent kills the hanging rank.
        [failed(100.2, lost_peers=True), killed(131, signal.SIGKILL)],
        # An exit on purpose; ranks that exit because of it.
        [failed(100.2, 1), failed(100.1, 1, lost_peers=True), failed(100.4, lost_peers=True)],
    ],
)
def test_which_failure_caused_the_others(first_to_last: list[Any]) -> None:
    for order in itertools.permutations(range(len(first_to_last))):
        failures = {rank: first_to_last[i] for rank, i in enumerate(order)}
        assert first_failure(failures).rank == order.index(0)


def test_torchruns_shutdown_timeout_is_compared_with_the_time_to_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stopping.short_grace_warning(100.0) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert stopping.short_grace_warning(20.0) is None
    assert "30 s after SIGTERM, but the last snapshot took 41 s" in str(
        stopping.short_grace_warning(41.0)
    )
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    assert stopping.short_grace_warning(41.0) is None
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")
    monkeypatch.setenv(worker.LAUNCHER, str(os.getppid()))
    assert stopping.short_grace_warning(41.0) is None
    assert (stopping.grace_period(0.0), stopping.grace_period(200.0)) == (120.0, 600.0)


def test_a_failed_rendezvous_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port of node 0 is taken; other nodes do not come; node 0 does not."""
    monkeypatch.setattr(launch, "_RENDEZVOUS_TIMEOUT", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DdpmError, match="2 nodes did not all connect to"):
            launch.launch(launch.LaunchConfig(1, Nodes(2, 0, endpoint)), ["train"], Silent())
    with pytest.raises(DdpmError, match="2 nodes did not all connect to"):
        launch.launch(launch.LaunchConfig(1, Nodes(2, 0, endpoint)), ["train"], Silent())
    message = launch._rendezvous_failed(Nodes(2, 0, endpoint), RendezvousTimeoutError())
    assert "(not all joined in time)" in message
    with pytest.raises(DdpmError, match=r"did not all connect to .*refused"):
        launch.launch(launch.LaunchConfig(1, Nodes(2, 1, endpoint)), ["train"], Silent())


def test_a_node_that_waits_for_node_0_handles_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(socket, "create_connection", refused)
    with stopping.catch_signals() as stop, pytest.raises(PreemptedError), stop.raise_at_once():
        launch.launch(launch.LaunchConfig(1, Nodes(2, 1, "gpu03:29500")), ["train"], Silent())


@pytest.mark.parametrize("endpoint", ["127.0.0.1", "host:99999", "host:6²", ":29500", "host:0"])
def test_the_rendezvous_endpoint_is_a_host_and_a_port(train_tiny: Run, endpoint: str) -> None:
    result = train_tiny("--nnodes", 2, "--rdzv-endpoint", endpoint)
    assert (result.code, "needs --rdzv-endpoint HOST:PORT" in result.err) == (2, True)


def test_a_dry_run_checks_as_several_processes_would(train_tiny: Run, tmp_path: Path) -> None:
    result = train_tiny("--nproc", 4, "--batch", 2, "--device", "cpu", "--dry-run")
    assert (result.code, "one image for each of 4 processes" in result.err) == (2, True)
    (tmp_path / "torn.pt").write_bytes(b"torn")
    result = train_tiny("--resume", tmp_path / "torn.pt", "--dry-run")
    assert (result.code, "torn.pt is damaged or no snapshot" in result.err) == (1, True)
