"""Statistics and features of inputs that were scored before, in the cache by their content.

The least recently used go when all together are larger than LIMIT; features of an input that alone
take half of it are not kept.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
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
from ddpm_cli.core.runtime.files import in_words, size_below
from ddpm_cli.core.runtime.reporting import Reporter

LIMIT = 8 * 2**30  # bytes: about 20 inputs of 50,000 images
_LAYOUT = 2  # of the entries; raise it where they, or the features of an image, change
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
    spatial, main = keep.spatial, distributed.is_main()
    cached = _read(entry, widths, reporter, spatial=spatial) if main else None
    statistics = distributed.broadcast_from_rank0(lambda: cached.statistics if cached else None)
    if statistics is not None:
        reporter.say(f"{what}: {images.label} is in the cache ({entry})")
        statistics = replace(statistics, origin=extractor.origin)  # this weights file's name
        if cached is None:
            return InputFeatures(statistics)
        return replace(cached, statistics=statistics, labels=images.labels)
    collected = collect(images, extractor, keep, what, reporter, together=together)
    if not main or images.counts.unreadable:
        return collected
    try:
        _write(entry, collected, images.label, reporter)
    except DdpmError as error:
        reporter.say(f"not kept for the next call: {error}")
    return replace(collected, entry=entry)


def is_cached(images: ImageSet, extractor: Extractor, keep: Keep) -> bool:
    """Whether `collect_cached` would find an entry, unless it is damaged."""
    entry = _entry(images, extractor)
    widths = [name for name in _widths(extractor) if getattr(keep, name)]
    return entry is not None and all(os.path.lexists(path) for path in _files(entry, widths))


def mark_used(collected: InputFeatures) -> None:
    """Have what was collected count as used now, if it is in the cache."""
    if collected.entry is not None:
        now = time.time_ns()  # the file system's own clock has steps of milliseconds
        with suppress(OSError):  # it was deleted meanwhile, or not kept
            os.utime(collected.entry, ns=(now, now))


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


def _read(
    entry: Path, widths: dict[str, int], reporter: Reporter, *, spatial: bool
) -> InputFeatures | None:
    """What is cached; None where a part is missing, or damaged, which is said."""
    try:
        if not all(os.path.lexists(path) for path in _files(entry, widths)):
            return None
        statistics = read_statistics(entry / _STATISTICS)
        if spatial and statistics.spatial is None:
            return None
        stores = {name: _open(_file(entry, name), widths[name], statistics) for name in widths}
    except DdpmError as error:
        reporter.say(f"the cache is damaged, so features are computed again: {error}")
        return None
    found = InputFeatures(statistics, stores.get("features"), stores.get("logits"), entry=entry)
    mark_used(found)
    return found


def _files(entry: Path, names: Iterable[str]) -> list[Path]:
    return [entry / _STATISTICS, *(_file(entry, name) for name in names)]


def _open(path: Path, width: int, statistics: Statistics) -> FeatureStore:
    """Raises DdpmError where it was damaged, by a power cut, as it is not durable, or a disk."""
    store = FeatureStore.open(path, width)
    if len(store) != statistics.n:
        raise DdpmError(f"{path} holds {len(store)} images of {statistics.n}")
    return store


def _write(entry: Path, collected: InputFeatures, label: str, reporter: Reporter) -> None:
    """Write what was collected; what else the entry holds is kept."""
    stores = {name: getattr(collected, name) for name in ("features", "logits")}
    stores = {name: store for name, store in stores.items() if store is not None}
    size = sum(4 * store.width * len(store) for store in stores.values())
    if size > LIMIT / 2:
        reporter.say(
            f"{label}: features of {in_words(size)} are not kept for the next call, as the cache "
            f"is of {in_words(LIMIT)}; the statistics are"
        )
        stores = {}
    for name, store in stores.items():
        store.save(_file(entry, name))
    statistics = collected.statistics
    if statistics.spatial is None:
        with suppress(DdpmError):  # there was no entry, or a damaged one
            earlier = read_statistics(entry / _STATISTICS)
            statistics = replace(statistics, spatial=earlier.spatial)
    statistics.write(entry / _STATISTICS)
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
