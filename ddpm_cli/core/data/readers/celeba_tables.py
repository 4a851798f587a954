"""The tables of CelebA: attributes of images, and the official parts.

They are read as they are published, list_attr_celeba.txt and list_eval_partition.txt, or as Kaggle
has them, in .csv.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ddpm_cli.core.config.fields import is_whole_number, shortened
from ddpm_cli.core.errors import DdpmError

ATTRIBUTES, PARTS = "list_attr_celeba", "list_eval_partition"
_OTHERS = ("identity_celeba", "list_bbox_celeba", "list_landmarks_")  # tables that are not read

Rows = Iterator[tuple[int, list[str]]]
"""The number of a line and its words."""


class Tables(NamedTuple):
    """The tables of a CelebA, by their paths, and a function that reads them."""

    attributes: str
    parts: str | None  # None: it is not divided
    text: Callable[[str], str]


def tables_among(texts: Iterable[str], text: Callable[[str], str]) -> Tables | None:
    """The tables of a CelebA among the texts beside images; None where these are no CelebA."""
    found: dict[str, str] = {}
    known = [name for name in texts if stem(name) in (ATTRIBUTES, PARTS)]
    for name in sorted(known, key=lambda name: (len(name), name), reverse=True):
        if name.endswith((".txt", ".csv")):
            found[stem(name)] = name  # the shortest path counts
    if ATTRIBUTES not in found:
        return None
    return Tables(found[ATTRIBUTES], found.get(PARTS), text)


def attribute_rows(table: str, text: str) -> tuple[list[str], Rows]:
    """The names of the attributes, and the rows. Raises DdpmError for no such table."""
    rows = _rows(table, text)
    first = next(rows, (0, []))[1]
    if table.endswith(".csv"):
        return _named(table, first[1:]), rows
    if len(first) != 1 or not is_whole_number(first[0]) or len(first[0]) > 18:
        raise DdpmError(f"{table}: the first line should be the number of images")
    names = _named(table, next(rows, (0, []))[1])
    return names, _counted(table, rows, int(first[0]))


def _named(table: str, names: list[str]) -> list[str]:
    if not names or len(set(names)) < len(names):
        raise DdpmError(f"{table} has no line of attributes' names, each of them once")
    return names


def _counted(table: str, rows: Rows, count: int) -> Rows:
    """The rows. Raises DdpmError at the end where there are not `count` of them."""
    found = 0
    for row in rows:
        found += 1
        yield row
    if found != count:
        raise DdpmError(
            f"{table} announces {count:,} rows and has {found:,}: copy it again, or correct its "
            "first line"
        )


def read_parts(table: str, text: str) -> dict[str, int]:
    """The part, 0 to 2, of each image. Raises DdpmError for other values."""
    rows = _rows(table, text)
    if table.endswith(".csv"):
        next(rows, None)
    parts: dict[str, int] = {}
    for line, words in rows:
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise DdpmError(
                f"{table}, line {line} should be an image and 0, 1 or 2 (train, valid or test), "
                f"not {shortened(' '.join(words))}"
            )
        parts[stem(words[0])] = int(words[1])
    return parts


def _rows(table: str, text: str) -> Rows:
    """The lines of a table that are not empty, divided at spaces, or at the commas of a .csv."""
    lines = text.splitlines()
    split = csv.reader(lines) if table.endswith(".csv") else (line.split() for line in lines)
    try:
        for number, words in enumerate(split, 1):
            if words:
                yield number, [word.strip() for word in words]
    except csv.Error as error:
        raise DdpmError(f"{table} is not a table: {error}") from error


def stem(name: str) -> str:
    """The name of an image without folder and suffix, by which the tables know it."""
    return posixpath.splitext(posixpath.basename(name))[0]


def is_table(name: str) -> bool:
    """Whether a text is one of the tables of CelebA, also one that is not read here."""
    known = stem(name).lower()
    return known in (ATTRIBUTES, PARTS) or known.startswith(_OTHERS)
