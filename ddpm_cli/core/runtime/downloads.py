"""Files from the network: pinned by sha256, written whole, fetched by one process."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import atomic_write
from ddpm_cli.core.runtime.reporting import Reporter

BLOCK = 2**20  # bytes read at a time
TIMEOUT = 30.0  # seconds without an answer

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class RemoteFile:
    """A file of the network that may be trusted, because its contents are known beforehand."""

    what: str  # for messages: "the FID Inception weights"
    url: str  # https only
    sha256: str  # 64 hex digits
    size: int  # bytes
    option: str  # the option that takes a local copy instead: "--weights FILE"

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise ValueError(f"{self.url}: downloads go through https only")

    @property
    def place(self) -> Path:
        """Where the cache keeps it."""
        return cache_root() / "weights" / self.url.rsplit("/", 1)[1]


def sha256_of(path: Path) -> str:
    """Hash a file's bytes (64 hex digits). Raises DdpmError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error


def fetch(
    remote: RemoteFile,
    reporter: Reporter,
    opener: Opener | None = None,
    folder: Path | None = None,
) -> Path:
    """Return the file's place in the cache, after downloading it there if it is missing or damaged.

    With `folder` it is brought there; a copy in the cache need not be downloaded again.

    Raises DdpmError, with the way to bring the file by hand, where the network does not give it.
    """
    place = remote.place if folder is None else folder.expanduser() / remote.place.name
    if _intact(remote, place):
        return place
    with alone(place, reporter):
        if _intact(remote, place):  # another process brought it while this one waited
            return place
        if _intact(remote, remote.place):
            with atomic_write(place) as partial:
                shutil.copyfile(remote.place, partial)
        else:
            _download(remote, place, reporter, opener or _https)
    return place


def _intact(remote: RemoteFile, place: Path) -> bool:
    return place.is_file() and sha256_of(place) == remote.sha256


def _https(url: str) -> AbstractContextManager[IO[bytes]]:
    return urllib.request.urlopen(url, timeout=TIMEOUT)  # type: ignore[no-any-return]


def _download(remote: RemoteFile, place: Path, reporter: Reporter, opener: Opener) -> None:
    digest, done = hashlib.sha256(), 0
    reporter.say(f"downloading {remote.what} from {remote.url} to {place}")
    with (
        atomic_write(place) as partial,
        partial.open("wb") as file,
        reporter.bar(f"downloading {place.name}", remote.size, "bytes") as bar,
    ):
        for block in _blocks(remote, opener):
            file.write(block)
            digest.update(block)
            done += len(block)
            bar.update(done)
        if digest.hexdigest() != remote.sha256:
            seen = f"{done:,} bytes with sha256 {digest.hexdigest()}"
            raise DdpmError(f"{remote.url} gave {seen}; {by_hand(remote)}")


def _blocks(remote: RemoteFile, opener: Opener) -> Iterator[bytes]:
    left = remote.size + 1  # one byte too many shows that it is another file
    try:
        with opener(remote.url) as answer:
            while left > 0 and (block := answer.read(min(BLOCK, left))):
                left -= len(block)
                yield block
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error or type(error).__name__
        raise DdpmError(
            f"{remote.what} are not in the cache and cannot be downloaded here ({why}); "
            + by_hand(remote)
        ) from error


def by_hand(remote: RemoteFile) -> str:
    """Say how to bring the file without this machine's network."""
    return (
        f"on a machine with internet: curl -LO {remote.url} ({remote.size:,} bytes, sha256 "
        f"{remote.sha256}); then copy it to {remote.place} or pass {remote.option}"
    )


@contextmanager
def alone(place: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock beside `place`; the system frees it when a process dies."""
    lock = place.with_name(f".{place.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        why = error.strerror or error
        raise DdpmError(f"cannot write {lock}: {why}; set DDPM_CACHE to another folder") from error
    with file:
        if not _locked(file, wait=False):
            reporter.say(f"another process is downloading {place.name}; waiting for it")
            _locked(file, wait=True)
        yield


if sys.platform == "win32":
    import msvcrt

    def _locked(file: IO[bytes], *, wait: bool) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locked(file: IO[bytes], *, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: the rename still keeps the file whole
            return True
        return True
