"""Several ranks for tests: each runs a program given by the test, then the command line.

They are forked from a server that has imported torch, which would take each of them seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS = 600  # timeout of a process: far more than any needs on a busy machine
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch._dynamo", "ddpm_cli.core.training.scoring", "ddpm_cli.core.training.session"]
)


class Ended(NamedTuple):
    """Exit code and output of one rank."""

    code: int
    out: str
    err: str


def run(processes: int, program: str, *command: object) -> list[Ended]:
    """Run `program`, then `ddpm COMMAND`, on every rank of one process group.

    The program may patch ddpm_cli, and finds its rank in $RANK.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {} if processes == 1 else {"WORLD_SIZE": processes, "MASTER_PORT": port}
    shared = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {name: str(value) for name, value in world.items()}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(rank) for rank in range(processes)]
        running = []
        for rank, output in enumerate(outputs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {}
            words = [str(word) for word in command]
            arguments = (program, words, shared | own, Path.cwd(), output)
            running.append(_FORKS.Process(target=_run_rank, args=arguments, daemon=True))
            running[-1].start()
        try:
            for process in running:
                process.join(SECONDS)
        finally:
            for process in running:
                process.kill()
                process.join()
        texts = [
            [output.with_suffix(suffix).read_text() for suffix in (".out", ".err")]
            for output in outputs
        ]
    return [Ended(p.exitcode or 0, *text) for p, text in zip(running, texts, strict=True)]


def _run_rank(
    program: str, command: list[str], environment: dict[str, str], folder: Path, output: Path
) -> None:
    """Run one rank, in a forked process."""
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        with output.with_suffix(suffix).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ddpm", *command]
    exec(program, {"__name__": "__main__"})
    from ddpm_cli.cli.app import main

    main()
