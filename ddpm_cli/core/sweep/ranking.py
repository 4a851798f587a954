"""Which setting is best, as far as the scores can tell."""

from __future__ import annotations

from collections.abc import Sequence

from ddpm_cli.core.metrics.scores.fid import standard_error
from ddpm_cli.core.sweep.points import Point

ABOVE = 0.1  # of the lowest score: no setting further above it is chosen, whatever it costs


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
    """Of those that tie the one of the fewest network calls, and of these the lowest.

    It is little above the lowest score: few images tie all, of which the cheapest may be the worst.
    """
    lowest, *others = ties(points)
    bound = lowest.value + ABOVE * abs(lowest.value)
    near = [lowest, *(point for point in others if point.value <= bound)]
    return min(near, key=lambda point: (point.nfe, point.value))


def told_apart(points: Sequence[Point]) -> bool:
    """Whether any setting is worse than the lowest by more than the error."""
    return len(ties(points)) < len(points)
