"""Statistics and features of inputs that were scored before, in the cache by their content.

The least recently used go when all together are larger than LIMIT.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ddpm_cli.core.data import files as image_files
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.collect import InputFeatures, Keep, collect
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.statistics import Statistics, read_statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import size_below
from ddpm_cli.core.runtime.reporting import Reporter

LIMIT = 8 * 2**30  # bytes: about 20 inputs of 50,000 images
_LAYOUT = 1  # of the entries; raise it where they, or the features of an image, change
_STATISTICS = "statistics.npz"


def collect_cached(
    images: ImageSet,
    extractor: Extractor,
    keep: Keep,
    what: str,
    reporter: Reporter,
    *,
    together: bool = False,
) -> InputFeatures:
    """As `collect`, but read from the cache where an earlier call wrote the same entry.

    The key is made of the images' bytes and the network's file, protocol and precision. Images that
    are sampled are not cached, nor inputs with unreadable files: with the files fixed, they would
    be another input.
    """
    entry = distributed.broadcast_from_rank0(lambda: _entry(images, extractor))
    if entry is None:
        return collect(images, extractor, keep, what, reporter, together=together)
    widths = {name: width for name, width in _widths(extractor).items() if getattr(keep, name)}
    cached = distributed.broadcast_from_rank0(lambda: _read(entry, widths, spatial=keep.spatial))
    if cached is not None:
        reporter.say(f"{what}: {images.label} is in the cache ({entry})")
        if not distributed.is_main():
            return InputFeatures(cached)
        files = {name: FeatureStore.open(_file(entry, name), widths[name]) for name in widths}
        return InputFeatures(cached, **files, labels=images.labels)
    collected = collect(images, extractor, keep, what, reporter, together=together)
    if distributed.is_main() and not images.counts.unreadable:
        try:
            _write(entry, collected)
        except DdpmError as error:
            reporter.say(f"not kept for the next call: {error}")
    return collected


def clear() -> tuple[int, int]:
    """Delete all entries: (their number, their bytes)."""
    found = _entries()
    total = sum(size_below(entry) for entry in found)
    for entry in found:
        shutil.rmtree(entry, ignore_errors=True)
    return len(found), total


def _widths(extractor: Extractor) -> dict[str, int]:
    """The widths of what is stored of each image, by the names of `Keep` and `InputFeatures`."""
    network = extractor.network
    widths = {"features": network.width, "logits": network.classes}
    return {name: width for name, width in widths.items() if width is not None}


def _file(entry: Path, name: str) -> Path:
    return entry / f"{name}.f32"


def _read(entry: Path, widths: dict[str, int], *, spatial: bool) -> Statistics | None:
    """The cached statistics; None where they are missing, or the features that go with them."""
    if not (entry / _STATISTICS).is_file():
        return None
    cached = read_statistics(entry / _STATISTICS)
    if spatial and cached.spatial is None:
        return None
    for name, width in widths.items():
        file = _file(entry, name)
        if not (file.is_file() and file.stat().st_size == 4 * width * (cached.n or 0)):
            return None  # cut short by a power cut, as they are not durable
    with suppress(OSError):
        os.utime(entry)
    return cached


def _write(entry: Path, collected: InputFeatures) -> None:
    for name in ("features", "logits"):
        if (store := getattr(collected, name)) is not None:
            store.save(_file(entry, name))
    collected.statistics.write(entry / _STATISTICS)
    _prune(entry)


def _prune(newest: Path) -> None:
    """Delete the least recently used entries beyond the limit, never the newest."""
    room = LIMIT - size_below(newest)
    for entry in sorted(set(_entries()) - {newest}, key=_used, reverse=True):
        room -= size_below(entry)
        if room < 0:
            shutil.rmtree(entry, ignore_errors=True)


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0


def _entries() -> list[Path]:
    try:
        return [path for path in _folder().iterdir() if path.is_dir()]
    except OSError:
        return []


def _folder() -> Path:
    return cache_root() / "features"


def _entry(images: ImageSet, extractor: Extractor) -> Path | None:
    content = images.content()
    if content is None:
        return None
    origin = extractor.origin
    versions = _LAYOUT, image_files.DECODER_VERSION
    parts = (*versions, content, origin.protocol, origin.weights_sha256, origin.arithmetic)
    return _folder() / sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
