"""A stand-in for the library wandb that fails as the environment variable FAKE says.

It is imported as `wandb` by the process of a tracker, from a folder of PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

FAKE = os.environ.get("FAKE", "")
LOG = Path(os.environ.get("FAKE_LOG", ""))
failed: list[str] = []

if FAKE == "exit":
    os._exit(7)
if FAKE == "missing":
    raise ModuleNotFoundError("No module named 'wandb'")


class errors:  # noqa: N801
    class UsageError(Exception):
        pass


def Settings(**_: object) -> None:  # noqa: N802
    pass


def Image(path: str) -> str:  # noqa: N802
    return path


def setup() -> SimpleNamespace:
    return SimpleNamespace(settings=SimpleNamespace(mode="online"))


def login(*, verify: bool) -> bool:
    if FAKE == "no login":
        raise errors.UsageError("No API key configured")
    if FAKE == "no answer":
        threading.Event().wait()
    return True


def misbehave(when: str) -> None:
    if when not in FAKE:
        return
    if FAKE.startswith("raise once"):
        failed.append(when)
        if len(failed) > 1:
            return
    if FAKE.startswith("raise"):
        raise ConnectionError(os.environ.get("FAKE_REASON", "the network is away"))
    if FAKE.startswith("block"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Event().wait()
    if FAKE.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)


class Run:
    def __init__(self, **given: Any) -> None:
        misbehave("open")
        self.id = cast(str, given["id"] or "new")
        self.settings = SimpleNamespace(mode="online")
        self.url = "https://example.org/new"

    def log(self, values: dict[str, Any], step: int) -> None:
        misbehave("log")
        with LOG.open("a") as file:
            file.write(json.dumps([step, values]) + "\n")

    def finish(self, exit_code: int) -> None:
        misbehave("close")
        with LOG.open("a") as file:
            file.write(json.dumps(["closed", exit_code]) + "\n")


init = Run
