"""The runs below a folder, in an order, as rows and as a JSON document."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runs import summary
from ddpm_cli.core.runs.summary import RunSummary

_DEPTH = 4  # folders below the one named in which runs are looked for
_STATES = ("running", "diverged", "stopped", "new", "finished")

_BY: dict[str, tuple[Callable[[RunSummary], Any], bool]] = {  # and whether the largest comes first
    "run": (lambda run: str(run.path).lower(), False),
    "state": (lambda run: _STATES.index(run.state), False),
    "since": (lambda run: run.since, True),
    "data": (lambda run: run.data.lower() or None, False),
    "preset": (lambda run: run.preset or None, False),
    "images": (lambda run: run.images, True),
    "used": (lambda run: run.used, True),
    "loss": (lambda run: run.loss, False),
    "score": (lambda run: run.best, False),
    "preview": (lambda run: run.preview and summary.modified(run.preview), True),
    "size": (lambda run: run.bytes, True),
}
ORDERS = tuple(_BY)


def find(folder: Path) -> list[Path]:
    """The runs in a folder and below; the folder itself, where it is a run.

    A run is not looked into. Raises DdpmError where there is no such folder.
    """
    if not folder.is_dir():
        what = "is a file, not a folder of runs" if folder.exists() else "no such folder"
        raise DdpmError(f"{folder}: {what}")
    return sorted(_find(folder, _DEPTH))


def _find(folder: Path, depth: int) -> Iterator[Path]:
    if summary.is_run(folder):
        yield folder
        return
    if not depth:
        return
    try:
        with os.scandir(folder) as entries:
            inner = [entry.path for entry in entries if _is_visible_folder(entry)]
    except OSError:  # of another user
        return
    for path in inner:
        yield from _find(Path(path), depth - 1)


def _is_visible_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name[0] != "." and entry.is_dir()
    except OSError:
        return False


def ordered(
    runs: Sequence[RunSummary], by: str = "since", *, reverse: bool = False
) -> list[RunSummary]:
    """Runs by a column: newest, largest and best first; those without a value come last."""
    one_of("--sort", by, ORDERS)
    key, descending = _BY[by]
    known = [run for run in runs if key(run) is not None]
    unknown = [run for run in runs if key(run) is None]
    return sorted(known, key=key, reverse=descending != reverse) + unknown


def document(run: RunSummary) -> dict[str, Any]:
    """A run as JSON values; null where its files do not say it."""
    budget = asdict(run.budget)
    return {
        "run": str(run.path),
        "state": run.state,
        "since": run.since and run.since.isoformat(timespec="seconds"),
        "data": run.data or None,
        "preset": run.preset or None,
        "images": run.images,
        "images_in_all": run.total,
        "steps": run.steps,
        "seconds": run.seconds,
        "budget": budget,
        "used": run.used,
        "loss_smooth": run.loss,
        "loss_heldout": run.held_out,
        "score": run.score and asdict(run.score),
        "preview": run.preview and str(run.preview),
        "bytes": run.bytes,
        "problem": run.problem or None,
    }
