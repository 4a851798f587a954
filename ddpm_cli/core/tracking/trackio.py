"""Trackio: a database on this machine, or a Space or server that TRACKIO_* variables name."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import trackio
from trackio.utils import TRACKIO_DIR

from ddpm_cli.core.tracking.tracker import PROJECT, Run, unwritable

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def check() -> str:
    """What is wrong before a training starts: no folder for the database."""
    if any(os.environ.get(name) for name in _REMOTE):
        return ""
    reason = unwritable(Path(TRACKIO_DIR))
    return f"{reason}: TRACKIO_DIR should name another folder" if reason else ""


class Record:
    """A run of a project, found again by its name, which is made unique."""

    rewinds = False

    def __init__(self, run: Run) -> None:
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.id = run.id or f"{run.name}-{secrets.token_hex(3)}"
        self._run: Any = trackio.init(project, name=self.id, resume="allow", config=run.settings)
        remote = next(filter(None, map(os.environ.get, _REMOTE)), None)
        look = f"look at it with: trackio show --project {project}"
        self.where = f"at {remote}" if remote else f"in {TRACKIO_DIR}; {look}"

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add a step, named by the images seen."""
        images_of = {} if picture is None else {"samples": trackio.Image(str(picture))}
        self._run.log({**values, **images_of}, step=images)

    def close(self, state: str) -> None:
        """Write what is left."""
        self._run.finish()
