"""Processes and nodes that die, hang and restart at random steps: the result is always the same."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults as injection
from tests.support.cli import TINY, write_images
from tests.support.faults import FaultInjector, same

pytestmark = pytest.mark.chaos

IMAGES = 96
OTHERS = (
    *("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT", "raise", "all SIGKILL"),
    *("launcher SIGTERM", "launcher SIGUSR1", "launcher SIGUSR2", "launcher SIGHUP"),
    *("launcher SIGINT", "launcher SIGKILL"),
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a training of the tiny network whose processes have the given faults."""
    return starter(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    stderr_of(starter(folder)("--nproc", 2, "--out", folder / "run"))
    return str(folder / "run")


def starter(folder: Path) -> Start:
    """A function that starts trainings with images, settings and cache in a folder."""
    config, photos = folder / "two.json", write_images(folder / "photos")
    config.write_text(json.dumps(TINY | {"preview": 0}))
    injector = FaultInjector(folder / "site")

    def start(*arguments: Any, faults: tuple[tuple[int, int, str], ...] = ()) -> Any:
        command = ("train", "--data", photos, "--config", config, "--images", IMAGES)
        environment = injector.environment(*faults) | {"DDPM_CACHE": str(folder / "cache")}
        return injection.start((*command, *arguments), environment)

    return start


def stderr_of(process: subprocess.Popen[str], *codes: int) -> str:
    """Wait for a process to exit with one of the codes, by default 0; its stderr."""
    code, _, err = injection.wait(process)
    assert code in (codes or (0,)), err
    return err


def random_step(seed: int) -> tuple[int, int]:
    """One of two ranks, and the images at the end of one of its steps."""
    draw = random.Random(seed)
    return draw.randrange(2), draw.randrange(8, IMAGES, 8)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_processes_killed_at_random_steps(
    start: Start, undisturbed: str, first: int, tmp_path: Path
) -> None:
    """Twenty seeds, five per training; two that die in the same step cause one restart."""
    faults = tuple((*random_step(seed), "SIGKILL") for seed in range(first, first + 5))
    err = stderr_of(start("--nproc", 2, "--out", "run", "--max-restarts", 5, faults=faults))
    assert len(list((tmp_path / "site").glob("*-SIGKILL"))) == len(faults)
    assert err.count("was killed by SIGKILL") >= len({images for _, images, _ in faults})
    assert "Traceback" not in err
    assert same("run", undisturbed), faults


@pytest.mark.parametrize("turn", range(4))
def test_other_faults_do_not_change_the_weights(start: Start, undisturbed: str, turn: int) -> None:
    """Each of the others once, three or four per training."""
    faults = tuple((*random_step(seed), OTHERS[seed]) for seed in range(turn, len(OTHERS), 4))
    for _ in range(len(faults) + 1):
        process = start("--nproc", 2, "--out", "run", faults=faults)
        err = stderr_of(process, 0, 75, 130, -signal.SIGKILL)
        assert "Traceback" not in err, (faults, err)
        if process.returncode == 0:
            break
    assert process.returncode == 0, faults
    assert same("run", undisturbed), faults


def test_a_process_that_hangs_is_restarted(start: Start, undisturbed: str) -> None:
    hang = ((1, 40, "hang"),)
    err = stderr_of(start("--nproc", 2, "--out", "run", "--stall-timeout", 10, faults=hang))
    assert "no step ended for 10 seconds" in err
    assert "in inject" in Path("run/logs/stacks-rank1.txt").read_text()
    assert "in all_reduce" in Path("run/logs/stacks-rank0.txt").read_text()
    assert same("run", undisturbed)


def test_a_second_ctrl_c_exits_immediately(start: Start, tmp_path: Path) -> None:
    process = start("--nproc", 2, "--out", "run", faults=((1, 16, "hang"),))
    while process.poll() is None and not (tmp_path / "site" / "0-1-16-hang").exists():
        time.sleep(0.05)
    while process.poll() is None:  # Ctrl-C, again and again
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert "exited at once" in stderr_of(process, 130)


def test_a_worker_dies_more_often_than_max_restarts(start: Start) -> None:
    faults = tuple((1, images, "SIGKILL") for images in (8, 16))
    err = stderr_of(start("--nproc", 2, "--out", "run", "--max-restarts", 1, faults=faults), 1)
    assert err.count("was killed by SIGKILL") == 2
    assert "run the same command again to resume from the newest snapshot" in err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_dies_and_restarts(start: Start, undisturbed: str, rank: int) -> None:
    """One of two nodes dies, in one case that of the rendezvous."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ("--nnodes", 2, "--rdzv-endpoint", endpoint, "--out", "run", "--node-rank")
    fault = ((rank, 48, "launcher SIGKILL"),)
    nodes = [start(*command, node, faults=fault) for node in (0, 1)]
    while all(node.poll() is None for node in nodes):
        time.sleep(0.05)
    (dead,) = (i for i, node in enumerate(nodes) if node.poll() is not None)
    stderr_of(nodes[dead], -signal.SIGKILL)
    nodes[dead] = start(*command, dead, faults=fault)
    for node in nodes:
        assert "Traceback" not in stderr_of(node)
    assert same("run", undisturbed)
