"""Several files that are named at once, as data-{000..127}.tar."""

from __future__ import annotations

import re
from itertools import product
from math import prod
from pathlib import Path

from ddpm_cli.core.errors import DdpmError, listed

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000


def shards_of(pattern: Path) -> list[Path]:
    """The files that "data-{000..127}.tar" stands for; [] without such a range.

    Raises DdpmError where some or all of them are not there.
    """
    parts = _RANGE.split(str(pattern))  # text, first, last, text, ...
    if len(parts) == 1 or pattern.exists():
        return []
    ranges = [_numbers(parts[i], parts[i + 1]) for i in range(1, len(parts), 3)]
    if any(not numbers for numbers in ranges):
        raise DdpmError(f"{pattern}: a range goes from the smaller number to the larger one")
    if prod(map(len, ranges)) > _MOST_SHARDS:
        raise DdpmError(f"{pattern} stands for more than {_MOST_SHARDS:,} shards")
    texts = parts[::3]
    names = []
    for numbers in product(*ranges):
        filled = (text + number for text, number in zip(texts, [*numbers, ""], strict=True))
        names.append(Path("".join(filled)))
    if missing := [name.name for name in names if not name.is_file()]:
        raise DdpmError(
            f"{pattern}: {len(missing):,} of {len(names):,} shards are not there: {listed(missing)}"
        )
    return names


def _numbers(first: str, last: str) -> list[str]:
    """The numbers of a range with the zeros that the first has before it."""
    if int(last) - int(first) > _MOST_SHARDS:
        raise DdpmError(f"{{{first}..{last}}} is a range of more than {_MOST_SHARDS:,} shards")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
