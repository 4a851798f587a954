"""What a part gets: the device, the time it has, and the table's rows to add to."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from tests.benchmarks.training_speed import preset_config

TINY: dict[str, Any] = {  # settings of the network of a dry run
    "network": {
        "size": [8, 8],
        "width": 8,
        "multipliers": [1],
        "blocks": ["res,attn"],
        "up_blocks": [],
        "augmented": False,
    },
    "data": {"augment": 0.0},
}


class OutOfTimeError(Exception):
    """A part's time is used up."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    case: str
    value: float | None  # None: not measured, or not a number
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Day:
    """One part's view of the day; rows are written at once, so that a part may be killed."""

    part: str
    device: torch.device
    dry: bool  # tiny sizes: every line is run, no figure means anything
    ends: float  # of time.monotonic(), by when this part should have ended
    data: Path  # the folder of files that git ignores
    rows: Path

    @property
    def left(self) -> float:
        """Seconds that this part still has."""
        return self.ends - time.monotonic()

    def add(self, case: str, value: float | None, unit: str = "", note: str = "") -> None:
        """Add a row to the table, and print it."""
        row = Row(self.part, case, value, unit, note)
        with self.rows.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(line(row), flush=True)

    def need(self, seconds: float) -> None:
        """Raise OutOfTimeError where less is left."""
        if self.left < seconds and not self.dry:
            raise OutOfTimeError(f"not measured: {seconds:.0f} s needed, {self.left:.0f} left")

    def config(self, preset: str, batch: int) -> RunConfig:
        """A preset's settings with this batch, or those of a tiny network."""
        if self.dry:
            return updated(preset_config(preset, 4), TINY)
        return preset_config(preset, batch)

    def with_part(self, part: str, seconds: float) -> Day:
        """The same for another part that has so many seconds from now."""
        return replace(self, part=part, ends=time.monotonic() + seconds)


def line(row: Row) -> str:
    """A row of the table in Markdown."""
    value = (
        "" if row.value is None else f"{row.value:,.4g}" if row.value < 100 else f"{row.value:,.0f}"
    )
    cells = (row.part, row.case, f"{value} {row.unit}".strip(), row.note)
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def synchronised() -> float:
    """The time once the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
