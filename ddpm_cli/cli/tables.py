"""Tables: by rich on a terminal, as wide as it is; plain columns elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

_GAP = 2  # spaces between columns, of which one is rich's border
_NARROWEST = 12  # cells of a column that is shortened
_HIGH = 10_000  # lines of a page that is not one


@dataclass(frozen=True)
class Column:
    """A column: its cells, and what happens to it where the terminal is narrow."""

    title: str
    cells: Sequence[str]
    right: bool = False  # aligned, as numbers
    needed: int = 0  # the least needed is left out first; 0: it stays
    cut: str = ""  # which part of long cells is left out: start or end; "": none
    styles: Sequence[str] = ()  # of the cells, on a terminal
    links: Sequence[str] = ()  # addresses that the cells lead to, on a terminal

    @property
    def width(self) -> int:
        """Of the widest cell."""
        return max(map(cell_len, (self.title, *self.cells)))


def table(columns: Sequence[Column]) -> str:
    """The lines of a table. Columns without any cell of content are left out."""
    columns = [column for column in columns if any(cell.strip() for cell in column.cells)]
    if not sys.stdout.isatty():
        return _plain(columns)
    width = Console().width
    return _drawn(_fitting(columns, width), width)


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that a terminal of this width has space for."""
    kept = list(columns)
    while _least(kept) > width:
        dispensable = [column for column in kept if column.needed]
        if not dispensable:
            break
        kept.remove(min(dispensable, key=lambda column: column.needed))
    return kept


def _least(columns: Sequence[Column]) -> int:
    """The width that columns need at least, those shortened that can be."""
    widths = (min(c.width, _NARROWEST) if c.cut else c.width for c in columns)
    return sum(widths) + _GAP * (len(columns) - 1)


def _drawn(columns: Sequence[Column], width: int) -> str:
    """As rich draws it, in colours where the terminal has some."""
    widest = _widest(columns, width)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False)
    for column in columns:
        drawn.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in range(len(columns[0].cells)):
        cells = []
        for column in columns:
            text = column.cells[row]
            if column.cut:
                text = shortened(text, widest, column.cut)
            style = Style.parse(column.styles[row]) if column.styles else Style()
            if column.links and column.links[row]:
                style += Style(link=column.links[row])
            cells.append(Text(text, style))
        drawn.add_row(*cells)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=_HIGH)
    with console.capture() as lines:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in lines.get().splitlines())


def _plain(columns: Sequence[Column]) -> str:
    """Aligned columns, whole, whatever their width: for logs, mails and other programs."""
    lines = []
    for row in range(-1, len(columns[0].cells)):
        words = []
        for column in columns:
            text = column.cells[row] if row >= 0 else column.title
            space = " " * (column.width - cell_len(text))
            words.append(space + text if column.right else text + space)
        lines.append((" " * _GAP).join(words).rstrip())
    return "\n".join(lines)


def _widest(columns: Sequence[Column], width: int) -> int:
    """To how many cells those columns are cut that may be, so that all have space."""
    space = width - sum(c.width for c in columns if not c.cut) - _GAP * (len(columns) - 1)
    cuttable = sorted(c.width for c in columns if c.cut)
    while cuttable and cuttable[0] * len(cuttable) <= space:  # it fits, and leaves space to others
        space -= cuttable.pop(0)
    return max(_NARROWEST, space // len(cuttable)) if cuttable else width


def shortened(text: str, width: int, cut: str = "start") -> str:
    """The end of a text, or its beginning, with an ellipsis where it is longer than `width`."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:] if cut == "start" else text[:-1]
    return f"…{text}" if cut == "start" else f"{text}…"
