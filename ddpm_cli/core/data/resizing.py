"""Resizing of decoded images as PIL does it, on bytes: as some feature networks were published."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.runtime.threads import cores

_THREADS = 8  # at most; PIL resizes without Python's lock


def bicubic(images: NDArray[np.uint8], size: int, *, crop: bool = False) -> NDArray[np.uint8]:
    """Resize (N, C, H, W) to (N, C, size, size) by PIL's BICUBIC, antialiased, rounded to bytes.

    crop: the largest square in the middle of each image instead of all of it.
    """
    resize = partial(_bicubic, size=size, crop=crop)
    with ThreadPoolExecutor(min(_THREADS, cores()), "resizing") as pool:
        return np.stack(list(pool.map(resize, images)))


def _bicubic(image: ImageArray, size: int, *, crop: bool) -> ImageArray:
    if crop:
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, top : top + side, left : left + side]
    channels = (Image.fromarray(np.ascontiguousarray(channel)) for channel in image)
    resized = (one.resize((size, size), Image.Resampling.BICUBIC) for one in channels)
    return np.stack([np.asarray(one) for one in resized])
