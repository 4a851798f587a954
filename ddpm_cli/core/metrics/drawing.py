"""Results drawn against what differs between the fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddpm_cli.core.metrics.comparing import OF_WEIGHTS, Comparison, Result
from ddpm_cli.core.runtime.json_lines import number

_SERIES: dict[str, Callable[[Result], str]] = {  # a setting, and whose values make a line
    "images_seen": lambda result: result.run,
    "guidance": lambda result: str(result.sampled.get("weights")),
}


def draw(path: Path, comparison: Comparison) -> None:
    """Draw the scores, and where there are both precision against recall, to a .png.

    Against images seen or guidance where all fakes are of runs, sampled alike but for the one;
    else as bars. Raises DdpmError where it cannot be written.
    """
    from ddpm_cli.core.figures import scores  # imports matplotlib

    against = series_key(comparison)
    points = [
        scores.Point(
            result.name,
            result.value(comparison.by.key),
            result.value(comparison.by.spread),
            result.value("precision"),
            result.value("recall"),
            number(result.sampled.get(against)) if against else None,
            _SERIES[against](result) if against else "",
        )
        for result in comparison.results
    ]
    floors = dict.fromkeys(floor[0] for n in comparison.groups if (floor := comparison.floor(n)))
    scores.scores(path, points, comparison.label, against, list(floors))


def series_key(comparison: Comparison) -> str:
    """The setting that the scores are drawn against: images_seen or guidance; "": none."""
    if len(comparison.groups) > 1 or not all(result.sampled for result in comparison.results):
        return ""
    differing = comparison.differing().keys()
    for key in _SERIES:
        values = [number(result.sampled.get(key)) for result in comparison.results]
        if key in differing and not differing - {key, *OF_WEIGHTS} and None not in values:
            return key
    return ""
