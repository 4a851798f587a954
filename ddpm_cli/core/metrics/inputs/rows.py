"""Rows of features -> the images that they are of, read again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from ddpm_cli.core.metrics.inputs.images import ImageSet


def indices_at(images: ImageSet, rows: Iterable[int]) -> list[int]:
    """Indices of the images whose features are in these rows, after all were read once.

    The two differ where unreadable files were left out.
    """
    readable = np.delete(np.arange(len(images)), images.counts.left_out)
    return [int(readable[row]) for row in rows]


def images_at(images: ImageSet, rows: Iterable[int]) -> list[Tensor]:
    """The images whose features are in these rows, each uint8 (1 or 3, H, W), in their order.

    Each is read once, or sampled once more where the images are a model's.
    """
    indices = indices_at(images, rows)
    distinct = sorted(set(indices))  # ascending: some archives can only be read in their order
    read = dict(zip(distinct, images.at(distinct), strict=True))
    return [read[index] for index in indices]
