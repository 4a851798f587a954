"""Images in Parquet files, as Hugging Face publishes data sets: a row for each image.

Names, labels and captions are read at once, images when they are asked for.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cli.core.data.annotations.captions import Captions, check_sentence, from_sentences
from ddpm_cli.core.data.annotations.classes import Classes, from_indices, from_names
from ddpm_cli.core.data.files import SUFFIXES, UnreadableError
from ddpm_cli.core.data.formats import suffix_of
from ddpm_cli.core.data.readers.parquet_columns import Columns, columns_of, fits, shown
from ddpm_cli.core.data.readers.parquet_parts import SUFFIX, Shards
from ddpm_cli.core.data.readers.parquet_rows import Rows, open_file, reading, row_groups
from ddpm_cli.core.data.readers.tree import digest, file_limit, read_file, too_large
from ddpm_cli.core.errors import DdpmError, listed

_HASHED_BYTES = 2**14  # of the start of each file, and of the end of its footer


class ParquetFiles:
    """The images in one Parquet file, or in the files of one part of a data set.

    path: what the user named.
    """

    sequential = False

    def __init__(self, path: Path, shards: Shards) -> None:
        self.path = path
        self._files = tuple(shards.root / name for name in shards.files)
        self._columns = self._open_all()
        self.names = tuple(self._name_all(shards.files))
        if not self.names:
            raise DdpmError(f"{path} holds no rows")
        notices = (f"{path}: {notice}" for notice in self._columns.notices)
        self.notices = (*shards.notices, *notices)

    def _open_all(self) -> Columns:
        """Read the footers: row groups, and columns, which all files have alike."""
        groups, counts, found = [], [], []
        for number, file in enumerate(self._files):
            with reading(file):
                opened = open_file(file)
                found.append(columns_of(opened.schema_arrow, file))
                groups += row_groups(opened.metadata, number, found[0].image)
                counts.append(opened.metadata.num_rows)
            if not fits(found[0], found[-1]):
                raise DdpmError(f"{file} has other columns or class names than {self._files[0]}")
        self._ends = list(accumulate(counts))
        self._rows = Rows(self._files, groups, found[0].image)
        return found[0]

    def _name_all(self, shards: tuple[str, ...]) -> Iterator[str]:
        """Name the rows by file and number, with the suffix of the image's own name."""
        for file, shard in enumerate(shards):
            stem = shard.removesuffix(SUFFIX)
            for row, path in enumerate(self._paths(file)):
                suffix = suffix_of(path) if isinstance(path, str) else ""
                yield f"{stem}/{row:06d}{suffix if suffix in SUFFIXES else ''}"

    @property
    def blocks(self) -> tuple[range, ...]:
        """The indices of each row group, which is decoded at once where it is not too large."""
        return self._rows.blocks

    @property
    def captioned(self) -> bool:
        """Whether there is a column of captions."""
        return bool(self._columns.text)

    def read(self, index: int) -> bytes:
        """Read the bytes of one image, from any thread or process. Raises UnreadableError."""
        number = bisect_right(self._ends, index)
        file, row = self._files[number], index - (self._ends[number - 1] if number else 0)
        place = f"{file} row {row}"
        with reading(file, UnreadableError):
            cell: Any = self._rows.value(index)
        value, path = cell, None
        if isinstance(cell, dict):
            value, path = cell.get("bytes"), cell.get("path")
        if value is None and path:
            return _read_beside(file, path, place)
        if value is None:
            raise UnreadableError(f"{place} has no image (null)")
        if len(value) > file_limit():
            raise UnreadableError(too_large(place, len(value)))
        return bytes(value)

    def classes(self) -> Classes:
        """Those of the column of labels, named by the schema's metadata where it names them."""
        column = self._columns.label
        labels = list(self._values(column)) if column else []
        where = f"the column {column}"
        if self._columns.classes:
            return from_indices(self.names, labels, self._columns.classes, where)
        if column:
            names = [None if label in (None, "") else str(label) for label in labels]
            return from_names(self.names, names, where)
        return Classes((), np.full(len(self.names), -1))

    def captions(self) -> Captions:
        """Those of the column of texts. Raises DdpmError where not all images have one."""
        column = self._columns.text
        if not column:
            raise DdpmError(
                f"{self.path} holds no captions: they would be a column text, caption or prompt"
            )
        texts: list[list[str]] = []
        for name, value in zip(self.names, self._values(column), strict=True):
            sentences = [value] if isinstance(value, str) else value or []
            texts.append([sentence.strip() for sentence in sentences if sentence is not None])
            for sentence in texts[-1]:
                check_sentence(sentence, str(self.path), name)
        missing = [name for name, sentences in zip(self.names, texts, strict=True) if not sentences]
        if missing:
            raise DdpmError(
                f"{self.path}: {len(missing)} of {len(self.names)} images have no caption in the "
                f"column {column}: {listed(missing)}. Write them, or add --no-captions"
            )
        return replace(from_sentences(f"the column {column}", texts), files=frozenset({column}))

    def unread(self, captions: Captions | None) -> str:
        """One line on the columns that are not read; "" for none."""
        text, others = self._columns.text, self._columns.others
        lines = []
        if text and (captions is None or text not in captions.files):
            why = "captions are not learned; --captions does"
            if captions is not None:
                why = f"the captions are those of {captions.origin}"
            lines.append(f"{shown([text])} ({why})")
        lines += [shown(others)] if others else []
        return f"{self.path}: not read: {', '.join(lines)}" if lines else ""

    def fingerprint(self) -> str:
        """Hash names and sizes of the files, the start and the footer of each."""
        own = (f"{file.name}\0{_status(file)[:1]}\0{_hash_ends(file)}" for file in self._files)
        return digest(chain(own, (f"{path}\0{_status(at)[:1]}" for path, at in self._beside())))

    def cache_key(self) -> str:
        """Hash names, sizes and modification times."""
        own = ((file.name, file) for file in self._files)
        return digest(f"{name}\0{_status(file)}" for name, file in chain(own, self._beside()))

    def _beside(self) -> Iterator[tuple[str, Path]]:
        """The images that lie in files beside the tables, where rows have no bytes."""
        for number, file in enumerate(self._files):
            if self._rows.lacks_bytes(number):
                paths = (path for path in self._paths(number) if path)
                yield from ((path, file.parent / path) for path in paths if "\0" not in path)

    def _paths(self, file: int) -> Iterator[Any]:
        """The name of each image of a file, as its row has it; None without one."""
        column = self._columns.path
        if not column:
            first = self._ends[file - 1] if file else 0
            yield from [None] * (self._ends[file] - first)
            return
        for value in _column(self._files[file], column):
            yield value["path"] if value is not None else None

    def _values(self, column: str) -> Iterator[Any]:
        """One column of all files as Python has it."""
        for file in self._files:
            yield from _column(file, column)


def _column(file: Path, column: str) -> Iterator[Any]:
    with reading(file):
        for batch in open_file(file).iter_batches(columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()


def _read_beside(file: Path, path: str, place: str) -> bytes:
    """Read an image that lies beside its table, and not outside of the table's folder."""
    with reading(file, UnreadableError):
        real = os.path.realpath(file.parent / path)
        inside = Path(real).is_relative_to(os.path.realpath(file.parent))
    if not inside:
        raise UnreadableError(f"{place}: {path[:200]} lies outside of {file.parent}/: not read")
    try:
        return read_file(Path(real))
    except UnreadableError as error:
        raise UnreadableError(f"{place}: {error}") from error


def _status(file: Path) -> tuple[int, ...]:
    """Size in bytes and modification time; () for a file that is not there."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def _hash_ends(file: Path) -> str:
    """SHA-256 of the start of a file and of its end, where the footer lies."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_HASHED_BYTES)
            opened.seek(-min(_HASHED_BYTES, file.stat().st_size), os.SEEK_END)
            return hashlib.sha256(start + opened.read()).hexdigest()
    except OSError:
        return ""
