"""Processes that go wrong at a chosen step, by a sitecustomize.py that Python runs at its start.

It wraps `Clock.tick`, which every process calls at the end of every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support import ranks

End = tuple[int, str, str]  # exit code, stdout, stderr

SITE = """
import json, os, signal, threading
from pathlib import Path

def wrap():
    from ddpm_cli.core.runtime.elastic.stopping import StopRequest
    from ddpm_cli.core.training.budget import Clock
    tick, note, noted = Clock.tick, StopRequest.note, threading.Event()

    def noting(self, *given):
        note(self, *given)
        noted.set()

    def ticking(self, progress, *given):
        for deed in json.loads(os.environ["MISDEEDS"]):
            mine = deed["rank"] == int(os.environ.get("RANK", 0))
            if mine and progress.images == deed["images"]:
                try:
                    Path(deed["once"]).touch(exist_ok=False)
                except FileExistsError:
                    continue
                commit(deed["what"])
        return tick(self, progress, *given)

    def commit(what):
        if what == "raise":
            raise ValueError("the cat sat on the keyboard")
        if what == "hang":
            threading.Event().wait()
        if what == "all SIGKILL":
            launcher = os.getppid()
            workers = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            for pid in (launcher, *(int(pid) for pid in workers if int(pid) != os.getpid())):
                os.kill(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if what.startswith("launcher "):  # and wait until it was passed on
            os.kill(os.getppid(), getattr(signal, what.split()[1]))
            noted.wait()
            return
        os.kill(os.getpid(), getattr(signal, what))

    Clock.tick, StopRequest.note = ticking, noting

if os.environ.get("MISDEEDS") and "RANK" in os.environ:
    wrap()
"""


class Misdeeds:
    """A folder for PYTHONPATH, and the environment under which workers misbehave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE)

    def environment(self, *deeds: tuple[int, int, str]) -> dict[str, str]:
        """`deeds`: (rank, images, what), each done once.

        What may be SIGKILL (or another signal, to itself), hang, raise, launcher SIGTERM (or
        another signal, to the launcher), all SIGKILL.
        """
        told = [
            {
                "rank": rank,
                "images": images,
                "what": what,
                "once": str(self.folder / f"{i}-{rank}-{images}-{what.replace(' ', '-')}"),
            }
            for i, (rank, images, what) in enumerate(deeds)
        ]
        path = [str(self.folder), str(Path(__file__).parents[2])]
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path),
            "MISDEEDS": json.dumps(told),
        }


def started(arguments: tuple[Any, ...], environment: dict[str, str]) -> subprocess.Popen[str]:
    """`ddpm ARGUMENTS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm_cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ending(process: subprocess.Popen[str]) -> End:
    """Wait for a process, which is not left behind; its workers end with it."""
    with process:
        try:
            out, err = process.communicate(timeout=ranks.SECONDS)
        finally:
            process.kill()
    return process.returncode, out, err


def same(run: str, other: str) -> bool:
    """Whether two runs ended alike: weights, best weights, losses, and what patience goes by."""
    for weights in ("model", "best"):
        one, two = (load_file(Path(name) / f"{weights}.safetensors") for name in (run, other))
        if not all(tensor.equal(two[name]) for name, tensor in one.items()):
            return False
    return outcome(run) == outcome(other)


def outcome(run: str) -> tuple[object, ...]:
    """The losses that a run logged, and the progress that its newest snapshot holds."""
    here = RunDirectory(Path(run))
    names = ("images", "loss", "loss_smooth", "loss_holdout")
    newest = torch.load(snapshots.listed(here.snapshots)[-1], weights_only=True)["progress"]
    kept = [newest[name] for name in ("images", "loss_smooth", "best", "stale")]
    return [[row[name] for name in names] for row in here.rows()], kept
