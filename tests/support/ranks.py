"""A world of processes for tests: each runs a program of the test's own, then the command line.

They are forked from a server that has torch imported, which would take each of them seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS = 600  # to wait for a process: far more than any needs, however busy the machine
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch._dynamo", "ddpm_cli.core.training.scoring", "ddpm_cli.core.training.session"]
)


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
    shared = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {name: str(value) for name, value in world.items()}
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(rank) for rank in range(processes)]
        running = []
        for rank, place in enumerate(places):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}
            given = (program, [str(word) for word in command], shared | own, Path.cwd(), place)
            running.append(_FORKS.Process(target=_be, args=given, daemon=True))
            running[-1].start()
        try:
            for process in running:
                process.join(SECONDS)
        finally:
            for process in running:
                process.kill()
                process.join()
        told = [
            [place.with_suffix(end).read_text() for end in (".out", ".err")] for place in places
        ]
    return [Ended(p.exitcode or 0, *texts) for p, texts in zip(running, told, strict=True)]


def _be(
    program: str, command: list[str], environment: dict[str, str], where: Path, place: Path
) -> None:
    """Be one rank, in a process forked for that."""
    for number, end in ((1, ".out"), (2, ".err")):
        with place.with_suffix(end).open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ddpm", *command]
    exec(program, {"__name__": "__main__"})
    from ddpm_cli.cli.app import main

    main()
