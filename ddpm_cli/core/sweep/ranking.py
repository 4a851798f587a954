"""Which setting is best, as far as the scores can tell."""

from __future__ import annotations

from collections.abc import Sequence

from ddpm_cli.core.metrics.scores.fid import standard_error
from ddpm_cli.core.sweep.points import Point


def ranked(points: Sequence[Point]) -> list[Point]:
    """The lowest score first."""
    return sorted(points, key=lambda point: (point.value, point.nfe))


def ties(points: Sequence[Point]) -> list[Point]:
    """Those within one standard error of the lowest score, which is one of them; lowest first.

    As the rule of one standard error for choosing a model (Breiman et al. 1984, section 3.4.3).
    """
    first, *others = ranked(points)
    return [first, *(p for p in others if p.value - first.value <= _error_of_difference(first, p))]


def _error_of_difference(one: Point, other: Point) -> float:
    """The standard error of two scores' difference, much smaller than their own: the same seeds.

    It is that of the differences without the same part of the seeds each, where these are known,
    or else that of the first score.
    """
    if len(one.resamples) != len(other.resamples) or not one.resamples:
        return one.std or 0.0
    differences = [a - b for a, b in zip(one.resamples, other.resamples, strict=True)]
    return standard_error(differences) or 0.0


def chosen(points: Sequence[Point]) -> Point:
    """Of those that tie the one of the fewest network calls, and of these the lowest."""
    return min(ties(points), key=lambda point: (point.nfe, point.value))
