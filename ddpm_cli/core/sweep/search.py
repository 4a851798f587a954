"""Coarse to fine: every combination on a grid, then golden section along each range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ddpm_cli.core.sweep.axes import Axis, Values, grid

_PART = (3 - math.sqrt(5)) / 2  # of the larger part of a bracket: the golden section

_UNKNOWN = 1e12  # stands for a score that is not known: above all that are

Bracket = tuple[float, float, float]  # low, the lowest known, high


def golden_section(score: Callable[[float], float], bracket: Bracket, evaluations: int) -> Bracket:
    """Narrow a bracket around a minimum by so many values (Kiefer 1953).

    Where there is one minimum, it is in the bracket returned, which after n values is at most
    0.618^(n - 1) as wide. The middle of the first may be one of its ends; its score is asked for
    once more.
    """
    low, middle, high = bracket
    lowest = score(middle)
    for _ in range(evaluations):
        up = high - middle > middle - low
        tried = middle + _PART * (high - middle if up else low - middle)
        if (value := score(tried)) < lowest:
            low, high = (middle, high) if up else (low, middle)
            middle, lowest = tried, value
        elif up:
            high = tried
        else:
            low = tried
    return low, middle, high


def as_it_is(values: Values) -> Values:
    """A setting all of whose values have an effect."""
    return values


def explore(
    axes: Sequence[Axis],
    refine: int,
    score: Callable[[Values], float],
    meant: Callable[[Values], Values] = as_it_is,
) -> None:
    """Score the grid, then `refine` values along each range, around the best of each combination.

    A combination is one of those values that are not of ranges, so the best of each is as good as
    the other's, and how much there is to do is known before. Each setting is scored once.

    meant: a setting as the others make it, which is that of several: heun has one eta.
    """
    known = dict[tuple[object, ...], float]()

    def once(values: Values) -> float:
        values = meant(values)
        key = tuple(values.values())
        if key not in known:
            known[key] = score(values)
        return known[key]

    every = grid(axes)
    for values in every:
        once(values)
    fixed = [axis for axis in axes if not axis.searched]
    for combination in grid(fixed):
        best = min((v for v in every if combination.items() <= v.items()), key=once)
        for axis in axes:
            if axis.searched and refine:
                best = _refined(axis, best, refine, once)


def _refined(
    axis: Axis, best: Values, evaluations: int, score: Callable[[Values], float]
) -> Values:
    """The best along one axis, from a value of its grid on."""

    def at(value: float) -> Values:
        on_grid = value in axis.values
        return best | {axis.name: value if on_grid else axis.rounded(value)}

    bracket = axis.around(best[axis.name])
    _, middle, _ = golden_section(lambda value: score(at(value)), bracket, evaluations)
    return at(middle)


def remaining(
    axes: Sequence[Axis],
    refine: int,
    known: Callable[[Values], float | None],
    meant: Callable[[Values], Values] = as_it_is,
) -> list[Values]:
    """What `explore` has still to score. What depends on scores that are not known is assumed.

    It is assumed that the last values of a combination are its best, and finer ones better still.
    """
    missing: list[Values] = []

    def assumed(values: Values) -> float:
        value = known(values)
        if value is None:
            missing.append(values)
            value = _UNKNOWN - len(missing)
        return value

    explore(axes, refine, assumed, meant)
    return missing
