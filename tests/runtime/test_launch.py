"""Multi-process training whose processes are stopped, killed or fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.checkpoints import snapshots
from tests.support import ranks
from tests.support.cli import TINY
from tests.support.faults import Exit, FaultInjector, same, start, wait

IMAGES = 96  # 12 steps; snapshots after 32, 64 and 96


@pytest.fixture
def train(tmp_path: Path, photos: Path) -> Callable[..., Exit]:
    """Train the tiny network in two processes with the given faults."""
    config = tmp_path / "two.json"
    config.write_text(json.dumps(TINY | {"preview": 0}))
    injector = FaultInjector(tmp_path / "site")

    def call(*arguments: Any, faults: tuple[tuple[int, int, str], ...] = ()) -> Exit:
        command = ("train", "--data", photos, "--config", config, "--images", IMAGES, "--nproc", 2)
        return wait(start((*command, *arguments), injector.environment(*faults)))

    return call


def newest(run: str) -> int:
    """The number of images trained on at the newest snapshot."""
    return int(snapshots.listed(Path(run) / "snapshots")[-1].stem)


@pytest.mark.chaos
def test_a_killed_worker_does_not_change_the_result(
    train: Callable[..., Exit], photos: Path, tmp_path: Path
) -> None:
    options = ("--data", photos, "--config", tmp_path / "two.json", "--images", IMAGES)
    undisturbed = ranks.run(2, "", "train", *options, "--out", "undisturbed")
    assert [ended.code for ended in undisturbed] == [0, 0], undisturbed[0].err
    code, out, err = train("--out", "run", "--json", faults=((1, 80, "SIGKILL"),))
    assert code == 0, err
    assert f"process 1 on {os.uname().nodename} was killed by SIGKILL" in err
    assert err.count("Resuming from run/snapshots/000000000064.pt") == 1
    assert "Traceback" not in err
    assert json.loads(out)["images"] == IMAGES
    assert same("run", "undisturbed")


@pytest.mark.chaos
def test_a_signal_saves_and_requeues_the_job(
    train: Callable[..., Exit], scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    code, _, err = train("--out", "run", "--requeue", faults=((1, 16, "launcher SIGTERM"),))
    assert scontrol.read_text() == "requeue 77\n"  # and outlived the end of the processes
    assert (code, "stopped by SIGTERM; run holds all" in err) == (75, True), err
    assert (
        newest("run") in (16, 24) and "Traceback" not in err
    )  # the other rank may receive it first


@pytest.mark.chaos
def test_a_signal_to_one_process_stops_all(train: Callable[..., Exit]) -> None:
    code, _, err = train("--out", "run", faults=((1, 16, "SIGUSR1"),))
    assert (code, "stopped by SIGUSR1; run holds all" in err) == (75, True), err
    assert (newest("run"), err.count("SIGUSR1"), "Traceback" in err) == (24, 1, False)


def test_the_first_failure_is_printed_once_and_last(train: Callable[..., Exit]) -> None:
    code, out, err = train("--out", "run", "--max-restarts", 0, faults=((1, 16, "raise"),))
    assert (code, out) == (1, "")
    message = err[err.index("ddpm: ") :]
    assert message.startswith(f"ddpm: process 1 on {os.uname().nodename} failed first: ValueError")
    assert message.strip().endswith("ValueError: the cat sat on the keyboard")
    assert err.count("Traceback") == 1
    (log,) = Path("run/logs").glob("*/rank1.err")
    assert "the cat sat on the keyboard" in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--config", "none.json"), "none.json: no such file"),
        (("--node-rank", 2, "--nnodes", 2), "--node-rank 2 should be less than --nnodes 2"),
        (("--nnodes", 2), "needs --rdzv-endpoint HOST:PORT"),
        (("--nnodes", 2, "--resume", "never", "--out", "x"), "must find the run"),
        (("--requeue",), "SLURM_JOB_ID is not set"),
        (("--time-limit", "soon"), "should be a time such as 4h"),
    ],
)
def test_invalid_options_are_reported_once_before_any_process_starts(
    train_tiny: Callable[..., Any], options: tuple[Any, ...], message: str
) -> None:
    result = train_tiny("--nproc", 2, *options)
    assert result.code in (1, 2)
    assert (message in result.err, result.err.count("ddpm:")) == (True, 1)
    assert not Path("runs").exists()


@pytest.mark.chaos
def test_two_tasks_of_srun_are_one_training(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """`srun -n 2 ddpm train`, with nothing but SLURM's variables."""
    environment = FaultInjector(tmp_path / "site").environment()
    environment |= {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    environment |= {"SLURM_JOB_ID": str(os.getpid())}  # determines the port
    command = ("train", "--data", photos, "--config", tiny, "--out", "run", "--json")
    tasks = [
        start(command, environment | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)})
        for task in (0, 1)
    ]
    (code, out, _), (other, empty, _) = exits = [wait(task) for task in tasks]
    assert (code, other) == (0, 0), exits
    assert (json.loads(out)["images"], empty) == (64, "")
