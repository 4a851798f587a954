"""Which images a grid shows, in which places, and under which titles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ddpm_cli.core.conditioning.labels import label_name
from ddpm_cli.core.config.fields import is_whole_number, one_of, shortened
from ddpm_cli.core.config.network_inputs import JOIN
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model

KINDS = ("class", "prompt")
_LIMIT = 100  # images, unless the rows and columns are given; and rows or columns
_TITLES = 12  # columns with titles of a word or two each, at most
_LONG, _LONG_TITLES = 16, 6  # letters from which on a title is long; columns with such titles


@dataclass(frozen=True)
class GridLayout:
    """How grid.png is laid out, as the options say it; without them, as the conditions suggest."""

    size: tuple[int, int] | None = None  # rows, columns
    by: str | None = None  # one of KINDS, of which each row has one

    @classmethod
    def parse(cls, size: str | None, by: str | None) -> GridLayout:
        """The values of --grid such as 8x8, and --grid-by. Raises UsageError."""
        if by is not None:
            one_of("--grid-by", by, KINDS)
        return cls(None if size is None else _rows_and_columns(size), by)

    def check_format(self, suffix: str) -> None:
        """Raise UsageError where there will be no grid.png, but in a folder ("")."""
        if suffix and self != DEFAULT:
            raise UsageError(
                f"--grid and --grid-by are of the grid.png of a folder, and {suffix} has none"
            )

    def check(self, model: Model) -> None:
        """Raise UsageError where a model has no such condition, or the grid would be too large."""
        network = model.config.network
        there = {"class": bool(network.classes), "prompt": network.text is not None}
        if self.by is not None and not there[self.by]:
            kind = "classes" if self.by == "class" else "captions"
            raise UsageError(f"--grid-by {self.by}: {model.path} was trained without {kind}")
        limit, pixels = files.max_pixels(), prod(network.size) * prod(self.size or (1,))
        if limit is not None and pixels > limit:
            rows, columns = self.size or (1, 1)
            raise UsageError(
                f"--grid {rows}x{columns} would have {pixels:,} pixels, and programs read up to "
                f"{limit:,}"
            )

    def arrange(self, model: Model, request: GenerationRequest) -> Arrangement:
        """The places of the first images that there is room for."""
        names = (name_of(model, request, index, self.by) for index in range(request.count))
        if self.by is not None:
            order = {name: number for number, name in enumerate(model.config.network.classes)}
            rows = _rows_by_name(names, self.size)
            return _by_name(dict(sorted(rows.items(), key=lambda row: order.get(row[0], -1))))
        first = list(itertools.islice(names, _LIMIT if self.size is None else prod(self.size)))
        return _in_order(first, _columns(first) if self.size is None else self.size[1])


DEFAULT = GridLayout()


@dataclass(frozen=True)
class Arrangement:
    """A grid: the image in each place, row by row, and what is written around them."""

    places: tuple[int | ImageArray | None, ...]  # an image's index, or another one; None: empty
    columns: int
    words: Words

    def draw(self, image: Callable[[int], ImageArray]) -> ImageArray:
        """The grid of the images (C, H, W) that a function returns."""
        tiles = [image(place) if isinstance(place, int) else place for place in self.places]
        shown = next(tile for tile in tiles if tile is not None)
        empty = np.full_like(shown, 255)
        stacked = np.stack([empty if tile is None else tile for tile in tiles])
        return sheets.sheet(stacked, self.columns, self.words)


def name_of(model: Model, request: GenerationRequest, index: int, kind: str | None = None) -> str:
    """What an image shows: its prompt, else its class, or that of one kind; "" without."""
    label, prompt = request.label_and_prompt(index)
    if prompt is not None and kind != "class":
        return prompt
    if label is None or kind == "prompt":
        return ""
    return label_name(label, model.config.network.classes).replace(JOIN, f" {JOIN} ")


def _rows_and_columns(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(is_whole_number(side) for side in sides):
        sides = []
    size = tuple(int(side[:9]) for side in sides)
    if not size or not all(1 <= side <= _LIMIT for side in size):
        raise UsageError(
            f"--grid takes rows x columns such as 8x8, each from 1 to {_LIMIT}, not "
            f"{shortened(text)}"
        )
    return size[0], size[1]


def _rows_by_name(names: Iterable[str], size: tuple[int, int] | None) -> dict[str, list[int]]:
    """The images of each name, of the first names and images that there is room for."""
    rows: dict[str, list[int]] = {}
    most, across = size or (_LIMIT, _LIMIT)
    for index, name in enumerate(names):
        if name in rows or len(rows) < most:
            row = rows.setdefault(name, [])
            if len(row) < across:
                row.append(index)
    if size is None:
        across = max(1, _LIMIT // len(rows))
    return {name: row[:across] for name, row in rows.items()}


def _by_name(rows: dict[str, list[int]]) -> Arrangement:
    """A row for each name, which is its title."""
    columns = max(map(len, rows.values()))
    padded = ([*row, *[None] * (columns - len(row))] for row in rows.values())
    return Arrangement(tuple(itertools.chain(*padded)), columns, Words(rows=tuple(rows)))


def _in_order(names: Sequence[str], columns: int) -> Arrangement:
    """Images in order, with the names as the heading, as titles or as captions."""
    columns = min(columns, len(names))
    down = [names[column::columns] for column in range(columns)]
    across = [names[start : start + columns] for start in range(0, len(names), columns)]
    words = Words()
    if _same(names):
        words = replace(words, heading=names[0])
    elif all(map(_same, down)):
        words = replace(words, columns=[column[0] for column in down])
    elif all(map(_same, across)):
        words = replace(words, rows=[row[0] for row in across])
    else:
        words = replace(words, captions=names)
    return Arrangement(tuple(range(len(names))), columns, words)


def _columns(names: Sequence[str]) -> int:
    """The columns of a grid: of one name each, or such that rows are, or else near square."""
    count, square = len(names), sheets.near_square(len(names))
    most = _LONG_TITLES if max(map(len, names)) > _LONG else _TITLES
    turns = (p for p in range(1, most + 1) if all(map(str.__eq__, names, names[p:])))
    period = next(turns, most + 1)
    if 1 < period <= most:
        return min(count, period * max(1, round(square / period)))
    runs = [len(list(group)) for _, group in itertools.groupby(names)]
    even = len(set(runs[:-1])) == 1 and runs[-1] <= runs[0]  # the last may be cut short
    return runs[0] if even and 1 < runs[0] <= _TITLES else square


def _same(names: Sequence[str]) -> bool:
    return len(set(names)) == 1
