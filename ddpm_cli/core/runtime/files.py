"""Files appear whole or not at all: write beside the target, flush to disk, rename."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_cli.core.errors import DdpmError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; on leaving without error it becomes `path`.

    The parent folders are made. After this neither a crash nor a power cut undoes it. Raises
    DdpmError where the place cannot be written or is full.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        why = error.strerror or error
        raise DdpmError(
            f"cannot write {path}: {why}; free some space or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def flush_and_drop_cache(descriptor: int) -> None:
    """Bring an open file to the disk and let memory forget it: who reads it next, reads the disk.

    Where the system cannot forget, the next reading may be of memory.
    """
    os.fsync(descriptor)
    with suppress(AttributeError, OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_free_space(folder: Path, needed: int, what: str, mend: str) -> None:
    """Raise DdpmError where a folder, there or yet to be made, has less than `needed` bytes free.

    what: who needs them, in the plural ("the decoded pictures"); mend: what to do about it.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DdpmError(
            f"{what} need {_amount(needed)} in {folder}, which has {_amount(free)} free; {mend}"
        )


def _amount(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    with suppress(OSError):  # Windows and some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
