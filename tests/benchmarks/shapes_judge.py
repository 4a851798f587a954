"""Judge samples of the built-in shapes by the true figures, which are drawn by code.

    ddpm sample runs/shapes-32 -n 36 --out judged && python -m tests.benchmarks.shapes_judge judged

Each image is fitted by a figure: its class, place and radius by search, its two colours by least
squares. An image passes where the figure is of the class asked for, the root mean square of what
the fit leaves is at most 8 of 255 grey levels, and both colours are near two of the palette. True
images leave 0 to 3; an edge that wobbles by half a pixel leaves more than 8.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data.shapes import COLOURS, Figure, render

LARGEST_RESIDUAL = 8.0  # grey levels of 255, root mean square over pixels and channels
LARGEST_COLOUR_ERROR = 24.0  # grey levels, of the worst channel of the figure or the background
FIGURES = ("circle", "square", "triangle", "star", "cross", "ring")

_RADII = np.arange(0.46, 0.95, 0.04)
_PLACES = np.linspace(-0.1, 0.1, 5)
_CANDIDATES = 2  # figures that are fitted exactly
_HALVINGS = 7  # of the steps of a search, which begins at the grid's spacing

Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """The true figure that is nearest to an image."""

    figure: str
    residual: float  # grey levels, root mean square
    colour_error: float  # grey levels, to the nearest colour of the palette

    def passes(self, figure: str) -> bool:
        """Whether it is the figure asked for, with straight edges and flat, known colours."""
        return (
            self.figure == figure
            and self.residual <= LARGEST_RESIDUAL
            and self.colour_error <= LARGEST_COLOUR_ERROR
        )


def fit(image: NDArray[np.uint8]) -> Fit:
    """The nearest figure to an image (H, W, 3)."""
    size, pixels = image.shape[:2], image.reshape(-1, 3).astype(np.float64)
    places, masks = _grid(size)
    centred = masks - masks.mean(axis=1, keepdims=True)
    explained = ((centred @ (pixels - pixels.mean(axis=0))) ** 2).sum(1) / (centred**2).sum(1)
    starts: dict[str, Floats] = {}
    for index in np.argsort(-explained):
        figure, place = places[index]
        starts.setdefault(figure, place)
    found = [
        (*_search(pixels, size, figure, place), figure)
        for figure, place in list(starts.items())[:_CANDIDATES]
    ]
    residual, place, figure = min(found, key=lambda one: one[0])
    colours = _colours(pixels, _mask(size, figure, place))[0]
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    distances = abs(colours[:, None] - palette).max(axis=2).min(axis=1)
    return Fit(figure, residual, float(distances.max()))


def _search(
    pixels: Floats, size: tuple[int, int], figure: str, place: Floats
) -> tuple[float, Floats]:
    """Coordinate search for the x, y and radius of the least residual."""
    residual, step = _colours(pixels, _mask(size, figure, place))[1], 0.025
    for _ in range(_HALVINGS):
        improved = True
        while improved:
            improved = False
            for direction in (*np.eye(3), *-np.eye(3)):
                moved = place + step * direction
                other = _colours(pixels, _mask(size, figure, moved))[1]
                if other < residual - 1e-9:
                    residual, place, improved = other, moved, True
        step /= 2
    return residual, place


def _colours(pixels: Floats, mask: Floats) -> tuple[Floats, float]:
    """Background and figure (2, 3) that fit best by least squares, and the residual."""
    coverage = np.stack([1 - mask, mask], axis=1)
    colours = np.linalg.lstsq(coverage, pixels, rcond=None)[0]
    return colours, float(np.sqrt(np.mean((pixels - coverage @ colours) ** 2)))


def _mask(size: tuple[int, int], figure: str, place: Floats) -> Floats:
    """How much of each pixel (H W,) a figure covers, as the data set renders it."""
    x, y, radius = place.tolist()
    drawn = render(Figure(figure, "white", "black", "", x, y, radius), size)
    black, white = COLOURS["black"][0], COLOURS["white"][0]
    return (drawn[0].reshape(-1).astype(np.float64) - black) / (white - black)


@functools.cache
def _grid(size: tuple[int, int]) -> tuple[list[tuple[str, Floats]], Floats]:
    """Figures at all places and radii of a grid, and their masks (N, H W)."""
    places = [
        (figure, np.array([x, y, radius]))
        for figure in FIGURES
        for radius in _RADII
        for x in _PLACES
        for y in _PLACES
    ]
    return places, np.stack([_mask(size, *place) for place in places])


def judged(folder: Path) -> list[tuple[str, str, Fit]]:
    """(file, class asked for, fit) of each image that `ddpm sample` wrote into a folder."""
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [
        (entry["file"], entry["class"], fit(np.asarray(Image.open(folder / entry["file"]))))
        for entry in entries
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of ddpm sample, by class")
    rows = judged(parser.parse_args().folder)
    for file, figure, found in rows:
        verdict = "passes" if found.passes(figure) else "fails"
        print(
            f"{file} {figure:8s} {verdict}: {found.figure}, residual {found.residual:.1f}, "
            f"colours off by {found.colour_error:.0f}"
        )
    right = sum(found.figure == figure for _, figure, found in rows)
    passed = sum(found.passes(figure) for _, figure, found in rows)
    residuals = [found.residual for *_, found in rows]
    print(
        f"{passed} of {len(rows)} pass, {right} of the right class, residual "
        f"{np.median(residuals):.1f} median, {max(residuals):.1f} largest"
    )


if __name__ == "__main__":
    main()
