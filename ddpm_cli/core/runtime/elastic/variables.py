"""Environment variables of launchers, read and checked. Imports no torch."""

from __future__ import annotations

import os

from ddpm_cli.core.config.fields import is_whole_number
from ddpm_cli.core.errors import UsageError

_LONGEST = 12  # digits of a number: none of a launcher's is longer


def value(name: str) -> str | None:
    """A variable's value; None where it is not set or empty, which shells hardly distinguish."""
    return os.environ.get(name, "").strip() or None


def number(name: str, default: int) -> int:
    """A variable's value, from 0; the default where it has none. Raises UsageError for others."""
    text = value(name)
    if text is None:
        return default
    if not is_whole_number(text) or len(text) > _LONGEST:
        raise UsageError(f"{shown(name)} should be a whole number; set it right, or unset it")
    return int(text)


def shown(*names: str) -> str:
    """Variables as a shell sets them, for messages: "RANK=1, LOCAL_RANK=0"."""
    texts = [f"{name}={os.environ.get(name, '')}" for name in names]
    return ", ".join(repr(text)[1:-1][:100] for text in texts)
