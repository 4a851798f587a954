"""Tables and texts beside images, which say something of each."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ddpm_cli.core.runtime.files import parse_json

FILE_COLUMNS = ("file_name", "file", "filename", "image")
TEXT_COLUMNS = ("text", "caption", "prompt")

_DELIMITERS = ",;\t|"

Row = dict[str | None, Any]  # by column, in lower case; None: columns that the header lacks


def rows(content: str, table: str, images: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its place in it: "line 3".

    images: the names that a .json may have as keys. Raises ValueError with the place of damage.
    """
    suffix = posixpath.splitext(table)[1].lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(content, table)
    elif suffix == ".jsonl":
        yield from _json_lines(content, table)
    else:
        try:
            document = parse_json(content)
        except ValueError as error:
            if content.lstrip()[:1] == "{" and "\n" in content.strip():
                yield from _json_lines(content, table)
                return
            raise ValueError(f"{table}: {error}") from error
        yield from _json_rows(document, table, images)


def first(row: Row, columns: Sequence[str]) -> tuple[str, Any]:
    """The first of the columns that a row has, and its value; None without any."""
    return next(((c, row[c]) for c in columns if row.get(c) is not None), ("", None))


def beside(images: Sequence[str], texts: Iterable[str], suffix: str) -> Iterator[tuple[str, str]]:
    """Pairs (file with the suffix in any case, image): a.txt or a.png.txt beside a.png."""
    files: dict[str, str] = {}
    for name in texts:
        stem, end = posixpath.splitext(name)
        if end.lower() == suffix:
            files[stem] = name
    for image in images if files else ():
        file = files.get(posixpath.splitext(image)[0], files.get(image))
        if file is not None:
            yield file, image


def image_of(table: str, file: str) -> str:
    """The name of an image that a table in its folder gives, relative to the root."""
    folder = table[: table.rfind("/") + 1]
    return posixpath.normpath(folder + file.replace("\\", "/"))


def lower(row: dict[Any, Any]) -> Row:
    """A row with its columns in lower case, as spreadsheets do not write them."""
    return {key.strip().lower() if isinstance(key, str) else key: row[key] for key in row}


def _csv_rows(content: str, table: str) -> Iterator[tuple[str, Row]]:
    header = content.lstrip("\r\n").splitlines()[:1]

    known = {*FILE_COLUMNS, *TEXT_COLUMNS}

    def columns_known(delimiter: str) -> int:
        names = header[0].split(delimiter) if header else []
        return len(known.intersection(name.strip(' "').lower() for name in names))

    delimiter = max(_DELIMITERS, key=columns_known)
    reader = csv.DictReader(
        io.StringIO(content, newline=None), strict=True, delimiter=delimiter, skipinitialspace=True
    )
    try:
        yield from ((f"line {reader.line_num}", lower(row)) for row in reader)
    except csv.Error as error:
        place = f"{table} line {reader.line_num + 1}"  # the first line of the row
        raise ValueError(f"{place}: {error}; is a quote left open?") from error


def _json_lines(content: str, table: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{table} line {number}: {error}") from error
            yield f"line {number}", lower(row) if isinstance(row, dict) else {"": row}


def _json_rows(document: Any, table: str, images: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a JSON document: a list of objects, or an object of captions by file."""
    if isinstance(document, list):
        for number, row in enumerate(document, 1):
            yield f"row {number}", lower(row) if isinstance(row, dict) else {"": row}
    elif isinstance(document, dict):
        known = set(map(posixpath.normpath, images))
        if any(image_of(table, file) in known for file in document):
            for file, value in document.items():
                row = lower(value) if isinstance(value, dict) else {"text": value}
                yield f"entry {file!r}", {**row, "file_name": file}
