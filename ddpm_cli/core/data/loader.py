"""The images of a source at the network's size: from the cache, from memory, or as they are read.

A source is decoded once into one uint8 array in the cache. It is memory-mapped, so all processes of
a machine share it and later runs start at once. See `cache` for how that is safe from kills.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.cache import PartialArray, array_path, chunks_of, missing_bytes, open_array
from ddpm_cli.core.data.decoded import DecodedImages, StreamedPixels, image_or_error
from ddpm_cli.core.data.decoding import Failures, Part, decode
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.devices import free_memory
from ddpm_cli.core.runtime.files import check_free_space, in_words
from ddpm_cli.core.runtime.locks import lock_writing
from ddpm_cli.core.runtime.reporting import Reporter, Warned

_LAYOUT = 1  # of the cached files; raise it where they are written otherwise
_FIX = (
    "set DDPM_CACHE to a folder on a larger disk, use a smaller --size, or decode them as they are "
    "needed, by ddpm train --cache none"
)


def prepare(
    source: Source,
    transform: Transform,
    reporter: Reporter,
    *,
    skip_bad: bool = False,
    cache: str = "disk",
    copies: int = 1,
) -> DecodedImages:
    """All images of the source, transformed.

    The transform has a size. Raises DdpmError that names the files that cannot be read; with
    `skip_bad` they are reported and left out.

    Args:
        source: The images.
        transform: What is done to them.
        reporter: For progress and notices.
        skip_bad: Leave unreadable images out.
        cache: "disk", "ram", or "none": decode nothing now, but each image whenever it is taken.
        copies: Processes of this machine that hold the images at once, with "ram".
    """
    if cache == "none":
        _check_random_access(source)
        pixels = StreamedPixels(source, transform, reporter, skip_bad=skip_bad)
        rows = np.arange(len(source))
        return _images(source, pixels, rows, _key(source, transform))
    if cache == "ram" or not source.cache_key:
        return _in_memory(source, transform, reporter, copies, skip_bad=skip_bad)
    return _on_disk(source, transform, reporter, skip_bad=skip_bad)


def _images(
    source: Source, pixels: NDArray[np.uint8] | StreamedPixels, rows: NDArray[np.int64], key: str
) -> DecodedImages:
    return DecodedImages(pixels, source.labels, rows, key=key, blocks=source.blocks)


def _key(source: Source, transform: Transform) -> str:
    """Identifies all pixels: the source, the transform, and what decodes and stores them."""
    identity = f"{_LAYOUT} {files.DECODER_VERSION} {source.cache_key} {len(source)} {transform.key}"
    if files.max_pixels() != files.USUAL_PIXELS:
        identity += f" {files.max_pixels()}"  # which decides what can be read
    return sha256(identity.encode()).hexdigest()[:16]


def _shape(source: Source, transform: Transform) -> tuple[int, ...]:
    assert transform.size is not None
    return (len(source), transform.channels, *transform.size)


def _check_random_access(source: Source) -> None:
    """Raise DdpmError for images that can only be read one after the other."""
    if source.sequential:
        raise DdpmError(
            f"--cache none: the images of {source.name} lie in large blocks that are read as a "
            "whole; use --cache disk"
        )


def _in_memory(
    source: Source, transform: Transform, reporter: Reporter, copies: int, *, skip_bad: bool
) -> DecodedImages:
    """Decode into the memory of this process. Raises DdpmError where that is too small."""
    shape = _shape(source, transform)
    needed, free = copies * int(np.prod(shape)), free_memory()
    if free is not None and needed > free:
        each = f", {copies} times {in_words(needed / copies)}" if copies > 1 else ""
        raise DdpmError(
            f"the decoded images need {in_words(needed)} of memory{each}, and {in_words(free)} "
            "are free; use --cache disk, --cache none or a smaller --size"
        )
    images = np.empty(shape, np.uint8)
    failures: Failures = []
    with reporter.bar("decoding images", shape[0], "images") as bar:
        for rows, pixels, failed in decode(source, transform, [range(shape[0])]):
            images[rows.start : rows.stop] = pixels
            failures += failed
            bar.update(rows.stop)
    _report(failures, len(source), reporter, skip_bad=skip_bad)
    key = _key(source, transform)
    if not source.cache_key:  # features are cached under the key
        key = sha256(images.data).hexdigest()
    return _images(source, images, _readable(source, failures), key)


def _on_disk(
    source: Source, transform: Transform, reporter: Reporter, *, skip_bad: bool
) -> DecodedImages:
    """Open the images in the cache, after decoding into it what is not there."""
    shape, key = _shape(source, transform), _key(source, transform)
    channels, height, width = shape[1:]
    name = source.name.encode("utf-8", "surrogateescape")[:80].decode("utf-8", "ignore")
    path = array_path(f"{name}-{height}x{width}x{channels}-{key}")
    opened = open_array(path, shape)
    if opened is None:
        with lock_writing(path, reporter.say, "decoding"):
            opened = open_array(path, shape)  # another process may have finished
            if opened is None:
                needed = missing_bytes(path, shape)
                check_free_space(path.parent, needed, "the decoded images", _FIX)
                with PartialArray(path, shape) as partial:
                    failures = _complete(partial, source, transform, reporter)
                    _report(failures, len(source), reporter, skip_bad=skip_bad)
                    partial.finish(_readable(source, failures))
                opened = open_array(path, shape)
    else:
        missing = np.setdiff1d(np.arange(len(source)), opened[1])
        failures = _why_unreadable(source, missing, transform)
        _report(failures, len(source), reporter, skip_bad=skip_bad)
    if opened is None:
        raise DdpmError(f"{path} was removed while it was opened; run the same command again")
    pixels, rows = opened
    return _images(source, pixels, rows, key)


def _complete(
    partial: PartialArray, source: Source, transform: Transform, reporter: Reporter
) -> Failures:
    """Decode what the array lacks. Returns the rows that could not be read."""
    shape = _shape(source, transform)
    chunks = chunks_of(shape)
    left = [number for number in range(len(chunks)) if number not in partial.written]
    done = len(source) - sum(len(chunks[number]) for number in left)
    size = f"{len(source):,} images into {in_words(int(np.prod(shape)))} at {partial.path}"
    so_far = f"; {done:,} are decoded already" if done else ""
    reporter.say(f"decoding {size}{so_far}")
    failures: Failures = []
    parts = decode(source, transform, [chunks[number] for number in left])
    with reporter.bar("decoding images", len(source), "images") as bar:
        for number in left:
            chunk, already = chunks[number], len(failures)
            buffer = np.empty((len(chunk), *shape[1:]), np.uint8)
            for rows, pixels, failed in _parts_of(chunk, parts):
                buffer[rows.start - chunk.start : rows.stop - chunk.start] = pixels
                failures += failed
                done += len(rows)
                bar.update(done)
            partial.write(number, buffer, is_complete=len(failures) == already)
    return failures


def _parts_of(chunk: range, parts: Iterator[Part]) -> Iterator[Part]:
    """The next parts, up to the one that ends the chunk."""
    for part in parts:
        yield part
        if part[0].stop == chunk.stop:
            return


def _why_unreadable(source: Source, rows: NDArray[np.int64], transform: Transform) -> Failures:
    """Why these rows, which the cache lacks, could not be read."""
    outcomes = [(row, image_or_error(source, row, transform)) for row in rows.tolist()]
    changed = "could not be read when the cache was written"
    return [
        (row, str(outcome) if isinstance(outcome, UnreadableError) else f"image {row} {changed}")
        for row, outcome in outcomes
    ]


def _readable(source: Source, failures: Failures) -> NDArray[np.int64]:
    """The rows that are not among the failures."""
    return np.setdiff1d(np.arange(len(source)), [row for row, _ in failures]).astype(np.int64)


def _report(failures: Failures, total: int, reporter: Reporter, *, skip_bad: bool) -> None:
    if not failures:
        return
    message = files.list_unreadable([why for _, why in failures], total)
    if not skip_bad or len(failures) == total:
        raise DdpmError(f"{message}. Fix or remove them, or add --skip-bad to leave them out")
    reporter.say(Warned(f"left out: {message}"))
