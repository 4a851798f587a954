"""Image files to score -> uint8 batches, decoded ahead of the network."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.data import files
from ddpm_cli.core.data.annotations.classes import Classes
from ddpm_cli.core.data.files import ImageArray, UnreadableError
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.threads import cores

MAX_BATCH = 256  # most images in a batch
MAX_BATCH_BYTES = 64 * 2**20  # most bytes in a batch, so that large photographs fit in memory

TRAIT_HANDLING = {  # by trait (data.files.traits): how decoding handles it
    "grey": "replicated to RGB",
    "transparent": "composited on white",
    "16-bit": "scaled to 8 bits",
    "CMYK": "converted to RGB",
    "turned": "rotated by their EXIF orientation",
    "of several frames": "only the first frame is used",
}

T = TypeVar("T")


@dataclass
class ImageCounts:
    """Counts of the sizes, formats and traits of decoded images."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width) in pixels
    formats: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)  # indices of the unreadable, ascending

    @property
    def count(self) -> int:
        """Number of images read."""
        return self.sizes.total()

    def add(self, size: tuple[int, int], kind: str, traits: Iterable[str], times: int = 1) -> None:
        """Count `times` images of one size, format and set of traits."""
        self.sizes[size] += times
        self.formats[kind] += times
        self.traits.update(dict.fromkeys(traits, times))

    def merge(self, other: ImageCounts) -> None:
        """Add the counts of a later shard."""
        self.sizes += other.sizes
        self.formats += other.formats
        self.traits += other.traits
        self.unreadable += other.unreadable
        self.left_out += other.left_out

    def summary(self) -> str:
        """Formats and sizes (width x height): "png 9x5 to 8x8"."""
        if not self.sizes:
            return "nothing"
        names = [f"{width}x{height}" for height, width in sorted(self.sizes, key=math.prod)]
        sizes = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        return f"{'/'.join(kind for kind, _ in self.formats.most_common())} {sizes}"

    def report(self, reporter: Reporter, label: str, *, grey: bool) -> None:
        """Report how decoding changed the images, and which files were left out.

        `grey`: the network takes grey images, unchanged, and no others.
        """
        for trait, times in self.traits.most_common():
            if grey and trait == "grey":
                continue
            reporter.say(f"{label}: {times} of {self.count} are {trait} ({TRAIT_HANDLING[trait]})")
        if grey and (coloured := self.count - self.traits["grey"]):
            reporter.say(f"{label}: {coloured} of {self.count} are colour (converted to grey)")
        if self.unreadable:
            names = listed(self.unreadable, separator="; ")
            reporter.say(f"{label}: left out {len(self.unreadable)} unreadable files: {names}")


class ImageSet(Protocol):
    """Images that can be iterated over repeatedly, as uint8 batches (n, 1 or 3, H, W)."""

    label: str  # as the user named them
    counts: ImageCounts  # of the last batches, complete at its end
    classes: tuple[str, ...]  # names; () without classes
    why_no_classes: str  # where there could have been some

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) indices of the classes, or (N, K): 1 for each that an image has; None without."""

    def __len__(self) -> int: ...

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Iterate over a contiguous range of the images (a slice from start to stop)."""

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read these images again, each uint8 (1 or 3, H, W). Raises DdpmError for unreadable."""

    def name(self, index: int) -> str:
        """Which image this is, for people: its file's name, or its number."""

    def content(self) -> str | None:
        """Hash of the images (64 hex digits); None where they are not known beforehand."""


class FileImages:
    """The images of a folder or a .zip, in the order of their names, each at its own size."""

    def __init__(self, listing: ImageFiles, found: Classes, skip_bad: bool = False) -> None:
        self.label = str(listing.path)
        self.counts = ImageCounts()
        self.classes, self.why_no_classes = found.names, found.why_none
        self.labels = found.labels if found.names else None
        self._listing = listing
        self._skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self._listing.names)

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Decode a range of the files, ahead of the consumer."""
        self.counts = ImageCounts()
        return one_ahead(_stack_equal_shapes(self._decoded(range(len(self))[part], self.counts)))

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Decode these files again. Raises DdpmError where one is unreadable."""
        decoded = []
        for outcome in map(self._decode, indices):
            if isinstance(outcome, UnreadableError):
                raise DdpmError(f"{outcome}; it cannot be shown")
            decoded.append(torch.from_numpy(outcome[0]))
        return decoded

    def name(self, index: int) -> str:
        """The file's name below the folder or in the archive."""
        return self._listing.names[index]

    def content(self) -> str:
        """Hash of names and bytes: a copy of the folder elsewhere has the same."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(min(8, cores())) as pool:
            hashes = _ahead(pool, self._hash, range(len(self)), depth=64)
            for name, file_hash in zip(self._listing.names, hashes, strict=True):
                digest.update(f"{name}\0{file_hash}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _hash(self, index: int) -> str:
        try:
            return hashlib.sha256(self._listing.read(index)).hexdigest()
        except UnreadableError:
            return "unreadable"

    def _decoded(self, part: range, counts: ImageCounts) -> Iterator[ImageArray]:
        workers = min(8, cores())
        with ThreadPoolExecutor(workers) as pool:
            ahead = _ahead(pool, self._decode, part, depth=4 * workers)
            for index, outcome in zip(part, ahead, strict=True):
                name = self._listing.names[index]
                if isinstance(outcome, UnreadableError):
                    if not self._skip_bad:
                        raise DdpmError(f"{outcome}; --skip-bad leaves unreadable files out")
                    counts.unreadable.append(str(outcome))
                    counts.left_out.append(index)
                    continue
                image, traits = outcome
                height, width = image.shape[1:]
                counts.add((height, width), PurePosixPath(name).suffix[1:].lower(), traits)
                yield image

    def _decode(self, index: int) -> tuple[ImageArray, frozenset[str]] | UnreadableError:
        name = self._listing.names[index]
        try:
            data = self._listing.read(index)
            # Without its colour profile, which pytorch-fid, torch-fidelity and clean-fid ignore.
            return files.decode(data, name), files.traits(data, name)
        except UnreadableError as error:
            return error


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[int], T], indices: Iterable[int], depth: int
) -> Iterator[T]:
    """Compute `work` for up to `depth` indices ahead of the consumer, in order."""
    pending: deque[Future[T]] = deque()
    for index in indices:
        pending.append(pool.submit(work, index))
        if len(pending) == depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, none of them None, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def _stack_equal_shapes(images: Iterable[ImageArray]) -> Iterator[Tensor]:
    """Stack consecutive images of equal shape; the order is kept, whatever the sizes."""
    run: list[ImageArray] = []
    for image in images:
        full = len(run) == MAX_BATCH or len(run) * image.nbytes >= MAX_BATCH_BYTES
        if run and (full or image.shape != run[0].shape):
            yield torch.from_numpy(np.stack(run))
            run = []
        run.append(image)
    if run:
        yield torch.from_numpy(np.stack(run))
