"""A network as a picture, a row a level of the U: widths, blocks, parameters and operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_cli.core.figures import canvas
from ddpm_cli.core.figures.plots import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "res": "#4c78a8",
    "conv": "#3f9b8f",
    "attn": "#f58518",
    "linear-attn": "#e3b505",
    "class-attn": "#9c6bb0",
    "text-attn": "#54a24b",
    "channel-attn": "#9d755d",
    "mlp": "#4c78a8",
    "down": "#b8bec6",
    "up": "#b8bec6",
}
_NAMES = {
    "res": "residual block",
    "conv": "ConvNeXt block",
    "attn": "self-attention",
    "linear-attn": "linear attention",
    "class-attn": "attention by class",
    "text-attn": "attention to the caption",
    "channel-attn": "channel attention",
    "mlp": "MLP",
    "down": "half the resolution",
    "up": "twice the resolution",
}
_PITCH, _INDENT, _BETWEEN = 1.45, 0.7, 0.1  # of rows, of a level, of blocks
_MARGIN, _INSET = 0.1, 0.5  # of a panel around its blocks, of arrows from a panel's corner
_SKIP = 2.4  # the least space between encoder and decoder
_INK, _FAINT = "#20242a", "#6b737c"


@dataclass(frozen=True)
class Group:
    """The blocks of a level on one side of the U."""

    blocks: Sequence[str]  # their kinds, in order
    width: int  # channels
    side: int  # the longer one of its feature maps, in positions


@dataclass(frozen=True)
class Row:
    """A level: its two sides; the middle of the U, or blocks of a transformer, have one."""

    left: Group
    right: Group | None
    resolution: str
    skips: int
    cost: str  # parameters and operations, in words
    share: float  # of all operations


def draw(path: Path, rows: Sequence[Row], title: str, about: Sequence[str]) -> None:
    """Write the picture as PNG. rows: as an image passes them first; about: the foot."""
    with canvas.defaults():
        write_figure(path, _figure(rows, title, about))


def _figure(rows: Sequence[Row], title: str, about: Sequence[str]) -> Any:
    scale = _Scale.of(rows)
    span = scale.span(rows)
    left, right = 2.6, 3.6  # of the words beside the U
    width, height = left + span + right, _PITCH * len(rows) + 2.3
    figure = canvas.Figure(figsize=(max(8.0, 0.72 * width), 0.72 * height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-left, span + right), ylim=(-_PITCH * len(rows) - 0.75, 1.55))
    axes.set_axis_off()
    middle = (span + right - left) / 2
    axes.text(middle, 1.22, title, size=14, weight="bold", color=_INK, ha="center")
    panels = [_row(axes, row, i, span, scale) for i, row in enumerate(rows)]
    for above, below in pairwise(panels):
        _arrow(axes, above[0], below[0])
        if rows[0].right is not None:
            _arrow(axes, below[1], above[1])
    _labels(axes, rows, left, span)
    _legend(axes, rows, middle, -_PITCH * len(rows) - 0.02)
    for i, line in enumerate(about):
        axes.text(middle, 0.86 - 0.27 * i, line, size=9.5, color=_FAINT, ha="center")
    return figure


@dataclass(frozen=True)
class _Scale:
    """The sizes of boxes: wider with channels, higher with resolution."""

    channels: int
    side: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Scale:
        groups = [group for row in rows for group in (row.left, row.right) if group is not None]
        return cls(max(group.width for group in groups), max(group.side for group in groups))

    def box(self, group: Group, kind: str) -> tuple[float, float]:
        """Width and height of a block."""
        height = 0.34 + 0.56 * math.log2(1 + group.side) / math.log2(1 + self.side)
        if kind in ("down", "up"):
            return 0.2, 0.7 * height
        return 0.16 + 0.5 * math.sqrt(group.width / self.channels), height

    def width(self, group: Group) -> float:
        """Of a whole group."""
        boxes = sum(self.box(group, kind)[0] for kind in group.blocks)
        return boxes + _BETWEEN * (len(group.blocks) - 1)

    def span(self, rows: Sequence[Row]) -> float:
        """Of the whole U."""
        needed = [
            2 * i * _INDENT + self.width(row.left) + _SKIP + self.width(row.right)
            for i, row in enumerate(rows)
            if row.right is not None
        ]
        indents = 2 * _INDENT * len(needed)
        needed += [self.width(row.left) + indents for row in rows if row.right is None]
        return max(needed)


class _Panel(NamedTuple):
    """What is behind the blocks of a group: its sides, top and bottom."""

    left: float
    right: float
    top: float
    bottom: float


def _row(axes: Axes, row: Row, level: int, span: float, scale: _Scale) -> tuple[_Panel, _Panel]:
    """Draw a level; the panels on its left and on its right, which may be the same."""
    y, indent = -_PITCH * level - 0.35, level * _INDENT
    width = scale.width(row.left)
    if row.right is None:
        panel = _group(axes, row.left, (span - width) / 2, y, scale)
        return panel, panel
    left = _group(axes, row.left, indent, y, scale)
    right = _group(axes, row.right, span - indent - scale.width(row.right), y, scale)
    style = {"arrowstyle": "-|>", "color": _FAINT, "lw": 1, "ls": (0, (4, 3))}
    axes.annotate("", (right.left - 0.04, y), (left.right + 0.04, y), arrowprops=style)
    skips = f"{row.skips} skip connections" if row.skips > 1 else "1 skip connection"
    middle = (left.right + right.left) / 2
    axes.text(middle, y + 0.08, skips, size=8, color=_FAINT, ha="center")
    return left, right


def _group(axes: Axes, group: Group, x: float, y: float, scale: _Scale) -> _Panel:
    """Draw blocks from left to right on a panel, which begins a little before x."""
    patches = canvas.matplotlib.patches
    high = max(scale.box(group, kind)[1] for kind in group.blocks) / 2 + _MARGIN
    panel = _Panel(x - _MARGIN, x + scale.width(group) + _MARGIN, y + high, y - high)
    behind = patches.FancyBboxPatch(
        (panel.left, panel.bottom),
        panel.right - panel.left,
        2 * high,
        "round,pad=0,rounding_size=0.1",
        fc="#f1f4f8",
        ec="#d9dfe7",
        lw=0.8,
    )
    axes.add_patch(behind)
    for kind in group.blocks:
        width, height = scale.box(group, kind)
        colour = _COLOURS[kind]
        if kind in ("down", "up"):
            tip = -height / 2 if kind == "down" else height / 2
            corners = [(x, y - tip), (x + width, y - tip), (x + width / 2, y + tip)]
            axes.add_patch(patches.Polygon(corners, fc=colour, ec="none"))
        else:
            style = "round,pad=0,rounding_size=0.06"
            box = patches.FancyBboxPatch(
                (x, y - height / 2), width, height, style, fc=colour, ec="white", lw=0.8
            )
            axes.add_patch(box)
        x += width + _BETWEEN
    return panel


def _arrow(axes: Axes, start: _Panel, end: _Panel) -> None:
    """From a level to the next one: straight down or up where they are above each other."""
    low, high = max(start.left, end.left), min(start.right, end.right)
    xs = (low + high) / 2, (low + high) / 2
    if high - low < _INSET:
        inner = _INSET / 2
        to_right = start.right < end.right
        first = start.right - inner if to_right else start.left + inner
        xs = (first, end.left + inner if to_right else end.right - inner)
    ys = (start.bottom, end.top) if start.bottom > end.top else (start.top, end.bottom)
    style = {"arrowstyle": "-|>", "color": _INK, "lw": 1.1, "shrinkA": 1, "shrinkB": 1}
    axes.annotate("", (xs[1], ys[1]), (xs[0], ys[0]), arrowprops=style)


def _labels(axes: Axes, rows: Sequence[Row], left: float, span: float) -> None:
    """Resolution and width on the left, what it costs on the right."""
    largest = max(row.share for row in rows)
    for level, row in enumerate(rows):
        y = -_PITCH * level - 0.35
        axes.text(0.25 - left, y + 0.06, row.resolution, size=11, weight="bold", color=_INK)
        axes.text(0.25 - left, y - 0.22, f"{row.left.width} channels", size=9, color=_FAINT)
        place = span + 0.45
        axes.text(place, y + 0.16, row.cost, size=9, color=_INK)
        bar = 2.2 * row.share / largest
        shape = canvas.matplotlib.patches.Rectangle((place, y - 0.1), bar, 0.13, fc="#c9d6e6")
        axes.add_patch(shape)
        percent = f"{100 * row.share:.0f} %" if row.share >= 0.005 else "less than 1 %"
        share = f"{percent} of the operations"
        axes.text(place, y - 0.34, share, size=8, color=_FAINT)


def _legend(axes: Axes, rows: Sequence[Row], middle: float, top: float) -> None:
    groups = [group for row in rows for group in (row.left, row.right) if group is not None]
    used = {kind for group in groups for kind in group.blocks}
    shown = [kind for kind in _NAMES if kind in used and kind not in ("down", "up")]
    patch = canvas.matplotlib.patches.Patch
    handles = [patch(color=_COLOURS[kind], label=_NAMES[kind]) for kind in shown]
    if used & {"down", "up"}:
        handles.append(patch(color=_COLOURS["down"], label="half or twice the resolution"))
    legend = axes.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(middle, top - 0.2),
        bbox_transform=axes.transData,
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
    )
    legend.set_zorder(3)
