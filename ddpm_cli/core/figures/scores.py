"""Scores of several sets of images: against what differs between them, or as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.axes import logarithmic, of_images
from ddpm_cli.core.figures.bars import bars, wrapped
from ddpm_cli.core.figures.plots import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE = 42  # characters of a name's line
_FLOOR = "real against real"
_DECADES = 20.0  # the ratio of the largest score to the smallest from which an axis is logarithmic
_MOST_LABELS = 12  # beside the points of a line: of more, the first and the last have one
_PLACES = [  # of a label beside its point, in points: the first that is free is taken
    (distance * math.cos(turn * math.pi / 4), distance * math.sin(turn * math.pi / 4))
    for distance in (9, 16, 24, 33)
    for turn in (1, 3, 7, 5, 0, 4, 2, 6)
]


class Point(NamedTuple):
    """The scores of one set of images; None: not computed."""

    name: str
    value: float | None
    error: float | None = None
    precision: float | None = None
    recall: float | None = None
    x: float | None = None  # what it is drawn against
    series: str = ""  # whose line it is a point of


@canvas.defaults()
def scores(
    path: Path, points: Sequence[Point], label: str, against: str, floors: Sequence[float] = ()
) -> None:
    """Draw scores, best first, and precision against recall where all points have both.

    label: of the axis. against: "images_seen", "guidance", …, or "" for bars. floors: scores of
    real images, drawn as lines.
    """
    known = [point for point in points if point.value is not None]
    both = len(points) > 1 and all(None not in (p.precision, p.recall) for p in points)
    names = [wrapped(f"{i}. {p.name}", _LINE) for i, p in enumerate(known, 1)]
    lines = sum(name.count("\n") + 1.6 for name in names)
    height = 4.2 if against else max(3.6 if both else 1.7, 0.17 * lines + 1.2)
    width = 5.4 if against else 6.6
    figure = canvas.Figure(figsize=(width + 4.6 * both, min(height, 100)), layout="constrained")
    panels: Any = figure.subplots(
        1, 1 + both, squeeze=False, width_ratios=[width, 4.6] if both else [1]
    )
    main, *others = panels[0]
    if against:
        _lines(main, known, label, against)
    else:
        values = [_number(point.value) for point in known]
        texts = [f"{value:.4g}" for value in values]
        errors = [point.error or 0.0 for point in known]
        colours, reach = _colours(len(known)), max([0.0, *floors])
        bars(main, names, values, texts, colours=colours, errors=errors, reach=reach)
        main.set_xlabel(label)
    for floor in floors:
        line = main.axhline if against else main.axvline
        line(floor, color="black", ls="--", lw=1, label=_FLOOR)
    for axes in others:
        _precision_recall(axes, points, against)
    for axes in panels[0]:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, main)
    canvas.FigureCanvasAgg(figure).draw()  # so that it is known where the points are
    for axes in others:
        _name_points(axes, points, against)
    write_figure(path, figure)


def _lines(axes: Axes, points: Sequence[Point], label: str, against: str) -> None:
    """A line for each series, by what differs within it."""
    series = _series(points)
    for (name, several), colour in zip(series.items(), _colours(len(series)), strict=True):
        axes.errorbar(
            [_number(p.x) for p in several],
            [_number(p.value) for p in several],
            yerr=[p.error or 0.0 for p in several],
            color=colour, marker="o", ms=4, lw=1.5, capsize=2,
            label=wrapped(name, _LINE),
        )  # fmt: skip
    axes.set_ylabel(label)
    if against == "images_seen":
        of_images(axes)
    else:
        axes.set_xlabel(against)
    values = [_number(point.value) for point in points]
    if max(values) <= _DECADES * min(values) or not logarithmic(axes):
        axes.set_ylim(bottom=0)


def _precision_recall(axes: Axes, points: Sequence[Point], against: str) -> None:
    """A line for each series, or else a point for each bar, in its colour."""
    groups = list(_series(points).values()) if against else [[point] for point in points]
    for several, colour in zip(groups, _colours(len(groups)), strict=True):
        recalls = [_number(point.recall) for point in several]
        precisions = [_number(point.precision) for point in several]
        axes.plot(recalls, precisions, "o-", ms=4 if against else 6, lw=1, color=colour)
    axes.set(xlabel="recall", ylabel="precision")
    axes.set_title(
        f"by {against.replace('_', ' ')}" if against else "numbered as on the left", fontsize=9
    )
    axes.margins(0.14)


def _name_points(axes: Axes, points: Sequence[Point], against: str) -> None:
    """What each point is, beside it: its place among the bars, or its images seen or guidance."""
    named = [(str(place), point) for place, point in enumerate(points, 1)]
    if against:
        engineers = canvas.matplotlib.ticker.EngFormatter(sep="")
        ends = len(points) > _MOST_LABELS
        chosen = [[s[0], s[-1]] if ends else s for s in _series(points).values()]
        named = [
            (engineers(float(f"{_number(point.x):.3g}")), point)
            for several in chosen
            for point in several
        ]
    marks = axes.transData.transform([(_number(p.recall), _number(p.precision)) for p in points])
    around = canvas.matplotlib.transforms.Bbox.from_bounds
    taken = [around(x - 5, y - 5, 10, 10) for x, y in marks]
    for text, point in named:
        note = axes.annotate(
            text, (_number(point.recall), _number(point.precision)), xytext=(0, 0),
            textcoords="offset points", ha="center", va="center", fontsize=8,
        )  # fmt: skip
        for place in _PLACES:
            note.set_position(place)
            box = note.get_window_extent()
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(map(box.overlaps, taken)):
                break
        taken.append(note.get_window_extent())


def _legend(figure: Figure, axes: Axes) -> None:
    """The names of lines, where there are several, and of the floor, above the plot."""
    handles, names = axes.get_legend_handles_labels()
    named = dict(zip(names, handles, strict=True))
    lines = [name for name in named if name != _FLOOR]
    shown = (lines if len(lines) > 1 else []) + [_FLOOR] * (_FLOOR in named)
    if shown:
        drawn = [named[name] for name in shown]
        columns = min(3, len(shown))
        figure.legend(drawn, shown, loc="outside upper center", ncols=columns, fontsize=8)


def _series(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each line, in the order of what they are drawn against."""
    series: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.series, _number(point.x))):
        series.setdefault(point.series, []).append(point)
    return series


def _colours(count: int) -> list[Any]:
    """Colours that can be told apart."""
    if count <= 10:
        return list(canvas.matplotlib.colormaps["tab10"].colors[:count])
    spread = canvas.matplotlib.colormaps["turbo"]
    return [spread(i / (count - 1)) for i in range(count)]


def _number(value: float | None) -> float:
    return 0.0 if value is None else value
