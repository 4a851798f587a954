"""Results drawn against what differs between the fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.comparing import OF_WEIGHTS, Comparison, Result
from ddpm_cli.core.runtime.files import new_file
from ddpm_cli.core.runtime.json_lines import number

if TYPE_CHECKING:
    from ddpm_cli.core.figures.by_class import Bar, Extrapolation
    from ddpm_cli.core.figures.scores import Point

_SERIES: dict[str, Callable[[Result], str]] = {  # a setting, and whose values make a line
    "images_seen": lambda result: result.run,
    "sigma_rel": lambda result: result.run,
    "guidance": lambda result: str(result.sampled.get("weights")),
}


def draw(path: Path, comparison: Comparison) -> list[Path]:
    """Draw the scores to a .png, and where there are both, precision against recall; the files.

    Against images seen, sigma_rel or guidance where all fakes are of runs, sampled alike but for
    the one; else as bars. Scores by class and the line of FID-infinity are figures of one fake:
    `path` itself where it is the only one, else beside it, NAME-1.png that of the best (or
    NAME-1-2.png, where that is taken). Raises DdpmError where there is nothing to draw.
    """
    from ddpm_cli.core.figures import by_class, scores  # imports matplotlib

    details = [_details(result) for result in comparison.results]
    alone = len(details) == 1 and details[0] is not None
    points, written = _points(comparison), []
    if any(point.value is not None for point in points) and not alone:
        floors = map(comparison.floor, comparison.groups)
        values = list(dict.fromkeys(floor[0] for floor in floors if floor))
        better = "higher" if comparison.by.higher else "lower"
        label = f"{comparison.label} ({better} is better)"
        scores.scores(path, points, label, series_key(comparison), values)
        written.append(path)
    for place, detail in enumerate(details, 1):
        if detail is None:
            continue
        if alone:
            by_class.class_scores(path, *detail)
            return [path]
        beside = path.with_name(f"{path.stem}-{place}{path.suffix}")
        with new_file(beside, "--plot", numbered=True) as file:
            by_class.class_scores(file, *detail)
            written.append(file)
    if not written:
        raise DdpmError("--plot: none of these scores is drawn; leave fid among the --metrics")
    return written


def _details(result: Result) -> tuple[str, list[Bar], Extrapolation | None, float | None] | None:
    """What is drawn of one fake alone, as `class_scores` takes it; None: nothing."""
    from ddpm_cli.core.figures.by_class import Bar, Extrapolation

    document, line = result.document, None
    bars = [
        Bar(
            str(entry.get("class")),
            number(entry.get("fid")),
            int(number(entry.get("n_real")) or 0),
            int(number(entry.get("n_fake")) or 0),
        )
        for entry in document.get("classes") or []
        if isinstance(entry, dict)
    ]
    sizes = [int(number(n) or 0) for n in document.get("fid_infinity_sizes") or []]
    values = [number(value) or 0.0 for value in document.get("fid_infinity_fids") or []]
    intercept = result.value("fid_infinity")
    if sizes and intercept is not None and len(sizes) == len(values) and min(sizes) > 0:
        line = Extrapolation(sizes, values, intercept, result.value("fid_infinity_std") or 0.0)
    if not bars and line is None:
        return None
    return str(document.get("label") or "FID"), bars, line, result.value("fid")


def _points(comparison: Comparison) -> list[Point]:
    from ddpm_cli.core.figures.scores import Point

    against, by = series_key(comparison), comparison.by
    unlike = len(comparison.counts) > 1
    return [
        Point(
            f"{result.name} (n = {result.n or 'unknown'})" if unlike else result.name,
            result.value(by.key),
            result.value(by.spread),
            result.value("precision"),
            result.value("recall"),
            number(result.sampled.get(against)) if against else None,
            _SERIES[against](result) if against else "",
        )
        for result in comparison.results
    ]


def series_key(comparison: Comparison) -> str:
    """The setting that the scores are drawn against, such as guidance; "": none."""
    if len(comparison.counts) > 1 or not all(result.sampled for result in comparison.results):
        return ""
    differing = comparison.differing().keys()
    for key in _SERIES:
        values = [number(result.sampled.get(key)) for result in comparison.results]
        if key in differing and not differing - {key, *OF_WEIGHTS} and None not in values:
            return key
    return ""
