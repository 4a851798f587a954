"""Atomic files (temporary file, rename; durable ones with fsync), new names, and finite JSON."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddpm_cli.core.errors import DdpmError, first_line

PARTIAL = ".part"  # the suffix of files that are being written, whose names begin with a dot
_TEXT_LIMIT = 64_000_000  # bytes of a file of settings or prompts
_TRIAL = 4096  # bytes written to find out whether there is space

_ELSEWHERE = "choose another place"
_REMEDIES = {  # by the error's number
    errno.ENOSPC: f"free some space, or {_ELSEWHERE}",
    getattr(errno, "EDQUOT", -1): f"free some of your quota, or {_ELSEWHERE}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), or {_ELSEWHERE}",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def atomic_write(path: Path, *, durable: bool) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces it at the end unless the block raises.

    Parent folders are created. `durable`: sync the file and its name to disk, which takes
    milliseconds, so that they survive a power cut; without it the file may then be missing, empty
    or cut short. Raises DdpmError where the disk is full or not writable.
    """
    partial = _temporary(path)
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
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def cannot_write(path: Path, error: OSError) -> DdpmError:
    """The error in one line, with the remedy for its cause: a full disk, a limit, or the place."""
    reason = error.strerror or first_line(error)
    return DdpmError(
        f"cannot write {path}: {reason}; {_REMEDIES.get(error.errno or 0, _ELSEWHERE)}"
    )


@contextmanager
def new_file(
    path: Path, option: str = "--out", *, overwrite: bool = False, numbered: bool = False
) -> Iterator[Path]:
    """Yield the name of a file for the block to write, after checking that it can be written.

    Meanwhile an empty file has the name, so that of two calls at once only one gets it; it is
    removed where the block leaves it empty. Parent folders are created.

    Args:
        path: The name wanted.
        option: The option that it comes from, for messages.
        overwrite: Whether a file of this name may be replaced.
        numbered: Take `NAME-2`, `NAME-3`, … where there is a file of this name.

    Raises:
        DdpmError: The name is taken, or nothing can be written there.
    """
    _check_writable(path)
    names = numbered_names(path) if numbered else iter([path])
    name = next((name for name in names if _create(name)), None)
    if name is None and not (overwrite and path.is_file()):
        fix = ", or add --overwrite" if path.is_file() and not overwrite else ""
        kind = "exists" if path.is_file() else "is there already, and is no file"
        raise DdpmError(f"{path} {kind}; choose another {option}{fix}")
    try:
        yield name or path
    finally:
        if name is not None and not is_written(name):
            name.unlink(missing_ok=True)


def new_folder(path: Path) -> Path:
    """Create `path`, or the first of `NAME-2`, `NAME-3`, … that no other call creates."""
    return next(name for name in numbered_names(path) if create_folder(name))


def numbered_names(path: Path) -> Iterator[Path]:
    """`path`, then `NAME-2`, `NAME-3`, … beside it, with its suffix."""
    yield path
    yield from (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in itertools.count(2))


def _create(path: Path) -> bool:
    """Create an empty file; False where the name is taken."""
    return _unless_taken(path, lambda: path.touch(exist_ok=False))


def create_folder(path: Path) -> bool:
    """Create a folder, and those that hold it; False where the name is taken. Raises DdpmError."""
    return _unless_taken(path, lambda: path.mkdir(parents=True))


def _unless_taken(path: Path, make: Callable[[], None]) -> bool:
    try:
        make()
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            return False
        raise cannot_write(path, error) from error
    return True


def reserve(path: Path) -> None:
    """Allocate the space of a file with holes, so that writing to its memory map cannot fail.

    A process that writes to the map of a file on a full disk is killed. Raises OSError where the
    disk is full; where the system cannot allocate, nothing happens.
    """
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except AttributeError:  # macOS and Windows
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise


def _check_writable(path: Path) -> None:
    """Raise DdpmError where a temporary file of a few kilobytes cannot be written beside `path`."""
    if not path.name:
        raise DdpmError(f"{path} is a folder; a file's name is needed")
    trial = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(bytes(_TRIAL))
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            trial.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


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


def write_bytes(path: Path, content: bytes, *, durable: bool) -> None:
    """Write a file atomically.

    Libraries write to memory, and this to the disk: where it is full, many of them lose the reason,
    or write again when they are destroyed, and print a traceback.
    """
    with atomic_write(path, durable=durable) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode(), durable=durable)


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
        raise ValueError(f"it is larger than {in_words(limit)}")
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
    free = free_space(folder)
    if needed > free:
        raise DdpmError(
            f"{what} need {in_words(needed)} in {folder}, which has {in_words(free)} free; {fix}"
        )


def free_space(folder: Path) -> int:
    """Bytes free on the disk of a folder, existing or not."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def size_below(folder: Path) -> int:
    """Bytes of all files in a folder and below; links are not followed."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += size_below(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:  # deleted meanwhile, or another user's
        return total
    return total


def status(path: Path) -> os.stat_result | None:
    """What the system says of a file; None where it is gone, or a link to nothing."""
    try:
        return path.stat()
    except OSError:
        return None


def in_words(count: float) -> str:
    """A number of bytes as "1.2 GB", "0.3 MB" or "25 kB"."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 or not count else f"{count / 1e3:.0f} kB"


def _sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, where the system supports it."""
    with suppress(OSError):  # Windows and some network file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
