"""Atomic files (temporary file, rename; durable ones with fsync) and finite JSON."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddpm_cli.core.errors import DdpmError

_TEXT_LIMIT = 64_000_000  # bytes of a file of settings or prompts


@contextmanager
def atomic_write(path: Path, *, durable: bool) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces it at the end unless the block raises.

    Parent folders are created. `durable`: sync the file and its name to disk, which takes
    milliseconds, so that they survive a power cut; without it the file may then be missing, empty
    or cut short. Raises DdpmError where the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
        yield partial
        if durable:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise DdpmError(
            f"cannot write {path}: {reason}; free some space or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def is_written(path: Path) -> bool:
    """Whether a file that is never empty exists: a power cut may empty one that is not durable."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def flush_and_drop_cache(descriptor: int) -> None:
    """Sync an open file to disk and drop its pages from the cache, so that reading tests the disk.

    Where posix_fadvise is missing, the next read may come from memory.
    """
    os.fsync(descriptor)
    with suppress(AttributeError, OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_write(path, durable=durable) as partial:
        partial.write_text(text, encoding="utf-8")


def finite(value: Any, spell: Callable[[float], str | None] = lambda _: None) -> Any:
    """The same nested value with NaN and infinities, which JSON lacks, replaced by `spell` of them.

    They are None by default; `str` makes them "nan", "inf" and "-inf".
    """
    if isinstance(value, dict):
        return {key: finite(item, spell) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, spell) for item in value]
    return spell(value) if isinstance(value, float) and not math.isfinite(value) else value


def dumps(document: Any, indent: int | None = 2) -> str:
    """Serialise as JSON; `indent=None` gives one line. Raises ValueError for NaN and infinities."""
    return json.dumps(document, indent=indent, allow_nan=False)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError, or ValueError where it is not JSON in UTF-8."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError where it is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects nested too deeply") from error


def read_text(path: Path) -> str:
    """Read a text file. Raises OSError, or ValueError where it is not UTF-8, or is too large."""
    return read_bytes(path, _TEXT_LIMIT).decode("utf-8-sig")


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a whole file: a regular one, a pipe, or a device, which may never end.

    Raises OSError, or ValueError where it is larger than `limit` bytes.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {_size(limit)}")
    return content


def write_json(path: Path, document: Any, *, durable: bool = True) -> None:
    """Write a JSON file atomically. Raises ValueError for NaN and infinities."""
    write_text(path, dumps(document) + "\n", durable=durable)


def check_free_space(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raise DdpmError where `folder`, existing or not, has less than `needed` bytes free.

    Args:
        folder: Where the files will be written.
        needed: Their size in bytes.
        what: The files, in the plural, for the message ("the decoded images").
        fix: What to do about it, for the message.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DdpmError(
            f"{what} need {_size(needed)} in {folder}, which has {_size(free)} free; {fix}"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, where the system supports it."""
    with suppress(OSError):  # Windows and some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
