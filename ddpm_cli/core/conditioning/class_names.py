"""Class names that are numbers: their order, and which of them a number means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def in_order(names: Iterable[str]) -> list[str]:
    """Class names sorted: by value where all are numbers (2 before 10), else as text."""
    names = list(names)
    if all(map(is_number, names)):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def is_number(name: str) -> bool:
    """Whether a class name is a decimal number, of whatever length, in the digits 0 to 9."""
    return _NUMBER.fullmatch(name) is not None


def same_number(name: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are the same number, as 2 and 02 are."""
    if not is_number(name):
        return []
    return [other for other in names if is_number(other) and Decimal(other) == Decimal(name)]
