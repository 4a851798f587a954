"""Processes and nodes that die, hang and come back at random: the end is always the same."""

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

from tests.conftest import TINY, write_photos
from tests.support.misdeeds import Misdeeds, ending, same, started

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
    """Start a training of the tiny network whose processes commit the given misdeeds."""
    return starting(tmp_path)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an undisturbed run."""
    place = tmp_path_factory.mktemp("calm")
    ended(starting(place)("--nproc", 2, "--out", place / "run"))
    return str(place / "run")


def starting(place: Path) -> Start:
    """What starts trainings whose pictures, settings and cache lie in a folder."""
    config, photos = place / "two.json", write_photos(place / "photos")
    config.write_text(json.dumps(TINY | {"preview": 0}))
    misdeeds = Misdeeds(place / "site")

    def start(*arguments: Any, deeds: tuple[tuple[int, int, str], ...] = ()) -> Any:
        given = ("train", "--data", photos, "--config", config, "--images", IMAGES)
        environment = misdeeds.environment(*deeds) | {"DDPM_CACHE": str(place / "cache")}
        return started((*given, *arguments), environment)

    return start


def ended(process: subprocess.Popen[str], *codes: int) -> str:
    """What a process printed on stderr, once it ended with one of the codes, by default 0."""
    code, _, err = ending(process)
    assert code in (codes or (0,)), err
    return err


def somewhere(seed: int) -> tuple[int, int]:
    """One of two processes, and the images at the end of one of its steps."""
    draw = random.Random(seed)
    return draw.randrange(2), draw.randrange(8, IMAGES, 8)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_processes_killed_at_random_steps(
    start: Start, calm: str, first: int, tmp_path: Path
) -> None:
    """Twenty seeds, five to a training; two that die in the same step make one restart."""
    deeds = tuple((*somewhere(seed), "SIGKILL") for seed in range(first, first + 5))
    err = ended(start("--nproc", 2, "--out", "run", "--max-restarts", 5, deeds=deeds))
    assert len(list((tmp_path / "site").glob("*-SIGKILL"))) == len(deeds)
    assert err.count("was killed by SIGKILL") >= len({images for _, images, _ in deeds})
    assert "Traceback" not in err
    assert same("run", calm), deeds


@pytest.mark.parametrize("turn", range(4))
def test_whatever_else_happens_the_weights_are_the_same(start: Start, calm: str, turn: int) -> None:
    """Each of the others once, three or four to a training."""
    deeds = tuple((*somewhere(seed), OTHERS[seed]) for seed in range(turn, len(OTHERS), 4))
    for _ in range(len(deeds) + 1):
        process = start("--nproc", 2, "--out", "run", deeds=deeds)
        err = ended(process, 0, 75, 130, -signal.SIGKILL)
        assert "Traceback" not in err, (deeds, err)
        if process.returncode == 0:
            break
    assert process.returncode == 0, deeds
    assert same("run", calm), deeds


def test_a_process_that_hangs_is_ended_and_started_again(start: Start, calm: str) -> None:
    hang = ((1, 40, "hang"),)
    err = ended(start("--nproc", 2, "--out", "run", "--stall-timeout", 10, deeds=hang))
    assert "no step ended for 10 seconds" in err
    assert "in commit" in Path("run/logs/stacks-rank1.txt").read_text()
    assert "in all_reduce" in Path("run/logs/stacks-rank0.txt").read_text()
    assert same("run", calm)


def test_the_impatient_leave_at_once(start: Start, tmp_path: Path) -> None:
    process = start("--nproc", 2, "--out", "run", deeds=((1, 16, "hang"),))
    while process.poll() is None and not (tmp_path / "site" / "0-1-16-hang").exists():
        time.sleep(0.05)
    while process.poll() is None:  # Ctrl-C, again and again
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert "left at once" in ended(process, 130)


def test_a_worker_dies_more_often_than_is_allowed(start: Start) -> None:
    deeds = tuple((1, images, "SIGKILL") for images in (8, 16))
    err = ended(start("--nproc", 2, "--out", "run", "--max-restarts", 1, deeds=deeds), 1)
    assert err.count("was killed by SIGKILL") == 2
    assert "run the same command again to go on from the newest snapshot" in err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_dies_and_comes_back(start: Start, calm: str, rank: int) -> None:
    """One of two nodes is lost, be it the one where they meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ("--nnodes", 2, "--rdzv-endpoint", endpoint, "--out", "run", "--node-rank")
    deed = ((rank, 48, "launcher SIGKILL"),)
    nodes = [start(*command, node, deeds=deed) for node in (0, 1)]
    while all(node.poll() is None for node in nodes):
        time.sleep(0.05)
    (lost,) = (i for i, node in enumerate(nodes) if node.poll() is not None)
    ended(nodes[lost], -signal.SIGKILL)
    nodes[lost] = start(*command, lost, deeds=deed)
    for node in nodes:
        assert "Traceback" not in ended(node)
    assert same("run", calm)
