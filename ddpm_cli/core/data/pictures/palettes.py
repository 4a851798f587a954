"""One palette for all frames of a film, and the colour of each pixel in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data.files import ImageArray

SIZE = 256  # colours of a GIF, of which one stands for transparency
_SAMPLE = 30_000  # pixels by which colours are chosen, of all frames and of the last one each
_ROUNDS = 1  # of k-means after median cut
_BITS = 6  # of a channel, by which the nearest colour is looked up
_MASKED = 0.8  # of the contrast around a pixel: errors up to that are not seen

Palette = NDArray[np.uint8]
"""Colours (K, 3), K at most SIZE - 1."""


def choose(frames: Sequence[ImageArray]) -> Palette:
    """Colours for frames (H, W, 3): all there are, if there are few, else by median cut.

    The last frame, which is looked at longest, counts as much as all of them.
    """
    exact: set[int] = set()
    for frame in frames:
        exact.update(np.unique(_packed(frame)).tolist())
        if len(exact) >= SIZE:
            break
    else:
        return np.array([(c >> 16, c >> 8 & 255, c & 255) for c in sorted(exact)], np.uint8)
    every = np.concatenate([_sample(frame, _SAMPLE // len(frames)) for frame in frames])
    pixels = np.concatenate([every, _sample(frames[-1], len(every))])
    median_cut = Image.Quantize.MEDIANCUT
    quantised = Image.fromarray(pixels[None]).quantize(SIZE - 1, median_cut, kmeans=_ROUNDS)
    colours = np.array(quantised.getpalette(), np.uint8).reshape(-1, 3)
    return colours[: SIZE - 1]


def assign(frames: Sequence[ImageArray], palette: Palette) -> list[NDArray[np.uint8]]:
    """The number of the nearest colour for each pixel of frames (H, W, 3): (H, W) each.

    Without dithering. A pixel keeps the colour of the frame before while the error is hidden by the
    contrast around it, as in noise; so less of the film changes. The last frame has no such errors,
    and no frame where the palette has all colours.
    """
    from scipy.spatial import cKDTree  # takes long to import

    packed = _packed(palette)
    if all(np.isin(_packed(frame), packed).all() for frame in frames):
        order = np.argsort(packed)
        found = (np.searchsorted(packed, _packed(frame), sorter=order) for frame in frames)
        return [order[places].astype(np.uint8) for places in found]
    side = np.arange(1 << _BITS) * (256 >> _BITS) + (128 >> _BITS)
    cells = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    table = cKDTree(palette.astype(float)).query(cells)[1].astype(np.uint8)
    shown: list[NDArray[np.uint8]] = []
    for number, frame in enumerate(frames):
        red, green, blue = np.moveaxis(frame >> (8 - _BITS), -1, 0).astype(np.int32)
        new = table[(red << 2 * _BITS) | (green << _BITS) | blue]
        if 0 < number < len(frames) - 1:
            error = np.abs(palette[shown[-1]].astype(np.int16) - frame).max(axis=-1)
            contrast = _contrast(frame)
            for share in (_MASKED, _MASKED / 2, 0.0):
                hidden = error <= share * contrast
                if not hidden.all():  # else the frame would show nothing of its own
                    break
            new = np.where(hidden, shown[-1], new)
        shown.append(new)
    return shown


def _contrast(frame: ImageArray) -> NDArray[np.float32]:
    """The standard deviation of the 3 x 3 pixels around each, of the largest channel."""
    from scipy.ndimage import uniform_filter

    pixels = frame.astype(np.float32)
    mean, square = (uniform_filter(values, (3, 3, 0)) for values in (pixels, pixels**2))
    deviation: NDArray[np.float32] = np.sqrt(np.maximum(square - mean**2, 0)).max(axis=-1)
    return deviation


def _packed(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours (…, 3) as one number each."""
    red, green, blue = np.moveaxis(pixels, -1, 0).astype(np.int32)
    packed: NDArray[np.int32] = (red << 16) | (green << 8) | blue
    return packed


def _sample(frame: ImageArray, count: int) -> NDArray[np.uint8]:
    """About `count` of a frame's pixels, evenly apart: (N, 3)."""
    pixels = frame.reshape(-1, 3)
    places = np.linspace(0, len(pixels) - 1, max(1, min(count, len(pixels)))).astype(int)
    sample: NDArray[np.uint8] = pixels[places]
    return sample
