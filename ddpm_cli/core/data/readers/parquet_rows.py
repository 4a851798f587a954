"""The rows of one column of Parquet files, by index, from any thread or process.

A row group is decoded at once where it is small; of a larger one, which iterates forward only, a
piece at a time. Of the decoded pieces the last few are kept.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime.content import describe_file

_PIECE = 32 * 2**20  # bytes of a piece, by what the file says of itself
_KEPT = 128 * 2**20  # bytes of decoded pieces kept in each process, and one piece at least
_EXPANDED = 2**30  # bytes of a piece, at most: repeated values are stored once
_BATCH = 64  # rows decoded at a time
_BUFFER = 2**20  # bytes read from disk at a time
_ENCRYPTED = b"PARE"  # in place of PAR1, where the footer is encrypted, too


@dataclass(frozen=True)
class Group:
    """A row group of one of the files."""

    file: int  # its index
    index: int  # in the file
    rows: int
    piece: int  # rows of it that are decoded at a time
    lacks_bytes: bool  # some of its images may lie in files of their own


@contextmanager
def reading(file: Path, error: type[DdpmError] = DdpmError) -> Iterator[None]:
    """Whatever pyarrow raises on a damaged file becomes an error that names the file."""
    try:
        yield
    except DdpmError:
        raise
    except FileNotFoundError as missing:
        raise error(f"{file} is not there any more") from missing
    except MemoryError as memory:
        raise error(f"{file}: more memory is needed than there is") from memory
    except Exception as damage:  # ArrowException, OSError, UnicodeDecodeError, ...
        raise error(f"{file}{_what_is_wrong(file, first_line(damage))}") from damage


def _what_is_wrong(file: Path, words: str) -> str:
    """What a file is that is no Parquet file, or else that it is damaged: ": cut short (…)"."""
    what = describe_file(file)
    if what and "Parquet" not in what:
        return f" is not a Parquet file but {what}"
    if "crypt" in words.lower() or _is_encrypted(file):
        return " is encrypted; write it without encryption"
    if "Permission denied" in words:
        return ": permission denied"
    return f": damaged or cut short ({words}); copy or download it again"


def _is_encrypted(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(4) == _ENCRYPTED
    except OSError:
        return False


def open_file(file: Path) -> Any:
    """A pyarrow.parquet.ParquetFile. Raises DdpmError where pyarrow is missing."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DdpmError(
            f"{file}: Parquet files need the library pyarrow: pip install 'ddpm-cli[parquet]'"
        ) from error
    if not file.is_file():  # opening a pipe would wait for ever
        raise DdpmError(f"{file} is not a regular file")
    return ParquetFile(file, buffer_size=_BUFFER, page_checksum_verification=True)


def row_groups(metadata: Any, file: int, column: str) -> list[Group]:
    """The row groups of a file, from its footer, with the sizes of this column."""
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        every = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
        chunks = {path: c for path, c in every.items() if f"{path}.".startswith(f"{column}.")}
        size = sum(chunk.total_uncompressed_size for chunk in chunks.values())
        encoded = chunks.get(column, chunks.get(f"{column}.bytes"))
        known = encoded.statistics if encoded is not None else None
        lacks = encoded is None or (known is not None and bool(known.null_count))
        piece = _piece_rows(group.num_rows, size)
        groups.append(Group(file, index, group.num_rows, piece, lacks))
    return groups


def _piece_rows(rows: int, size: int) -> int:
    """Rows of a piece: whole batches, or fewer than one; all where the group is small."""
    fitting = rows * _PIECE // max(1, size)
    if fitting >= rows:
        return max(1, rows)
    return fitting // _BATCH * _BATCH or max(1, fitting)


@dataclass
class _Opened:
    """What one process has opened and decoded."""

    process: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    pieces: OrderedDict[tuple[int, int], Any] = field(default_factory=OrderedDict)
    file: tuple[int, Any] | None = None  # the last one, by its index
    group: int = -1  # of which batches are being read
    batches: Iterator[Any] = field(default_factory=lambda: iter(()))
    position: int = 0  # the next piece that they yield


class Rows:
    """One column's values by index over all files."""

    def __init__(self, files: Sequence[Path], groups: Sequence[Group], column: str) -> None:
        self._files, self._groups, self._column = tuple(files), tuple(groups), column
        self._ends = list(accumulate(group.rows for group in groups))
        self._opened: _Opened | None = None

    @property
    def blocks(self) -> tuple[range, ...]:
        """The indices of each row group: what is read at once where it is read in order."""
        return tuple(
            range(end - group.rows, end)
            for group, end in zip(self._groups, self._ends, strict=True)
            if group.rows
        )

    def lacks_bytes(self, file: int) -> bool:
        """Whether some images of a file may lie in files of their own."""
        return any(group.lacks_bytes for group in self._groups if group.file == file)

    def value(self, index: int) -> Any:
        """One value as Python has it: bytes, a dictionary of bytes and path, or None.

        Raises whatever pyarrow does.
        """
        number = self._group_of(index)
        within = index - self._start(number)
        piece, row = divmod(within, self._groups[number].piece)
        return self._piece(number, piece)[row].as_py()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def _group_of(self, index: int) -> int:
        return bisect_right(self._ends, index)

    def _start(self, number: int) -> int:
        return self._ends[number] - self._groups[number].rows

    def _piece(self, number: int, piece: int) -> Any:
        # A forked process shares its parent's file position and perhaps an acquired lock, so each
        # process opens the files itself.
        opened = self._opened
        if opened is None or opened.process != os.getpid():
            opened = self._opened = _Opened()
        with opened.lock:
            if (number, piece) not in opened.pieces:
                opened.pieces[number, piece] = self._decode(opened, number, piece)
                _forget(opened.pieces)
            opened.pieces.move_to_end((number, piece))
            return opened.pieces[number, piece]

    def _decode(self, opened: _Opened, number: int, piece: int) -> Any:
        """Decode the pieces of a row group up to this one."""
        if opened.group != number or opened.position > piece:
            opened.group = -1  # until the batches are there
            opened.batches = self._batches(opened, self._groups[number])
            opened.group, opened.position = number, 0
        try:
            while True:
                decoded = self._next(opened, self._groups[number])
                opened.position += 1
                if opened.position > piece:
                    return decoded
        except BaseException:
            opened.group, opened.file = -1, None
            raise

    def _batches(self, opened: _Opened, group: Group) -> Iterator[Any]:
        if opened.file is None or opened.file[0] != group.file:
            opened.file = (group.file, open_file(self._files[group.file]))
        batches: Iterator[Any] = opened.file[1].iter_batches(
            batch_size=min(_BATCH, group.piece),
            row_groups=[group.index],
            columns=[self._column],
            use_threads=False,
        )
        return batches

    def _next(self, opened: _Opened, group: Group) -> Any:
        """The next piece. Raises ValueError where the file has other rows than it says."""
        from pyarrow import chunked_array

        wanted = min(group.piece, group.rows - opened.position * group.piece)
        arrays: list[Any] = []
        rows = size = 0
        while rows < wanted:
            batch = next(opened.batches, None)
            if batch is None:
                break
            arrays.append(batch.column(0))
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if size > _EXPANDED:
                raise ValueError(f"{rows} rows expand to {size:,} bytes")
        if rows != wanted:
            raise ValueError(f"row group {group.index} has other rows than its footer says")
        return chunked_array(arrays)


def _forget(pieces: OrderedDict[tuple[int, int], Any]) -> None:
    """Leave the last pieces that fit into the memory, and one at least."""
    size = sum(piece.nbytes for piece in pieces.values())
    while size > _KEPT and len(pieces) > 1:
        size -= pieces.popitem(last=False)[1].nbytes
