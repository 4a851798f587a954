"""Images at one common size, at most 64 pixels a side, on disk: what is compared and shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.metrics.feature_store import RowStore
from ddpm_cli.core.metrics.inputs.images import ImageCounts, ImageSet

LARGEST = 64  # pixels of a side: what a shift of a sixteenth of it leaves to compare is enough

Size = tuple[int, int]
"""(height, width) in pixels."""


class SmallImages(RowStore):
    """RGB images of one size on disk, uint8 (n, 3, height, width)."""

    _holds = "images"

    def __init__(self, size: Size) -> None:
        super().__init__((3, *size), torch.uint8)
        self.size = size
        self.grey = True  # whether all channels of all images are equal

    def append(self, images: Tensor) -> None:
        """Append uint8 images (n, 1 or 3, H, W). Raises DdpmError where the disk is full."""
        small = fitted(images, self.size).expand(-1, 3, -1, -1)
        self.grey = self.grey and bool((small == small[:, :1]).all())
        super().append(small)


class Recorded:
    """An ImageSet whose images are stored, small, while they are read."""

    def __init__(self, images: ImageSet, small: SmallImages) -> None:
        self.label, self._images, self._small = images.label, images, small
        self.classes, self.why_no_classes = images.classes, images.why_no_classes

    def __len__(self) -> int:
        return len(self._images)

    @property
    def counts(self) -> ImageCounts:
        """Those of the images."""
        return self._images.counts

    @counts.setter
    def counts(self, counts: ImageCounts) -> None:
        self._images.counts = counts

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Read a range of the images."""
        for batch in self._images.batches(part):
            self._small.append(batch)
            yield batch

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Those of the images."""
        return self._images.labels

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read these images again."""
        return self._images.at(indices)

    def name(self, index: int) -> str:
        """The image's name."""
        return self._images.name(index)

    def content(self) -> str | None:
        """Hash of the images."""
        return self._images.content()


def working_size(size: Size, largest: int = LARGEST) -> Size:
    """A size of the same shape, of which no side is longer than `largest`."""
    scale = min(1.0, largest / max(size))
    height, width = (max(1, round(scale * side)) for side in size)
    return height, width


def fitted(images: Tensor, size: Size) -> Tensor:
    """Bring uint8 images (n, C, H, W) to a size: cut around the centre, then resized, antialiased.

    As `--fit crop` of a training does, but for its bicubic filter.
    """
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    scale = min(height / size[0], width / size[1])
    rows, columns = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = images[:, :, top : top + rows, left : left + columns].float()
    resized = functional.interpolate(cut, size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
