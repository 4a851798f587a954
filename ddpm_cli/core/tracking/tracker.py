"""What an experiment tracker is to us: a Record, of one module a library beside this one.

Each module also has `check`, which says what is wrong before a training starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Scalar = str | int | float | bool | None

PROJECT = "ddpm"  # under which records are found, unless the library's own variable names another


@dataclass(frozen=True)
class Run:
    """The run that is followed, and how far its record is."""

    path: Path
    id: str  # of the record that is continued; "" begins one
    images: int  # seen at the last step of the record that still holds; 0 of a new one
    settings: dict[
        str, Scalar
    ]  # the configuration by dotted names, the preset, versions and device

    @property
    def name(self) -> str:
        """The run directory's."""
        return self.path.resolve().name


class Record(Protocol):
    """A run's record, begun or continued by Record(run).

    Its methods may raise whatever the library raises, and may block.
    """

    id: str  # by which a resumed training continues the record
    where: str  # where it goes, and how to look at it: a part of a sentence
    rewinds: bool  # whether what was logged after Run.images is replaced when it is logged again

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add numbers and a preview at so many images seen, which never become fewer."""

    def close(self, state: str) -> None:
        """End the record: the training finished, stopped (and may resume) or failed."""


def unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder, which need not exist; "" where that is possible."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return "" if os.access(place, os.W_OK) else f"{place} cannot be written to"
