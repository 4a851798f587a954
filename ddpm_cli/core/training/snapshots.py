"""Full training states on disk: tensors and plain numbers, loaded without running any code."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError
from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.training.state import State


def write(folder: Path, state: State, keep: int) -> None:
    """Write a snapshot named by the images seen, then delete all but the newest `keep`."""
    with replacing(folder / f"{state.progress.images:012d}.pt") as partial:
        try:
            torch.save(state.as_dict(), partial)
        except RuntimeError as error:  # how torch tells of a full disk
            raise OSError(errno.ENOSPC, str(error).splitlines()[0]) from error
    for old in listed(folder)[:-keep]:
        old.unlink(missing_ok=True)


def listed(folder: Path) -> list[Path]:
    """The snapshots of a run, oldest first."""
    return sorted(folder.glob("[0-9]*.pt"))


def restore_newest(folder: Path, state: State, reporter: Reporter) -> Path | None:
    """Bring the state to the newest snapshot that can be read, naming those that cannot.

    None where there are no snapshots. Raises DdpmError where there are but none can be read: a
    fresh start would overwrite the run.
    """
    held = listed(folder)
    for path in reversed(held):
        try:
            restore(path, state)
        except DdpmError as error:
            reporter.say(f"{error}; trying the one before it")
        else:
            return path
    if held:
        raise DdpmError(
            f"none of the {len(held)} snapshots in {folder} can be read; bring them back from a "
            "copy, or start a new run with --resume never"
        )
    return None


def restore(path: Path, state: State) -> None:
    """Bring the state to one snapshot. Raises DdpmError for a torn file or another network's."""
    try:
        held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state.restore(held)
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file") from error
    except (OSError, *DAMAGED_FILE) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DdpmError(f"{path} is not a whole snapshot of this run ({first[:120]})") from error


def supersede_newer(folder: Path, images: int) -> None:
    """Set aside the snapshots of a course that was left: training goes on from before them."""
    for path in listed(folder):
        if int(path.stem) > images:
            path.rename(path.with_suffix(".superseded"))
