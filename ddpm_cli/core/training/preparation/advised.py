"""One piece of advice."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10


@dataclass(frozen=True)
class Advice:
    """One line: what was seen and what follows; and the flags that change it."""

    message: str
    flags: tuple[str, ...] = ()  # any one helps, as it is typed: "--augment 0.12 --images 7000"
    warning: bool = True  # else a proposal

    @property
    def line(self) -> str:
        """The message with its flags."""
        return self.message + (f" ({' or '.join(self.flags)})" if self.flags else "")


def rounded(number: float) -> int:
    """To one digit, of at least 1: 2,637 to 3,000."""
    return max(1, round(number / _unit(number)) * _unit(number))


def rounded_down(number: float) -> int:
    """To one digit, of at least 1: 2,637 to 2,000."""
    return max(1, int(number / _unit(number)) * _unit(number))


def _unit(number: float) -> int:
    unit: int = 10 ** int(log10(max(1, number)))
    return unit
