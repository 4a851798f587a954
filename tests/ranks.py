"""A world of processes for tests: each runs a program of the test's own, then the command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import NamedTuple

SECONDS = 600  # to wait for a process: far more than any needs, however busy the machine


class Ended(NamedTuple):
    """How one process ended."""

    code: int
    out: str
    err: str


def run(processes: int, program: str, *command: object) -> list[Ended]:
    """Run `program`, then `ddpm COMMAND`, as ranks of one world; how each rank ended.

    The program may replace parts of ddpm_cli. It finds the processes' numbers in $RANK.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {} if processes == 1 else {"WORLD_SIZE": processes, "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"{program}\nfrom ddpm_cli.cli.app import main\nmain()"]
            + [str(argument) for argument in command],
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
            | {name: str(value) for name, value in world.items()}
            | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        told = [process.communicate(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    return [Ended(p.returncode, *texts) for p, texts in zip(running, told, strict=True)]
