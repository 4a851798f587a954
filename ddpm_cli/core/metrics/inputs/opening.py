"""What a user may name as one input of a comparison -> an ImageSet, or statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config import paths
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.readers.arrays import ArrayFileSource
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.inputs.classes import classes_of_files
from ddpm_cli.core.metrics.inputs.images import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    FileImages,
    ImageCounts,
    ImageSet,
    one_ahead,
)
from ddpm_cli.core.metrics.statistics import Statistics, npz_members, read_statistics
from ddpm_cli.core.runtime.reporting import SILENT, Reporter
from ddpm_cli.core.runtime.threads import cores

ScoreInput = ImageSet | Statistics


def open_input(
    spec: str | Path | NDArray[np.uint8], skip_bad: bool = False, reporter: Reporter = SILENT
) -> ScoreInput:
    """Open one input of a comparison.

    What `ddpm train --data` takes (a folder, an archive, an array, a data set's name such as
    "cifar10:train"), a statistics .npz (`mu`, `sigma`), or an array of images. Raises DdpmError
    where there are no images or statistics.
    """
    if isinstance(spec, np.ndarray):
        return ArrayImages(spec)
    path = paths.expanded(spec)
    if path.suffix.lower() == ".npz" and path.is_file() and "mu" in npz_members(path):
        return read_statistics(path)
    source = open_source(str(spec), reporter)
    for notice in source.notices:
        reporter.say(notice)
    if isinstance(source, FileSource):
        return FileImages(source.files, classes_of_files(source.files), skip_bad)
    return DatasetImages(source, str(spec))


class Numbered:
    """Images that are known by their numbers, from 0."""

    def name(self, index: int) -> str:
        """The image's number."""
        return f"image {index}"


def open_images(
    spec: str | Path | NDArray[np.uint8],
    name: str,
    skip_bad: bool = False,
    reporter: Reporter = SILENT,
) -> ImageSet:
    """Open an input as `open_input`. Raises UsageError, by its name, for statistics."""
    opened = open_input(spec, skip_bad, reporter)
    if isinstance(opened, Statistics):
        raise UsageError(f"{name} {spec} holds statistics; single images are needed")
    return opened


class ArrayImages(Numbered):
    """Images in memory, uint8 (N, H, W) or (N, H, W, 1, 3 or 4)."""

    classes: tuple[str, ...] = ()
    why_no_classes = "they are an array without labels"
    labels = None

    def __init__(self, images: NDArray[np.uint8]) -> None:
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3, 4):
            raise DdpmError(
                f"the images are {images.dtype} {images.shape}; they should be uint8 (N, height, "
                "width) or (N, height, width, 1, 3 or 4)"
            )
        self.label = "array"
        self.counts = ImageCounts()
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Read a range of the images."""
        self.counts = ImageCounts()
        indices = np.arange(len(self))[part]
        for start in range(0, len(indices), MAX_BATCH):
            images = self._read(indices[start : start + MAX_BATCH])
            _count(self.counts, images, "array")
            yield images

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read these images."""
        return list(self._read(np.asarray(indices, dtype=np.intp)))

    def _read(self, indices: NDArray[np.intp]) -> Tensor:
        chosen = self._images[indices].transpose(0, 3, 1, 2)
        return _opaque(torch.from_numpy(np.ascontiguousarray(chosen)))

    def content(self) -> None:
        """None: arrays are not cached."""


class DatasetImages(Numbered):
    """The images of a data set, or of an array in a file, at their own size and in their order."""

    def __init__(self, source: Source, label: str) -> None:
        self.label = label
        self.counts = ImageCounts()
        self.classes, self.why_no_classes = source.classes, source.why_no_classes
        self.labels = source.labels if source.classes else None
        self._source = source
        self._size = source.image_size or source.native_size

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Read a range of the data set, ahead of the consumer."""
        self.counts = ImageCounts()
        return one_ahead(self._batches(range(len(self))[part], self.counts))

    def _batches(self, indices: range, counts: ImageCounts) -> Iterator[Tensor]:
        source = self._source
        kind = source.path.suffix[1:].lower() if isinstance(source, ArrayFileSource) else "data set"
        step = max(1, min(MAX_BATCH, MAX_BATCH_BYTES // (3 * prod(self._size))))
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(indices), step):
                chunk = indices[start : start + step]
                images = torch.stack(list(pool.map(self._image, chunk)))
                _count(counts, images, kind, transparent=source.transparent)
                yield images

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read these images again."""
        return [self._image(index) for index in indices]

    def _image(self, index: int) -> Tensor:
        transform = Transform(self._source.native_channels, self._size)
        return torch.from_numpy(self._source.image(index, transform))

    def content(self) -> str:
        """Hash of what identifies the data set and its split."""
        shape = (self._source.native_channels, *self._size)
        source = self._source
        file = source.content() if isinstance(source, ArrayFileSource) else source.fingerprint
        return sha256(f"{file} {shape}".encode()).hexdigest()


class TrainingImages(Numbered):
    """The images of a training run at its size, without augmentation."""

    classes: tuple[str, ...] = ()
    why_no_classes = "they are those of a training"
    labels = None

    def __init__(self, images: DecodedImages, label: str, names: Sequence[str] = ()) -> None:
        """names: those of all images of the source, where they have some."""
        self.label, self._names = label, names
        self.counts = ImageCounts()
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Read a range of the images."""
        self.counts = ImageCounts()
        indices = np.arange(len(self))[part]
        for start in range(0, len(indices), MAX_BATCH):
            images, _ = self._images.take(indices[start : start + MAX_BATCH])
            images = _opaque(images)
            _count(self.counts, images, "data")
            yield images

    def name(self, index: int) -> str:
        """The name of an image, or its number in the source."""
        row = int(self._images.rows[index])
        return self._names[row] if self._names else super().name(row)

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read these images again."""
        return list(_opaque(self._images.take(np.asarray(indices, dtype=np.intp))[0]))

    def content(self) -> str:
        """Hash of what identifies the files, their size in training, and which are held out."""
        shape = self._images.pixels.shape
        digest = sha256(f"{self._images.key} {shape}".encode())
        digest.update(self._images.rows.tobytes())
        return digest.hexdigest()


class GeneratedImages(Numbered):
    """Images sampled from a model while they are scored; none is written.

    sampled: everything that they depend on, for the report. labels: of the classes that they are
    conditioned on, as those of an ImageSet; None without.
    """

    why_no_classes = "the run was trained without classes"

    def __init__(
        self,
        label: str,
        count: int,
        draw: Callable[[Sequence[int]], Iterable[Tensor]],
        sampled: dict[str, Any],
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        self.label, self.sampled = label, sampled
        self.labels, self.classes = labels, classes
        self.counts = ImageCounts()
        self._count, self._draw = count, draw

    def __len__(self) -> int:
        return self._count

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Sample a range of the images."""
        self.counts = ImageCounts()
        for batch in self._draw(range(self._count)[part]):
            images = _opaque(batch)
            _count(self.counts, images, "drawn")
            yield images

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Sample these images again: each depends on its index alone."""
        return [image for batch in self._draw(indices) for image in _opaque(batch)]

    def content(self) -> None:
        """None: unknown before they are sampled."""


def _count(counts: ImageCounts, images: Tensor, kind: str, *, transparent: bool = False) -> None:
    n, channels, height, width = images.shape
    traits = {"grey": channels == 1, "transparent": transparent}
    counts.add((height, width), kind, [trait for trait, has in traits.items() if has], n)


def _opaque(images: Tensor) -> Tensor:
    """Composite RGBA images (n, 4, H, W) on white, as image files with alpha are decoded."""
    if images.shape[1] != 4:
        return images
    alpha = images[:, 3:].float() / 255
    return (images[:, :3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
