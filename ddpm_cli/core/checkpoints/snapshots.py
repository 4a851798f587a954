"""Training snapshots on disk: tensors and plain numbers, loaded without running any code."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.checkpoints.tensors import read_pytorch, with_current_names
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime import content
from ddpm_cli.core.runtime.files import atomic_write, flush_and_drop_cache
from ddpm_cli.core.runtime.reporting import Reporter

StateDict = dict[str, Any]
"""Nested dicts of tensors and plain numbers: network, average, optimiser, progress, history, …

On the disk with the run's config, so that the file alone can be sampled from.
"""


def write(folder: Path, state: StateDict) -> Path:
    """Write a state as a snapshot named by the images seen, and verify what is on the disk.

    Raises DdpmError where it cannot be written, or does not read back as it was written.
    """
    path = snapshot_path(folder, state["progress"]["images"])
    with atomic_write(path, durable=True) as partial:
        try:
            with partial.open("wb") as file:  # an open file: other threads run while it is written
                torch.save(state, file)
                file.flush()
                flush_and_drop_cache(file.fileno())
        except RuntimeError as error:  # torch's own, raised where the disk is full
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(errno.EIO, str(error)) from error
        verify(partial)
    return path


def verify(path: Path) -> None:
    """Compare every tensor's bytes with the CRC-32 that torch.save wrote beside them.

    torch.load does not: without this it would return the zeros that a failing disk, or a power cut,
    left in the middle of a file. Raises DdpmError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise DdpmError(f"{path}: no such file{paths.near(path)}") from error
    except (OSError, NotImplementedError, *DAMAGED_FILE) as error:
        head = content.first_bytes(path)
        what = None if head.startswith(content.ZIP) else content.describe(head)
        if what is not None:
            raise DdpmError(f"{path} is damaged or no snapshot: it is {what}") from error
        raise DdpmError(f"{path} is damaged or cut short ({first_line(error)})") from error
    if damaged is not None:
        raise DdpmError(f"{path} is damaged: {damaged} in it is not what was written")


def read(path: Path) -> StateDict:
    """Read a snapshot onto the CPU. Raises DdpmError for a damaged file or one that is none."""
    verify(path)
    state = _checked(path, read_pytorch(path))
    for part in ("network", "average"):
        state[part] = with_current_names(state[part])
    if averages := state.get("power_averages"):
        state["power_averages"] = {x: with_current_names(one) for x, one in averages.items()}
    return state


def read_config(path: Path) -> Any:
    """The run's config in a snapshot, as plain values; None in one of an earlier version.

    Raises DdpmError for a file that is no snapshot.
    """
    return _checked(path, read_pytorch(path, memory_mapped=True)).get("config")


def is_snapshot(state: Any) -> bool:
    """Whether this is what a snapshot holds."""
    return isinstance(state, dict) and {"network", "average", "optimiser"} <= state.keys()


def _checked(path: Path, state: Any) -> StateDict:
    if not is_snapshot(state):
        raise DdpmError(
            f"{path} is not a snapshot of a ddpm training; weights of other tools have to be "
            "imported with ddpm convert"
        )
    checked: StateDict = state
    return checked


def read_newest_first(folder: Path, reporter: Reporter) -> Iterator[tuple[Path, StateDict]]:
    """The snapshots of a run that can be read, newest first; the others are reported."""
    for path in reversed(listed(folder)):
        try:
            state = read(path)
        except DdpmError as error:
            reporter.say(f"{error}; trying the one before it")
            continue
        yield path, state


def snapshot_path(folder: Path, images: int) -> Path:
    """The snapshot after so many images seen."""
    return folder / f"{images:012d}.pt"


def estimate(parameters: int) -> int:
    """Bytes of a snapshot: float32 weights, their average, and AdamW's two moments."""
    return 4 * 4 * parameters


def size(state: Any) -> int:
    """Bytes of all tensors in a state, or in a part of it."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    return sum(map(size, state.values())) if isinstance(state, dict) else 0


def listed(folder: Path, kind: str = "pt") -> list[Path]:
    """The snapshots of a run, fewest images first; of kind "superseded", those set aside."""
    return sorted(folder.glob(f"{12 * '[0-9]'}.{kind}"))  # others are the user's own files


def prune(folder: Path, keep: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep` snapshots, and of those set aside likewise.

    The first one after every `keep_every` images is always kept.
    """
    for kind in ("pt", "superseded"):
        existing = listed(folder, kind)
        kept = milestones(existing, keep_every)
        for path in existing[:-keep]:
            if path not in kept:
                _delete(path)


def milestones(existing: Sequence[Path], keep_every: int | None) -> set[Path]:
    """The first snapshot after every `keep_every` images, of some in order; None: none."""
    found, multiple = set[Path](), 0  # of keep_every
    for path in existing:
        previous, multiple = multiple, int(path.stem) // keep_every if keep_every else 0
        if multiple != previous:
            found.add(path)
    return found


def supersede_newer(folder: Path, images: int) -> None:
    """Rename snapshots of more images: training resumes from before them."""
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
