"""Files of JSON objects, a line each, that a crash or another program may have damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.fields import LARGEST_INTEGER


def lines(path: Path) -> list[str]:
    """The lines of a file; none without it. Raises OSError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def parsed(line: str | bytes) -> dict[str, Any] | None:
    """The object of a line; None where it is none, or cut short by a crash."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file; other lines are passed over. Raises OSError as `lines`."""
    return [row for line in lines(path) if (row := parsed(line)) is not None]


def number(value: Any) -> float | None:
    """A finite number that a run may hold; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) <= LARGEST_INTEGER else None
