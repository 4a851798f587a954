"""Full training states on disk: tensors and plain numbers, loaded without running any code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.training.state import State


def write(folder: Path, state: State, keep: int) -> None:
    """Write a snapshot named by the images seen, then delete all but the newest `keep`."""
    with replacing(folder / f"{state.progress.images:012d}.pt") as partial:
        torch.save(state.as_dict(), partial)
    for old in listed(folder)[:-keep]:
        old.unlink()


def listed(folder: Path) -> list[Path]:
    """The snapshots of a run, oldest first."""
    return sorted(folder.glob("[0-9]*.pt"))


def restore_newest(folder: Path, state: State, reporter: Reporter) -> Path | None:
    """Bring the state to the newest snapshot that can be read, naming those that cannot."""
    for path in reversed(listed(folder)):
        try:
            restore(path, state)
        except DdpmError as error:
            reporter.say(f"{error}; trying the one before it")
        else:
            return path
    return None


def restore(path: Path, state: State) -> None:
    """Bring the state to one snapshot. Raises DdpmError for a torn file or another network's."""
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state.restore(held)
    except FileNotFoundError as error:
        raise DdpmError(f"--resume {path}: no such file") from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DdpmError(f"{path} is not a whole snapshot of this run ({first[:120]})") from error
