"""Compressed tar archives, decompressed into the cache so that they can be read by index."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import (
    atomic_write,
    cannot_write,
    check_free_space,
    free_space,
    in_words,
    is_written,
)
from ddpm_cli.core.runtime.locks import lock_writing
from ddpm_cli.core.runtime.reporting import Reporter

_OPENERS: dict[str, Callable[..., Any]] = {
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
COMPRESSED = tuple(_OPENERS)

_PIECE = 2**22  # bytes
_EXPANSION = 200  # times that archives of images are smaller than their content, at most
_SMALL = 2**30  # bytes of content that are let in, whatever the expansion
_SPARE = 2**30  # bytes of the disk that are left free


def decompressed(archive: Path, reporter: Reporter) -> Path:
    """An archive without compression: itself, or what was made of it in the cache.

    Raises DdpmError where it is damaged, expands too much, or does not fit on the disk.
    """
    suffix = next((s for s in COMPRESSED if archive.name.lower().endswith(s)), "")
    if not suffix:
        return archive
    try:
        status = archive.stat()
    except OSError as error:
        raise DdpmError(f"cannot open {archive}: {error.strerror or error}") from error
    identity = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    key = sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = archive.name[: -len(suffix)][:80]
    path = cache_root() / "archives" / f"{name}-{key}.tar"
    with lock_writing(path, reporter.say):
        if not is_written(path):
            fix = "unpack the archive, or set DDPM_CACHE to a folder on a larger disk"
            check_free_space(path.parent, status.st_size, "the decompressed archive", fix)
            reporter.say(f"{archive}: decompressing into {path} (an unpacked .tar needs no copy)")
            _decompress(archive, _OPENERS[suffix], status.st_size, path)
    return path


def _decompress(archive: Path, opener: Callable[..., Any], size: int, path: Path) -> None:
    try:
        with opener(archive, "rb") as source, atomic_write(path, durable=False) as partial:
            try:
                with partial.open("wb") as target:
                    _copy(archive, source, target, max(_SMALL, _EXPANSION * size))
            except OSError as error:
                if isinstance(error, gzip.BadGzipFile):
                    raise
                raise cannot_write(path, error) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DdpmError(
            f"{archive}: damaged or cut short ({first_line(error)}); copy or download it again"
        ) from error


def _copy(archive: Path, source: IO[bytes], target: IO[bytes], limit: int) -> None:
    written = 0
    while piece := source.read(_PIECE):
        written += len(piece)
        if written > limit:
            raise DdpmError(
                f"{archive} expands to more than {in_words(limit)}, {_EXPANSION} times its size; "
                "if you trust it, unpack it and give its folder"
            )
        if free_space(Path(target.name).parent) < _SPARE + len(piece):
            raise DdpmError(
                f"{archive}: the disk of the cache is full after {in_words(written)}; unpack the "
                "archive, or set DDPM_CACHE to a folder on a larger disk"
            )
        target.write(piece)
