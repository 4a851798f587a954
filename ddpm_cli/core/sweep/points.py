"""What was measured, a line of points.jsonl for each setting, written as soon as it is known."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.runtime import json_lines
from ddpm_cli.core.runtime.files import cannot_write, dumps, finite
from ddpm_cli.core.sweep.axes import Values

NAME = "points.jsonl"


@dataclass(frozen=True)
class Point:
    """The score of one setting."""

    values: Values  # of the axes
    value: float  # the score: lower is better
    std: float | None  # its standard error; None: unknown
    nfe: int  # network calls for an image
    seconds: float
    resamples: tuple[float, ...] = ()  # of the score, without the same part of the seeds each

    def row(self) -> dict[str, Any]:
        """As points.jsonl has it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def document(self) -> dict[str, Any]:
        """As --json has it."""
        return {name: value for name, value in self.row().items() if name != "resamples"}


class PointsFile:
    """Points by all that their scores depend on, so that no others are taken for them.

    A line that a crash cut short is passed over. Lines of other sweeps stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = {
            _key(row["of"]): row for row in json_lines.objects(path) if _is_complete(row)
        }

    def find(self, of: dict[str, Any], values: Values) -> Point | None:
        """The point that was measured of exactly this; None without one."""
        row = self._known.get(_key(of))
        if row is None:
            return None
        value, std, nfe, seconds = (row[name] for name in ("value", "std", "nfe", "seconds"))
        return Point(values, value, std, nfe, seconds, tuple(row["resamples"]))

    def add(self, of: dict[str, Any], point: Point) -> None:
        """Append a line, durably. Raises DdpmError where it cannot be written."""
        row = point.row() | {"of": finite(of)}
        self._known[_key(of)] = row
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                apart = b"" if _ends_in_a_line(file) else b"\n"
                file.write(apart + dumps(row, indent=None).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _key(of: Any) -> str:
    return json.dumps(finite(of), sort_keys=True)


def _is_complete(row: dict[str, Any]) -> bool:
    number, resamples = json_lines.number, row.get("resamples")
    return (
        isinstance(row.get("of"), dict)
        and None not in (number(row.get("value")), number(row.get("seconds")))
        and isinstance(row.get("nfe"), int)
        and (row.get("std", "") is None or number(row.get("std")) is not None)
        and isinstance(resamples, list)
        and None not in map(number, resamples)
    )


def _ends_in_a_line(file: Any) -> bool:
    """Whether what is appended begins a line: not after one that a crash cut short."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
