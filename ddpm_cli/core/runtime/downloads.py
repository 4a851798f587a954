"""Verified downloads: pinned by SHA-256, written atomically, one process at a time."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import atomic_write
from ddpm_cli.core.runtime.locks import lock_writing
from ddpm_cli.core.runtime.reporting import Reporter

BLOCK = 2**20  # bytes read at a time
TIMEOUT = 30.0  # seconds without an answer

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class RemoteFile:
    """A file to download whose content is known beforehand."""

    description: str  # for messages, in the plural: "the FID Inception weights"
    url: str  # https only
    sha256: str  # 64 hex digits
    size: int  # bytes
    option: str  # the option that takes a local copy instead: "--weights FILE"
    instead: str = ""  # what does without the file: "ddpm train-classifier …"
    name: str = ""  # of the file in the cache; the address's last part where that says enough

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise ValueError(f"{self.url}: downloads go through https only")

    @property
    def cache_path(self) -> Path:
        """Its path in the cache."""
        return cache_root() / "weights" / (self.name or self.url.rsplit("/", 1)[1])


def sha256_of(path: Path) -> str:
    """A file's SHA-256 as 64 hex digits. Raises DdpmError where it cannot be read."""
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
    """Path of the file in the cache, or in `folder`; downloads it if it is missing or damaged.

    An intact copy in the cache is copied to `folder` instead of downloaded again. Raises
    DdpmError, with instructions for a manual download, where the network does not provide it.
    """
    path = remote.cache_path if folder is None else paths.expanded(folder) / remote.cache_path.name
    if _is_intact(remote, path):
        return path
    with lock_writing(path, reporter.say):
        if _is_intact(remote, path):  # another process downloaded it while this one waited
            return path
        if _is_intact(remote, remote.cache_path):
            with atomic_write(path, durable=False) as partial:
                shutil.copyfile(remote.cache_path, partial)
        else:
            _download(remote, path, reporter, opener or _https)
    return path


def _is_intact(remote: RemoteFile, path: Path) -> bool:
    return path.is_file() and sha256_of(path) == remote.sha256


def _https(url: str) -> AbstractContextManager[IO[bytes]]:
    return urllib.request.urlopen(url, timeout=TIMEOUT)  # type: ignore[no-any-return]


def _download(remote: RemoteFile, path: Path, reporter: Reporter, opener: Opener) -> None:
    digest, received = hashlib.sha256(), 0
    reporter.say(f"downloading {remote.description} from {remote.url} to {path}")
    with (
        atomic_write(path, durable=False) as partial,  # its hash is checked at each use
        partial.open("wb") as file,
        reporter.bar(f"downloading {path.name}", remote.size, "bytes") as bar,
    ):
        for block in _blocks(remote, path, opener):
            file.write(block)
            digest.update(block)
            received += len(block)
            bar.update(received)
        if digest.hexdigest() != remote.sha256:
            content = f"{received:,} bytes with sha256 {digest.hexdigest()}"
            raise DdpmError(f"{remote.url} gave {content}; {_manual_download(remote, path)}")


def _blocks(remote: RemoteFile, path: Path, opener: Opener) -> Iterator[bytes]:
    remaining = remote.size + 1  # one byte too many shows that it is another file
    try:
        with opener(remote.url) as response:
            while remaining > 0 and (block := response.read(min(BLOCK, remaining))):
                remaining -= len(block)
                yield block
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise DdpmError(
            f"{remote.description} are not in the cache and cannot be downloaded here ({reason}); "
            + _manual_download(remote, path)
        ) from error


def _manual_download(remote: RemoteFile, path: Path) -> str:
    """Instructions for a machine without network access."""
    instead = f"; or, offline: {remote.instead}" if remote.instead else ""
    return (
        f"on a machine with internet: curl -LO {remote.url} (sha256 {remote.sha256[:12]}…), then "
        f"copy it to {path} or pass {remote.option}{instead}"
    )
