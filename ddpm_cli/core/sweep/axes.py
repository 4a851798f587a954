"""What a sweep varies: the values of options, or ranges of those that are continuous."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.errors import UsageError

Values = dict[str, Any]  # of the axes, by their names: a setting


class Option(NamedTuple):
    """What values an option that can be swept takes."""

    kind: type[Any]
    continuous: bool  # so that it takes ranges, too


SWEPT = {  # the dearest to change first; those but sigma_rel are settings of Sampling
    "sigma_rel": Option(float, continuous=True),
    "sampler": Option(str, continuous=False),
    "steps": Option(int, continuous=False),
    "eta": Option(float, continuous=True),
    "guidance": Option(float, continuous=True),
}
COARSE = 5  # values of a range that are scored first
_PARTS = 1000  # of a range: values are no finer
_DIGITS = 3  # of sigma_rel, in the names of files


@dataclass(frozen=True)
class Axis:
    """An option and its values, ascending where they are of a range."""

    name: str
    values: tuple[Any, ...]
    searched: bool = False  # the values are those of a range, between which others are tried

    @property
    def option(self) -> str:
        """As the command names it."""
        return f"--{self.name.replace('_', '-')}"

    def rounded(self, value: float) -> float:
        """A value between the ends, no finer than the search is."""
        low, high = self.values[0], self.values[-1]
        digits = max(0, math.ceil(-math.log10((high - low) / _PARTS)))
        return round(value, min(digits, _DIGITS) if self.name == "sigma_rel" else digits)

    def nearest(self, value: Any) -> Any:
        """The value of the grid nearest to one between."""
        if value in self.values:
            return value
        return min(self.values, key=lambda own: abs(own - value))

    def around(self, value: float) -> tuple[float, float, float]:
        """A value with its neighbours on the grid; at an end it is its own."""
        place = self.values.index(value)
        last = len(self.values) - 1
        return self.values[max(0, place - 1)], value, self.values[min(last, place + 1)]


def parse(name: str, text: str, coarse: int = COARSE) -> Axis:
    """Read "1,1.5,2", or of a continuous option the range "1:3". Raises UsageError."""
    axis, kind = Axis(name, ()), SWEPT[name].kind
    if ":" in text:
        return _range(axis, text, kind, coarse)
    words = [word.strip() for word in text.split(",")]
    values = tuple(_value(axis, word, kind, text) for word in words)
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise UsageError(f"{axis.option} {shortened(text)} has {twice[0]} twice")
    return Axis(name, values)


def _range(axis: Axis, text: str, kind: type[Any], coarse: int) -> Axis:
    if not SWEPT[axis.name].continuous:
        raise UsageError(
            f"{axis.option} {shortened(text)} is a range, and takes values alone, such as 10,25,50"
            if kind is int
            else f"{axis.option} {shortened(text)} is a range, and takes names, such as ddim,heun"
        )
    ends = [_value(axis, word.strip(), kind, text) for word in text.split(":")]
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise UsageError(f"{axis.option} {shortened(text)} should be LOW:HIGH, such as 1:3")
    low, high = ends
    whole = Axis(axis.name, (low, high), searched=True)
    between = (low + (high - low) * i / (coarse - 1) for i in range(1, coarse - 1))
    values = (low, *(whole.rounded(value) for value in between), high)
    if len(set(values)) < coarse:
        raise UsageError(f"{axis.option} {shortened(text)} is too narrow for {coarse} values")
    return Axis(axis.name, values, searched=True)


def _value(axis: Axis, word: str, kind: type[Any], text: str) -> Any:
    try:
        value = kind(word)
    except ValueError:
        value = None
    finite = value is not None and (kind is str or math.isfinite(value))
    if not word or not finite or (kind is int and abs(value) >= 10**9):
        example = {int: "10,25,50", str: "ddim,heun"}.get(kind, "1,1.5,2 or 1:3")
        raise UsageError(f"{axis.option} {shortened(text)} should be values such as {example}")
    return value


def grid(axes: Sequence[Axis]) -> list[Values]:
    """All combinations of the axes' values; the last axis changes fastest."""
    every = itertools.product(*(axis.values for axis in axes))
    return [dict(zip((axis.name for axis in axes), values, strict=True)) for values in every]
