"""Full training states on disk: tensors and plain numbers, loaded without running any code."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.checkpoints.tensors import current_name
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.files import atomic_write, flush_and_drop_cache
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.training.state import State

StateDict = dict[str, Any]  # what State.as_dict gives


def write(folder: Path, held: StateDict) -> Path:
    """Write a state as a snapshot named by the images seen, and read it again to be sure.

    Raises DdpmError where it cannot be written, or is not there as it was written.
    """
    path = place(folder, held["progress"]["images"])
    with atomic_write(path) as partial:
        try:
            with partial.open("wb") as file:  # so that other threads go on while it writes
                torch.save(held, file)
                file.flush()
                flush_and_drop_cache(file.fileno())
        except RuntimeError as error:  # torch's own, about what it was doing when the disk was full
            why = error.__context__
            raise why if isinstance(why, OSError) else OSError(errno.EIO, str(error)) from error
        verify(partial)
    return path


def verify(path: Path) -> None:
    """Compare every tensor's bytes with the checksum (CRC-32) that torch.save wrote beside them.

    torch.load leaves that out: without this it would hand over the zeros that a failing disk, or a
    power cut, left in the middle of a file. Raises DdpmError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file") from error
    except (OSError, NotImplementedError, *DAMAGED_FILE) as error:
        raise DdpmError(f"{path} is damaged or cut short ({first_line(error)})") from error
    if damaged is not None:
        raise DdpmError(f"{path} is damaged: {damaged} in it is not what was written")


def place(folder: Path, images: int) -> Path:
    """The snapshot after so many images."""
    return folder / f"{images:012d}.pt"


def estimate(parameters: int) -> int:
    """Bytes of a snapshot: float32 weights, their average, and the optimiser's two moments."""
    return 4 * 4 * parameters


def size(held: Any) -> int:
    """Bytes of all tensors in a state, or in a part of it."""
    if isinstance(held, torch.Tensor):
        return held.nbytes
    return sum(map(size, held.values())) if isinstance(held, dict) else 0


def listed(folder: Path, kind: str = "pt") -> list[Path]:
    """The snapshots of a run, fewest images first; of kind "superseded", those set aside."""
    return sorted(folder.glob(f"{12 * '[0-9]'}.{kind}"))  # others are the user's own files


def prune(folder: Path, keep: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep` snapshots, and of those set aside likewise.

    The first one after every `keep_every` images always stays.
    """
    for kind in ("pt", "superseded"):
        reached = 0  # multiples of keep_every
        for path in listed(folder, kind)[:-keep]:
            before, reached = reached, int(path.stem) // keep_every if keep_every else 0
            if reached == before:
                _delete(path)


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
    """Bring the state to one snapshot. Raises DdpmError for a damaged file or another network's."""
    verify(path)
    try:
        held: StateDict = torch.load(path, map_location="cpu", weights_only=True)
        for part in ("network", "average"):
            held[part] = {current_name(name): tensor for name, tensor in held[part].items()}
        state.restore(held)
    except (OSError, *DAMAGED_FILE) as error:
        raise DdpmError(
            f"{path} is not a whole snapshot of this run ({first_line(error)})"
        ) from error


def supersede_newer(folder: Path, images: int) -> None:
    """Set aside the snapshots of a course that was left: training goes on from before them."""
    try:
        for path in listed(folder):
            if int(path.stem) > images:
                path.replace(path.with_suffix(".superseded"))
    except OSError as error:
        raise DdpmError(f"cannot rename {error.filename}: {error.strerror}") from error


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DdpmError(f"cannot delete {path}: {error.strerror}") from error
