"""The worst images as grids, each with its nearest of the other input beside it, and as a list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.rows import images_at, indices_at
from ddpm_cli.core.metrics.worst.finding import Found, Worst
from ddpm_cli.core.runtime.files import write_text

FAKES, REALS, LIST = "unlike-real.png", "uncovered.png", "worst.json"
_LINES = 16  # of a grid; more images are beside each other
_TILE = 72  # pixels of a shown image, at least, for the words below it
_SIDE = 128  # pixels to which large images, and those of several sizes, are resized
_ORDINALS = ("nearest", "second", "third")


def write_worst(folder: Path, worst: Worst, real: ImageSet, fake: ImageSet) -> None:
    """Write the grids and the list into a folder. Raises DdpmError where that fails."""
    n_real, n_fake = worst.looked_at
    document = {
        "real": real.label,
        "fake": fake.label,
        "n_real": n_real,
        "n_fake": n_fake,
        "fakes": _listed(worst.fakes, fake, real),
        "reals": _listed(worst.reals, real, fake),
        "uncovered": worst.uncovered,
    }
    write_text(folder / LIST, json.dumps(document, indent=1) + "\n", durable=False)
    heading = f"The {len(worst.fakes)} of {n_fake:,} fakes that are least like any real image"
    _draw(folder / FAKES, worst.fakes, (fake, real), ("fake", "real"), heading)
    if worst.reals:
        heading = f"{len(worst.reals)} of {worst.uncovered:,} real images that no fake is near to"
        _draw(folder / REALS, worst.reals, (real, fake), ("real", "fake"), heading)


def _listed(found: Sequence[Found], own: ImageSet, others: ImageSet) -> list[dict[str, Any]]:
    indices = indices_at(own, (image.row for image in found))
    return [
        {
            "name": own.name(index),
            "index": index,
            "radii": image.radii,
            "nearest": [
                {"name": others.name(i), "index": i, "distance": distance}
                for i, distance in zip(
                    indices_at(others, image.neighbours), image.distances, strict=True
                )
            ],
        }
        for index, image in zip(indices, found, strict=True)
    ]


def _draw(
    path: Path,
    found: Sequence[Found],
    inputs: tuple[ImageSet, ImageSet],
    names: tuple[str, str],
    heading: str,
) -> None:
    """Draw groups of an image and its nearest of the other input, a frame around the first."""
    own, others = inputs
    beside = len(found[0].neighbours)
    groups = -(-len(found) // _LINES)
    rows = [row for image in found for row in image.neighbours]
    near = iter(zip(images_at(others, rows), indices_at(others, rows), strict=True))
    shown, captions = [], []
    own_images = images_at(own, [image.row for image in found])
    own_indices = indices_at(own, [image.row for image in found])
    for image, pixels, index in zip(found, own_images, own_indices, strict=True):
        shown.append(pixels)
        captions.append(f"{_short(own.name(index))} {image.radii:.3g} radii")
        for distance in image.distances:
            pixels, index = next(near)
            shown.append(pixels)
            captions.append(f"{_short(others.name(index))} at {distance:.3g}")
    columns = (1 + beside) * groups
    titles = (names[0], *(f"{which} {names[1]}" for which in _ORDINALS[:beside]))
    words = Words(heading, titles * groups, captions=captions)
    width = max(sheets.WIDTH, _TILE * columns)
    marked = range(0, len(shown), 1 + beside)
    files.write_png(
        path, sheets.sheet(_alike(shown), columns, words, gap=8, width=width, marked=marked)
    )


def _short(name: str) -> str:
    """A file's name without its folders and suffix."""
    return PurePosixPath(name).stem


def _alike(images: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Images as one array (N, 3, H, W), resized where their sizes differ or are large."""
    arrays = [image.expand(3, -1, -1).numpy() for image in images]
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1 or max(arrays[0].shape) > 2 * _SIDE:
        arrays = [files.fit(array, Transform(3, (_SIDE, _SIDE))) for array in arrays]
    return np.stack(arrays)
