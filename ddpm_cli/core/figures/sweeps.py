"""Scores by the settings of sampling: a curve along one option, a heat map over two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.plots import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAP = "viridis_r"  # low scores, which are good, are bright
_DARK = 0.55  # of the map's range, from which words on a cell are white
_DECADES = 5.0  # the ratio of the highest score to the lowest from which colours are logarithmic


class Grid(NamedTuple):
    """An option and the values of its grid."""

    name: str
    values: tuple[Any, ...]

    @property
    def titles(self) -> list[str]:
        """The values in words."""
        return [value if isinstance(value, str) else f"{value:g}" for value in self.values]

    def place(self, value: Any) -> float:
        """Where a value lies, in steps of the grid: between two values where it is finer."""
        if value in self.values:
            return float(self.values.index(value))
        return float(np.interp(value, self.values, range(len(self.values))))


class Scored(NamedTuple):
    """A score, and where it is drawn."""

    x: Any
    y: Any  # of a heat map
    value: float
    error: float | None = None
    chosen: bool = False


@canvas.defaults()
def curve(
    path: Path, scored: Sequence[Scored], grid: Grid, label: str, title: str = "", why: str = ""
) -> None:
    """Draw scores with their standard errors along an option; the one chosen has a star.

    title: of what. why: it was chosen.
    """
    figure = canvas.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    numeric = not any(isinstance(value, str) for value in grid.values)
    ordered = sorted(scored, key=lambda one: one.x if numeric else grid.place(one.x))
    places = [one.x if numeric else grid.place(one.x) for one in ordered]
    values = [one.value for one in ordered]
    axes.errorbar(
        places, values, yerr=[one.error or 0.0 for one in ordered],
        color="tab:blue", marker="o", ms=4, lw=1.5 if numeric else 0, elinewidth=1, capsize=2,
    )  # fmt: skip
    for place, one in zip(places, ordered, strict=True):
        if one.chosen:
            axes.plot(place, one.value, "*", color="tab:red", ms=14, zorder=5, label=_star(why))
    if not numeric:
        axes.set_xticks(range(len(grid.values)), grid.titles)
    axes.set(xlabel=grid.name, ylabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(title, fontsize=9)
    write_figure(path, figure)


@canvas.defaults()
def heat_map(
    path: Path,
    scored: Sequence[Scored],
    columns: Grid,
    rows: Grid,
    label: str,
    title: str = "",
    why: str = "",
) -> None:
    """Draw scores over two options: a cell for each pair of the grid, a dot for each finer value.

    The one chosen has a star. title: what all have in common. why: it was chosen.
    """
    size = 1.6 + 0.85 * len(columns.values), 1.5 + 0.55 * len(rows.values)
    figure = canvas.Figure(figsize=(max(5.0, size[0]), max(3.0, size[1])), layout="constrained")
    axes = figure.subplots()
    cells = np.full((len(rows.values), len(columns.values)), np.nan)
    finer = []
    for one in scored:
        if one.x in columns.values and one.y in rows.values:
            cells[rows.values.index(one.y), columns.values.index(one.x)] = one.value
        else:
            finer.append(one)
    norm = _norm([one.value for one in scored])
    image = axes.imshow(cells, cmap=_MAP, norm=norm, aspect="auto", origin="lower")
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            colour = "white" if norm(value) > _DARK else "black"
            axes.text(column, row - 0.17, f"{value:.4g}", color=colour, ha="center", va="center")
    _dots(axes, finer, columns, rows, norm)
    for one in scored:
        if one.chosen:
            place = columns.place(one.x), rows.place(one.y) + 0.22
            axes.plot(
                *place, "*", color="tab:red", mec="white", mew=0.8, ms=15, zorder=6,
                label=_star(why),
            )  # fmt: skip
    axes.set_xticks(range(len(columns.values)), columns.titles)
    axes.set_yticks(range(len(rows.values)), rows.titles)
    axes.set(xlabel=columns.name, ylabel=rows.name)
    axes.set_title(title, fontsize=9)
    figure.legend(
        loc="outside lower center", ncols=2, frameon=False, fontsize=8, markerscale=0.7,
    )  # fmt: skip
    figure.colorbar(image, ax=axes, label=label)
    write_figure(path, figure)


def _dots(axes: Axes, finer: Sequence[Scored], columns: Grid, rows: Grid, norm: Any) -> None:
    """The values between those of the grid, in the lower part of the cells, in the same colours."""
    if finer:
        axes.scatter(
            [columns.place(one.x) for one in finer],
            [rows.place(one.y) + 0.22 for one in finer],
            c=[one.value for one in finer],
            cmap=_MAP, norm=norm, edgecolors="white", s=36, zorder=5,
            label="values tried in between",
        )  # fmt: skip


def _star(why: str) -> str:
    return f"chosen: {why}" if why else "chosen"


def _norm(values: Sequence[float]) -> Any:
    colours = canvas.matplotlib.colors
    low, high = min(values), max(values)
    if low > 0 and high > _DECADES * low:
        return colours.LogNorm(low, high)
    return colours.Normalize(low, high if high > low else low + 1)
