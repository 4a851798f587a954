"""The headers of a tar archive, read in one pass that is bounded in time and memory.

tarfile by itself ends in silence at a damaged header, returns for ever to a member of negative
size, and reads an extended header of any size into memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.content import describe_file

_BLOCK = tarfile.BLOCKSIZE  # bytes, of a header and of the end mark
_EXTENSIONS = frozenset(  # headers whose content is read with them: long names, and the like
    {
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    }
)
_EXTENSION_LIMIT = 2**20  # bytes of that content
_MOST_MEMBERS = 10_000_000  # of one archive
_LOOKED_AT = 2**16  # bytes after the end mark, which are zeros


class _Header(tarfile.TarInfo):
    """A header whose size is checked before that much is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENSIONS and info.size > _EXTENSION_LIMIT:
            raise tarfile.HeaderError(f"a header of {info.size:,} bytes, which none needs")
        return info


def read_headers(archive: Path, file: Path, take: Callable[[tarfile.TarInfo], None]) -> bool:
    """Hand each header of `file` to `take`; whether anything follows the end mark, which is unread.

    archive: its name in messages. Raises DdpmError for an archive that is damaged or cut short.
    """
    try:
        with tarfile.open(file, "r:", tarinfo=_Header) as opened:
            _pass_over(archive, opened, take)
            end = opened.offset
        return _check_end(archive, file, end)
    except DdpmError:
        raise
    except tarfile.TarError as error:
        what = describe_file(archive)
        if what and "archive" not in what:
            raise DdpmError(f"{archive} is not a tar archive but {what}") from error
        raise _damaged(archive, first_line(error)) from error
    except OSError as error:
        raise DdpmError(f"cannot open {archive}: {error.strerror or error}") from error
    except DAMAGED_FILE as error:
        raise _damaged(archive, first_line(error)) from error


def _pass_over(
    archive: Path, opened: tarfile.TarFile, take: Callable[[tarfile.TarInfo], None]
) -> None:
    for count, info in enumerate(opened, 1):
        opened.members = []  # type: ignore[attr-defined]  # it would keep all of them
        if info.size < 0 or opened.offset < info.offset_data:
            raise _damaged(archive, f"{info.name} has {info.size:,} bytes")
        if count > _MOST_MEMBERS:
            raise DdpmError(
                f"{archive} has more than {_MOST_MEMBERS:,} members; divide it into shards"
            )
        take(info)


def _check_end(archive: Path, file: Path, end: int) -> bool:
    """Whether anything follows the end mark. Raises DdpmError where there is none."""
    with file.open("rb") as opened:
        opened.seek(end)
        mark, after = opened.read(_BLOCK), opened.read(_LOOKED_AT)
    if len(mark) < _BLOCK:
        raise _damaged(archive, f"it ends at byte {end + len(mark):,} without an end mark")
    if mark.strip(b"\0"):
        raise _damaged(archive, f"no header of a file at byte {end:,}")
    return bool(after.strip(b"\0"))


def _damaged(archive: Path, words: str) -> DdpmError:
    return DdpmError(f"{archive}: damaged or cut short ({words}); copy or download it again")
