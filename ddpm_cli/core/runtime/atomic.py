"""Files appear whole or not at all: write beside the target, flush to disk, rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_cli.core.errors import DdpmError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without error it becomes `path`.

    The parent folders are made. Raises DdpmError where the place cannot be written or is full.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        partial = Path(name)
        yield partial
        _flush(partial)
        partial.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        partial.replace(path)
    except OSError as error:
        why = error.strerror or error
        raise DdpmError(
            f"cannot write {path}: {why}; free some space or choose another place"
        ) from error
    finally:
        if partial is not None:
            with suppress(FileNotFoundError):
                partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
