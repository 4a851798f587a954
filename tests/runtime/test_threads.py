"""How many threads the program uses and how they wait; what the user and a library's host keep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ddpm_cli
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import start_up, threads

# Runs a command to its end, and prints what the process was set to.
PROGRAM = (
    "import os, sys; from ddpm_cli.__main__ import main\n"
    "sys.argv = ['ddpm', 'inspect-schedule', '--json']\n"
    "try: main()\n"
    "except SystemExit as ending: assert not ending.code\n"
    "import gc, torch\n"
    "print(os.environ.get('GOMP_SPINCOUNT'), torch.get_num_threads(), gc.isenabled(), "
    "file=sys.stderr)\n"
)
ALONE = "import os, torch, ddpm_cli; ddpm_cli.Schedule; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of control groups, and a process of eight cores."""
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path / "groups"


def write(folder: Path, **contents: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_affinity_limits_the_cores(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    write(groups, cpu__max="400000 100000")  # more than the affinity allows
    assert threads.cores() == 2


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("300000 100000", 3), ("150000 100000", 2), ("5000 100000", 1)],
)
def test_the_quota_of_a_container(groups: Path, quota: str, cores: int) -> None:
    write(groups, cpu__max=quota)  # a namespace of its own: the container's group is the root
    assert threads.cores() == cores


def test_the_least_quota_of_nested_groups_counts(groups: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/slurm/job_7/step_0\n")
    write(groups / "slurm" / "job_7" / "step_0", cpu__max="max 100000")
    write(groups / "slurm" / "job_7", cpu__max="200000 100000")
    write(groups / "slurm", cpu__max="600000 100000")
    assert threads.cores() == 2


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_quotas_of_version_1(groups: Path, tmp_path: Path, mount: str) -> None:
    (tmp_path / "own").write_text("9:cpuset:/a\n4:cpu,cpuacct:/docker/ab\n0::/b\n")
    write(groups / mount, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    write(groups / "cpuset" / "a", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert threads.cores() == 8
    group = groups / mount / "docker" / "ab"
    write(group, cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert threads.cores() == 3


@pytest.mark.parametrize("damage", ["", "0 0", "-1 100000 3", "many 100000"])
def test_a_quota_that_cannot_be_read_is_none(groups: Path, damage: str) -> None:
    write(groups, cpu__max=damage)
    assert threads.cores() == 8


def test_processes_share_the_cores(groups: Path) -> None:
    write(groups, cpu__max="600000 100000")
    assert [threads.share(n) for n in (1, 2, 4, 16)] == [6, 3, 1, 1]


@pytest.mark.parametrize("chosen", threads.WAITING)
def test_how_threads_wait_is_the_users_choice(chosen: str) -> None:
    environment = {chosen: "3"}
    threads.set_waiting(environment)
    assert environment == {chosen: "3"}


def test_no_more_threads_than_the_quota_allows(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(groups, cpu__max="200000 100000")
    numbers: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.limit_to_cores()
    assert numbers == []
    for name in threads.COUNTING:
        monkeypatch.delenv(name, raising=False)
    threads.limit_to_cores()
    assert numbers == [2]


@pytest.fixture
def numbers(groups: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch's number of threads, first 8, is set to."""
    chosen: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(threads, "_began", None)
    for name in threads.COUNTING:
        monkeypatch.delenv(name, raising=False)
    return chosen


@pytest.mark.parametrize(("images", "expected"), [(1, 1), (16, 8)])
def test_a_network_too_small_to_gain_from_several_threads_has_one(
    numbers: list[int], monkeypatch: pytest.MonkeyPatch, images: int, expected: int
) -> None:
    each = UNet(ddpm_cli.config("shapes").network).forward_operations()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    threads.limit_to_work(images * each)
    assert numbers == []  # the user's choice
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.limit_to_work(images * each)
    assert numbers == [expected]


@pytest.mark.parametrize(
    ("others", "expected"), [(0.0, 8), (0.4, 8), (3.0, 5), (7.9, 1), (30.0, 1)]
)
def test_sampling_leaves_cores_that_others_use(
    numbers: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    others: float,
    expected: int,
) -> None:
    """In two seconds, of which this process had one; its eight cores of sixteen."""
    statistics, second = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(threads, "_STATISTICS", statistics)

    def pass_time(clock: float, own: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: clock)
        monkeypatch.setattr(time, "process_time", lambda: own)
        used = int((own + (clock - 10) * others) * second)
        lines = [f"cpu{core} 0 0 0 99 7 0 0 0 5 0" for core in range(1, 16)]
        lines = [f"cpu {16 * used} 0 0 9 9 0 0 0 0 0", f"cpu0 {used} 0 0 5 5 0 0 0 3 0", *lines]
        statistics.write_text("\n".join([*lines, "cpu9 99999 0 0 0 0 0 0 0 0 0", "ctxt 5"]))

    pass_time(clock=10, own=3)
    threads.watch()
    pass_time(clock=12, own=4)
    threads.limit_to_work(1e12)
    assert numbers == [expected]
    assert threads.used_by_others() == pytest.approx(others, abs=0.02)
    told = threads.warning()
    assert (told is not None) == (others >= 0.5)
    assert told is None or f"OMP_NUM_THREADS={expected} is faster" in told


@pytest.mark.parametrize("content", [None, "cpu0 many", "cpu0 1 2"])
def test_without_the_systems_statistics_all_cores_are_free(
    numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(threads, "_STATISTICS", tmp_path / "stat")
    if content is not None:
        (tmp_path / "stat").write_text(content)
    threads.watch()
    threads.limit_to_work(1e12)
    assert (numbers, threads.warning()) == ([8], None)


def test_a_host_keeps_its_threads_and_its_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("set in a host"))
    start_up.end()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_program_sets_how_threads_wait_unless_the_user_did() -> None:
    assert run(PROGRAM).stderr.split() == [threads.SPINS, "1", "True"]
    assert run(PROGRAM, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="2").stderr.split()[:2] == [
        "None",
        "2",
    ]


def test_the_library_leaves_the_environment_alone() -> None:
    assert run(ALONE).stdout.split() == ["None"]
