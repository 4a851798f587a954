"""The folders that are written to: speed, space, locks; caches and the weights in them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ddpm_cli.core.doctor.findings import NOTE, OK, PROBLEM, Finding
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.downloads import RemoteFile
from ddpm_cli.core.runtime.files import in_words, size_below
from ddpm_cli.core.runtime.run_directory import runs_folder

_SIZE, _BLOCK = 32 * 2**20, 2**20  # bytes of the file that is written for a measurement
_SLOW = 20e6  # bytes a second, written
_LITTLE = 2_000_000_000  # bytes of free space


def runs() -> Sequence[Finding]:
    """The folder of runs; one that cannot be written to stops training."""
    return [_folder("runs folder", runs_folder(), "--out or DDPM_RUNS names another", PROBLEM)]


def cache() -> Sequence[Finding]:
    """The cache, and how much is in it."""
    root = cache_root()
    finding = _folder("cache", root, "DDPM_CACHE names another", NOTE)
    parts = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    sizes = {path.name: size_below(path) for path in sorted(parts)}
    text = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items() if size)
    full = Finding("cache", OK, f"holds {text or 'nothing yet'}")
    return [finding, full]


def weights() -> Sequence[Finding]:
    """The weights in the cache, and whether they are those that were published."""
    from ddpm_cli.core.metrics.networks.named import NETWORKS

    of_fid, *others = (network.published for network in NETWORKS.values())
    if not of_fid.cache_path.is_file():
        advice = "fid downloads them at its first use; without network: ddpm fetch-weights --to DIR"
        found = [Finding("FID weights", OK, "not in the cache yet", advice)]
    else:
        found = [_published("FID weights", of_fid)]
    cached = [remote for remote in others if remote.cache_path.is_file()]
    topics = (remote.description.removeprefix("the ") for remote in cached)
    return [*found, *map(_published, topics, cached)]


def _published(topic: str, remote: RemoteFile) -> Finding:
    """Whether a file in the cache is the one that was published."""
    from ddpm_cli.core.runtime.downloads import sha256_of

    path, digest = remote.cache_path, sha256_of(remote.cache_path)
    if digest != remote.sha256:
        advice = f"delete it; it is downloaded anew (expected {remote.sha256})"
        return Finding(topic, PROBLEM, f"{path} is damaged: sha256 {digest}", advice)
    return Finding(topic, OK, f"{path}, sha256 {digest[:12]}… as published")


def _folder(topic: str, folder: Path, elsewhere: str, unusable: str) -> Finding:
    """Whether a folder can be written to and locked, how fast, and its free space."""
    place = folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        write, read, locked = _measured(place)
        free = shutil.disk_usage(place).free
    except OSError as error:
        text = f"{folder} cannot be written to: {error.strerror or error}"
        return Finding(topic, unusable, text, elsewhere)
    text = (
        f"{folder}, {in_words(free)} free, writes {in_words(round(write))}/s and reads "
        f"{in_words(round(read))}/s, locks "
        f"{'work' if locked else 'do not work'}"
    )
    if free < _LITTLE:
        return Finding(topic, NOTE, text, f"free some space; {elsewhere}")
    if not locked:
        advice = f"never start two trainings in one run directory; {elsewhere}"
        return Finding(topic, NOTE, text, advice)
    if write < _SLOW:
        return Finding(topic, NOTE, text, f"saves and decoded images take long; {elsewhere}")
    return Finding(topic, OK, text)


def _measured(folder: Path) -> tuple[float, float, bool]:
    """Bytes a second written (fsync) and read of a temporary file there, and whether it locks."""
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=folder) as file:
        started = time.monotonic()
        for _ in range(_SIZE // _BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.monotonic()
        if hasattr(os, "posix_fadvise"):  # else they are read from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        while file.read(_BLOCK):
            pass
        read = time.monotonic()
        seconds = max(written - started, 1e-6), max(read - written, 1e-6)
        return _SIZE / seconds[0], _SIZE / seconds[1], _locks(file.fileno())


def _locks(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows, which has others
        return True
    except OSError:
        return False
    return True
