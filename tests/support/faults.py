"""Fault injection: worker processes that fail at a chosen step.

A sitecustomize.py, which Python runs at its start, wraps `BudgetTracker.update`, which every
process calls at the end of every step.
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
from ddpm_cli.core.training.validation import COLUMNS
from tests.support import ranks

Exit = tuple[int, str, str]  # exit code, stdout, stderr

SITE = """
import json, os, signal, threading
from pathlib import Path

def install():
    from ddpm_cli.core.runtime.elastic.stopping import StopRequest
    from ddpm_cli.core.training.budget import BudgetTracker
    update, on_signal, received = BudgetTracker.update, StopRequest.on_signal, threading.Event()

    def on_signal_and_set(self, *arguments):
        on_signal(self, *arguments)
        received.set()

    def update_or_fail(self, progress, *arguments):
        for fault in json.loads(os.environ["FAULTS"]):
            own = fault["rank"] == int(os.environ.get("RANK", 0))
            if own and progress.images == fault["images"]:
                try:
                    Path(fault["once"]).touch(exist_ok=False)
                except FileExistsError:
                    continue
                inject(fault["kind"])
        return update(self, progress, *arguments)

    def inject(kind):
        if kind == "raise":
            raise ValueError("the cat sat on the keyboard")
        if kind == "hang":
            threading.Event().wait()
        if kind == "all SIGKILL":
            launcher = os.getppid()
            workers = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            for pid in (launcher, *(int(pid) for pid in workers if int(pid) != os.getpid())):
                os.kill(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if kind.startswith("launcher "):  # and wait until it is forwarded
            os.kill(os.getppid(), getattr(signal, kind.split()[1]))
            received.wait()
            return
        os.kill(os.getpid(), getattr(signal, kind))

    BudgetTracker.update, StopRequest.on_signal = update_or_fail, on_signal_and_set

if os.environ.get("FAULTS") and "RANK" in os.environ:
    install()
"""


class FaultInjector:
    """A folder for PYTHONPATH, and the environment under which workers fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE)

    def environment(self, *faults: tuple[int, int, str]) -> dict[str, str]:
        """The environment for `faults`: (rank, images, kind), each injected once.

        The kind is SIGKILL (or another signal, to itself), hang, raise, launcher SIGTERM (or
        another signal, to the launcher), or all SIGKILL.
        """
        documents = [
            {
                "rank": rank,
                "images": images,
                "kind": kind,
                "once": str(self.folder / f"{i}-{rank}-{images}-{kind.replace(' ', '-')}"),
            }
            for i, (rank, images, kind) in enumerate(faults)
        ]
        path = [str(self.folder), str(Path(__file__).parents[2])]
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path),
            "FAULTS": json.dumps(documents),
        }


def start(arguments: tuple[Any, ...], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `ddpm ARGUMENTS` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm_cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen[str]) -> Exit:
    """Wait for a process, which is killed on a timeout; its workers end with it."""
    with process:
        try:
            out, err = process.communicate(timeout=ranks.SECONDS)
        finally:
            process.kill()
    return process.returncode, out, err


def same(run: str, other: str) -> bool:
    """Whether two runs ended alike: weights, best weights, losses and early-stopping state."""
    for weights in ("model", "best"):
        one, two = (load_file(Path(name) / f"{weights}.safetensors") for name in (run, other))
        if not all(tensor.equal(two[name]) for name, tensor in one.items()):
            return False
    return outcome(run) == outcome(other)


def outcome(run: str) -> tuple[object, ...]:
    """The losses that a run logged, and the progress in its newest snapshot."""
    directory = RunDirectory(Path(run))
    names = ("images", "loss", "loss_smooth", *(f"loss_q{q}" for q in range(4)), *COLUMNS)
    progress = torch.load(snapshots.listed(directory.snapshots)[-1], weights_only=True)["progress"]
    state = [
        progress[name]
        for name in ("images", "loss", "loss_smooth", "loss_heldout", "gap", "best", "stale")
    ]
    return [[row.get(name) for name in names] for row in directory.rows()], state
