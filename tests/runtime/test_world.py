"""What launchers leave in the environment counts whole or not at all, for every command."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import pytest
import torch

from ddpm_cli.core.errors import DdpmError, StoppedByUserError, UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import rendezvous, slurm, stopping, worker, world
from tests.support.cli import Result
from tests.support.training import Messages

Run = Callable[..., Result]

WORLD = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TASK = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "localhost",
}
SHELL = {"SLURM_PTY_PORT": "40000", "SLURM_TASK_PID": "1"}


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Set these variables of launchers, and no others."""
    names = (*WORLD, "LOCAL_RANK", *TASK, *SHELL, "GLOO_SOCKET_IFNAME", "TORCH_DISTRIBUTED_DEBUG")

    def set_only(variables: dict[str, str]) -> None:
        for name in names:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_only


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4, but RANK is not set"),
        ({"WORLD_SIZE": "8"} | TASK, "RANK is not set, and srun started 4 tasks"),
        (WORLD | {"RANK": "gpu"}, "RANK=gpu should be a whole number"),
        (WORLD | {"RANK": "2"}, "RANK=2 should be less than WORLD_SIZE=2"),
        (WORLD | {"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 should be a whole number"),
        (WORLD | {"WORLD_SIZE": "0"}, "WORLD_SIZE=0 should be at least 1"),
        (WORLD | {"MASTER_ADDR": ""}, "MASTER_ADDR is not set, but RANK=0, WORLD_SIZE=2"),
        (WORLD | {"MASTER_ADDR": "a..b"}, "MASTER_ADDR=a..b: the host 'a..b' cannot be found"),
        (WORLD | {"MASTER_PORT": "abc"}, "MASTER_PORT=abc should be a whole number"),
        (WORLD | {"MASTER_PORT": "65536"}, "MASTER_PORT=65536 should be a port"),
        (WORLD | {"GLOO_SOCKET_IFNAME": "eth99"}, "no network interface 'eth99'"),
        ({"TORCH_DISTRIBUTED_DEBUG": "on"}, "TORCH_DISTRIBUTED_DEBUG=on should be one of OFF"),
        (TASK | {"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS=x should be a whole"),
        (TASK | {"SLURM_PROCID": "4"}, "SLURM_PROCID=4, but srun started 4 tasks"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "SLURM_JOB_NODELIST is not set"),
    ],
)
def test_what_is_half_set_or_wrong_is_named(
    set_variables: Callable[[dict[str, str]], None], variables: dict[str, str], message: str
) -> None:
    set_variables(variables)
    with pytest.raises(UsageError) as raised:
        world.check_environment()
        world.attach_tasks()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("command", [("inspect-schedule", "--json"), ("sample", "none")])
def test_every_command_says_it(
    ddpm: Run,
    monkeypatch: pytest.MonkeyPatch,
    set_variables: Callable[[dict[str, str]], None],
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr(worker, "exit_process", sys.exit)
    set_variables(WORLD | {"RANK": "gpu"})
    result = ddpm(*command)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("ddpm: RANK=gpu should be")


def test_a_rank_without_a_size_runs_alone(
    ddpm: Run, set_variables: Callable[[dict[str, str]], None]
) -> None:
    set_variables({"RANK": "1", "LOCAL_RANK": "3", "WORLD_SIZE": ""})
    result = ddpm("inspect-schedule", "--json")
    assert (result.code, result.json()["schedule"]) == (0, "linear")
    assert "RANK=1, LOCAL_RANK=3 without WORLD_SIZE: ignored" in result.err
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (0, 0, 1)


@pytest.mark.parametrize(
    ("more", "tasks"),
    [
        ({}, 4),
        (SHELL, None),
        (SHELL | {"SLURM_TASK_PID": str(os.getpid())}, 4),  # srun --pty ddpm ...
        ({"SLURM_STEP_ID": "4294967290"}, None),  # the shell of salloc
        ({"SLURM_JOB_NAME": "bash"}, 4),  # srun -n 4 bash script.sh
        ({"SLURM_JOB_NAME": "interactive", "SLURM_STEP_NUM_TASKS": ""}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_a_command_typed_in_a_shell_of_srun_is_no_task(
    set_variables: Callable[[dict[str, str]], None], more: dict[str, str], tasks: int | None
) -> None:
    set_variables(TASK | more)
    task = slurm.task()
    assert (task and task.tasks) == tasks
    notices = world.check_environment()
    assert len(notices) == (tasks is None and more.get("SLURM_STEP_NUM_TASKS") != "1")


@pytest.mark.parametrize(
    ("more", "end", "why"),
    [
        ({}, 2000.0, ""),
        ({"SLURM_JOB_END_TIME": "900"}, None, "is past"),
        ({"SLURM_JOB_START_TIME": "3000"}, None, "is past"),
        ({"SLURM_JOB_ID": ""}, None, "SLURM_JOB_ID is not set"),
        ({"SLURM_JOB_ID": "78"}, None, "is of job 78, and this process belongs to job 77"),
        ({"SLURM_JOB_END_TIME": "NONE"}, None, "is no time"),
        ({"SLURM_JOB_END_TIME": ""}, None, ""),
    ],
)
def test_an_end_of_another_job_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, more: dict[str, str], end: float, why: str
) -> None:
    """Else every call would save after one step and exit, for ever."""
    cgroup = slurm.Path("cgroup")
    cgroup.write_text("0::/system.slice/slurmstepd.scope/job_77/step_0/user/task_0\n")
    monkeypatch.setattr(slurm, "_CGROUP", cgroup)
    for name, value in ({"SLURM_JOB_ID": "77", "SLURM_JOB_END_TIME": "2000"} | more).items():
        monkeypatch.setenv(name, value)
    reporter = Messages()
    assert slurm.end_time(1000.0, reporter) == end
    assert (why in "".join(reporter.messages), len(reporter.messages)) == (True, int(why != ""))


@pytest.fixture
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("rank", "waiting"), [("0", "1 more of 2 processes at"), ("1", "an answer from")]
)
def test_waiting_is_announced_and_ended_by_a_signal(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    set_variables: Callable[[dict[str, str]], None],
    port: str,
    rank: str,
    waiting: str,
) -> None:
    set_variables(WORLD | {"RANK": rank, "MASTER_PORT": port})
    monkeypatch.setattr(rendezvous, "_FIRST_NOTICE", 0.05)
    monkeypatch.setattr(rendezvous, "_NOTICE_INTERVAL", 0.05)
    announce = rendezvous.Rendezvous.announce

    def announce_and_interrupt(self: rendezvous.Rendezvous) -> None:
        announce(self)
        if waiting in self.waiting_for:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(rendezvous.Rendezvous, "announce", announce_and_interrupt)
    started = time.monotonic()
    with (
        pytest.raises(StoppedByUserError),
        stopping.stop_at_once(),
        distributed.process_group(torch.device("cpu")),
    ):
        pytest.fail("nobody else is there")
    assert time.monotonic() - started < 60
    assert f"Waiting for {waiting} 127.0.0.1:{port}" in capfd.readouterr().err
    assert not worker._met_others


def test_a_port_in_use_is_said(set_variables: Callable[[dict[str, str]], None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        set_variables(WORLD | {"MASTER_PORT": number})
        message = f"MASTER_PORT={number}: the port is in use"
        with (
            pytest.raises(DdpmError, match=message),
            distributed.process_group(torch.device("cpu")),
        ):
            pytest.fail("it joined")


NASTY = ("", " ", "-1", "0", "1", "2", "gpu", "1.5", "1e3", "9" * 5000, "²", "a\nb", "*", "[", "\\")


def test_no_value_of_a_variable_is_a_traceback_or_silence(
    set_variables: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable alone and within a whole set of torchrun's and of SLURM's."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    names = [*WORLD, *TASK, *SHELL, "LOCAL_RANK", "SLURM_LOCALID", "SLURM_JOB_NAME"]
    names += ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TORCH_DISTRIBUTED_DEBUG"]
    for name, value, whole in itertools.product(names, NASTY, ({}, WORLD, TASK)):
        set_variables(whole | {name: value})
        try:
            world.check_environment()
            world.attach_tasks()
        except UsageError as error:
            assert len(str(error).splitlines()) == 1, (name, value, whole)
            assert str(error), (name, value, whole)
            continue
        assert 0 <= distributed.rank() < distributed.world_size(), (name, value, whole)
        if distributed.world_size() == 1:
            assert distributed.shard(8) == slice(0, 8)
