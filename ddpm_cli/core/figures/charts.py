"""Charts as SVG for a web page, whose colours are variables of its style sheet.

So one drawing serves a light and a dark page. What is drawn in a colour of `COLOURS` gets the CSS
variable of that name: --ink, --muted, --line, and --c0 and up for the curves.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.axes import logarithmic, named, of_images

CURVES = 6  # different colours of curves
COLOURS = {"ink": "#010101", "muted": "#020202", "line": "#030303"} | {
    f"c{i}": f"#04040{i}" for i in range(CURVES)
}
_SIZE = 420, 250  # units of the SVG, in which a letter is about 10 high
_AXES = 0.14, 0.155, 0.84, 0.815  # left, bottom, width and height, in parts of the size
_LABEL = 0.0  # where the lines of the y axis' name begin, from the left
_NAMES = re.compile(r' id="(?:figure|axes|patch|text|line2d|matplotlib\.axis|[xy]tick)_\d+"')
_NOT_OF_PAGES = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>"
    r'| font-family: [^;]*;| transform="rotate\(-0[^)]*\)"',
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r'="[^"]*"')
_LONG = re.compile(r"(\d+\.\d\d)\d+")  # coordinates to a hundredth of a unit

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A curve of a chart; NaN leaves a gap."""

    label: str
    x: Values
    y: Values
    colour: int = 0
    faint: bool = False
    points: bool = False  # a mark at each
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart: curves over the images seen."""

    key: str  # a word that no other chart of the page has
    title: str
    y_label: str
    curves: tuple[Curve, ...]
    log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Drawing:
    """A chart as SVG, and what turns its coordinates into values."""

    svg: str
    scale: dict[str, Any]  # the box of the axes in the SVG's units, their limits, and whether log


@canvas.defaults()
def draw(chart: Chart) -> Drawing:
    """Draw a chart; the curve number i is the group of id KEY-i."""
    from matplotlib import ticker

    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.key, "font.size": 10}
    settings |= {"path.simplify": False, "font.family": "sans-serif"}
    with canvas.matplotlib.rc_context(settings):
        width, height = _SIZE
        figure = canvas.Figure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.add_axes(_AXES)
        for number, curve in enumerate(chart.curves):
            _plot(axes, curve).set_gid(f"{chart.key}-{number}")
        of_images(axes)
        axes.xaxis.label.set_color(COLOURS["muted"])
        named(axes, chart.y_label, color=COLOURS["muted"], va="top")
        axes.yaxis.set_label_coords(_LABEL, 0.5, transform=figure.transFigure)
        _limit(axes, chart)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))  # charts of one page begin alike
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.grid(color=COLOURS["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0, labelcolor=COLOURS["muted"], labelsize=9.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(COLOURS["muted"])
        content = io.StringIO()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        figure.savefig(content, format="svg", metadata={"Date": None}, dpi=72)
        box = axes.get_window_extent()
        scale = {
            "box": [round(float(v), 2) for v in (box.x0, height - box.y1, box.x1, height - box.y0)],
            "x": list(map(float, axes.get_xlim())),
            "y": list(map(float, axes.get_ylim())),
            "log": axes.get_yscale() == "log",
        }
    return Drawing(_for_pages(content.getvalue(), chart), scale)


def _plot(axes: Any, curve: Curve) -> Any:
    alone = int(np.isfinite(curve.y).sum()) == 1  # a line of one point is invisible
    (line,) = axes.plot(
        curve.x,
        curve.y,
        color=COLOURS[f"c{curve.colour % CURVES}"],
        alpha=0.35 if curve.faint else 1.0,
        linewidth=0.9 if curve.faint else 1.7,
        linestyle="--" if curve.dashed else "-",
        marker="o" if curve.points or alone else "",
        markersize=3.5,
        solid_joinstyle="round",
    )
    return line


def _limit(axes: Any, chart: Chart) -> None:
    """The y axis: logarithmic with readable ticks, or linear, from zero where that is asked for."""
    from matplotlib import ticker

    if chart.log and logarithmic(axes):
        return
    values = np.concatenate([curve.y for curve in chart.curves])
    values = values[np.isfinite(values)]
    if chart.from_zero:
        top = float(values.max()) if len(values) else 1.0
        axes.set_ylim(0, 1.08 * top if top > 0 else 1.0)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    largest = float(np.abs(values).max()) if len(values) else 1.0
    many = largest >= 1000
    axes.yaxis.set_major_formatter(ticker.EngFormatter(sep="") if many else "{x:.4g}")


def _for_pages(svg: str, chart: Chart) -> str:
    """The SVG as an element of a page: no header, sizes, names twice or fixed colours."""
    svg = svg[svg.index("<svg") :]
    svg = _NOT_OF_PAGES.sub("", svg)
    svg = _ATTRIBUTE.sub(lambda found: _LONG.sub(r"\1", found[0]), _NAMES.sub("", svg))
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    width, height = _SIZE
    opening = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{chart.key}-title" '
        f'data-chart="{chart.key}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"<svg[^>]*>", opening, svg, count=1).strip()


def thinned(x: Sequence[float] | Values, y: Sequence[float] | Values, most: int = 600) -> Any:
    """At most `most` points of a curve, (x, y): of each stretch its lowest and its highest.

    So no peak is lost. NaN stays where a whole stretch is NaN.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(xs) <= most:
        return xs, ys
    edges = np.linspace(0, len(xs), most // 2 + 1).astype(int)
    kept: list[int] = []
    for start, end in pairwise(edges):
        part = ys[start:end]
        if np.isnan(part).all():
            kept.append(int(start))
        else:
            kept += sorted({start + int(np.nanargmin(part)), start + int(np.nanargmax(part))})
    return xs[kept], ys[kept]


def averaged(x: Values, y: Values, most: int = 150) -> tuple[Values, Values]:
    """The mean of each of at most `most` stretches of a curve; NaN is left out of it."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(int)
    known = [(slice(a, b), np.isfinite(y[a:b])) for a, b in pairwise(edges)]
    means = [float(y[part][ok].mean()) if ok.any() else math.nan for part, ok in known]
    return np.array([x[part].mean() for part, _ in known]), np.array(means)


def is_drawn(values: Values) -> bool:
    """Whether there is anything to draw."""
    return any(map(math.isfinite, values))
