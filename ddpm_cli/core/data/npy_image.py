"""An image that an archive holds as a .npy, as EDM's tools write them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.readers.npy import MappedArray
from ddpm_cli.core.errors import DdpmError

SUFFIX = ".npy"

_CHANNELS = (1, 3, 4)


def pixels_of(data: bytes, name: str) -> NDArray[np.uint8]:
    """The pixels (H, W) or (H, W, 3 or 4) of a .npy, which may be (C, H, W), as EDM has it.

    Raises DdpmError for damaged headers, for objects, and for what is no image.
    """
    stored = MappedArray(memoryview(data), name)
    array, header = stored.array, stored.header
    if header.dtype != np.uint8:
        hint = "; latents are no images" if header.dtype.kind == "f" else ""
        raise DdpmError(f"{name} is {header}; an image is uint8{hint}")
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise DdpmError(
            f"{name} is {header}; an image is (height, width), or has an axis of 1, 3 or 4 "
            "channels, first or last"
        )
    return np.ascontiguousarray(array)
