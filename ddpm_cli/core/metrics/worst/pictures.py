"""The worst images as grids, each with its nearest of the other input beside it, and as a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.data import files
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.rows import images_at, indices_at
from ddpm_cli.core.metrics.requested import WorstRequest
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.metrics.worst.finding import Found, Worst
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import write_json
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.results_folder import remove_earlier, results_folder

FAKES, REALS, LIST = "unlike-real.png", "uncovered.png", "worst.json"
_FILES = FAKES, REALS, LIST
_LINES = 16  # of a grid; more images are beside each other
_TILE = 72  # pixels of a shown image, at least, for the words below it
_SIDE = 128  # pixels to which large images, and those of several sizes, are resized
_ORDINALS = ("nearest", "second", "third")


class Shown(NamedTuple):
    """Where the worst images were written, and how many there are."""

    folder: str
    uncovered: int  # real images that no fake covers, of n_real
    n_real: int

    def line(self, _: Label) -> str:
        """The folder, and how much of the real images is missing in the fakes."""
        missing = f"{self.uncovered:,} of {self.n_real:,} real images are near no fake"
        return f"worst images: {self.folder} ({missing})"

    def document(self) -> dict[str, object]:
        """Its key of --json."""
        return {"worst": {"folder": self.folder, "uncovered": self.uncovered}}


@contextmanager
def requested_worst(
    count: int | None, out: Path | None, default: Path, reporter: Reporter, *, overwrite: bool
) -> Iterator[WorstRequest | None]:
    """Yield what is to be shown, with its folder, which rank 0 takes now; None for no count."""
    if count is None:
        if out is not None:
            raise UsageError(f"--worst-out {out} is for the images of --worst N")
        yield None
        return
    claim = results_folder(out, default, _FILES, reporter, "--worst-out", overwrite=overwrite)
    with ExitStack() as stack:
        folder = distributed.broadcast_from_rank0(lambda: stack.enter_context(claim))
        yield WorstRequest(count, folder)


def write_worst(folder: Path, worst: Worst, real: ImageSet, fake: ImageSet) -> Shown:
    """Write the grids and the list, in place of earlier ones. Raises DdpmError where it fails."""
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
    remove_earlier(folder, _FILES)
    heading = (
        f"The {len(worst.fakes)} of {n_fake:,} fakes least like any real image, with their nearest"
    )
    _draw(folder / FAKES, worst.fakes, (fake, real), ("fake", "real"), heading)
    if worst.reals:
        count = f"{len(worst.reals)} of {worst.uncovered:,}"
        heading = f"{count} real images that no fake is near to, with their nearest"
        _draw(folder / REALS, worst.reals, (real, fake), ("real", "fake"), heading)
    write_json(folder / LIST, document)  # last: it stands for all
    return Shown(str(folder), worst.uncovered, n_real)


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
        captions.append(f"{_short(own.name(index))}: {image.radii:.3g} radii")
        for distance in image.distances:
            pixels, index = next(near)
            shown.append(pixels)
            captions.append(f"{_short(others.name(index))}: {distance:.3g}")
    columns = (1 + beside) * groups
    titles = (names[0], *(f"{which} {names[1]}" for which in _ORDINALS[:beside]))
    words = Words(heading, titles * groups, captions=captions)
    width = max(sheets.WIDTH, _TILE * columns)
    marked = range(0, len(shown), 1 + beside)
    files.write_png(
        path, sheets.sheet(_alike(shown), columns, words, gap=8, width=width, marked=marked)
    )


def _short(name: str) -> str:
    """A file's name without its suffix, and the folder that it is in, mostly its class."""
    return "/".join(PurePosixPath(name).with_suffix("").parts[-2:])


def _alike(images: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Images as one array (N, 3, H, W), resized where their sizes differ or are large."""
    arrays = [image.expand(3, -1, -1).numpy() for image in images]
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1 or max(arrays[0].shape) > 2 * _SIDE:
        arrays = [files.fit(array, Transform(3, (_SIDE, _SIDE))) for array in arrays]
    return np.stack(arrays)
