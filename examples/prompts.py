"""Compositional generalisation of a captioned model: train on shapes, sample unseen captions.

Shapes have 360 captions: size, colour, figure and background. A third of them is held out of the
training set, while each word still occurs in other combinations. A hundred prompts then request
held-out combinations only, and the share of images that match their prompt is counted:

    python examples/prompts.py
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.shapes import COLOURS, FIGURES, SIZES, Figure, Shapes, render
from ddpm_cli.core.data.transform import Transform

IMAGES = 12_000  # of which a third is held out
PROMPTS = 100
SIDE = 32  # pixels
GUIDANCE = 4
SETTINGS = {"network": {"text": {"width": 64}}}  # enough for so few words


class Content(NamedTuple):
    """The content of an image of shapes."""

    size: str
    colour: str
    figure: str
    background: str


def write_folder(folder: Path) -> None:
    """Write shapes and captions.csv into a folder, without the held-out combinations."""
    source = Shapes(IMAGES)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for index in range(IMAGES):
            shape = source.describe(index)
            if not held_out(Content(shape.size, shape.colour, shape.figure, shape.background)):
                name = f"{index:05d}.png"
                files.write_png(folder / name, source.image(index, Transform(3, (SIDE, SIDE))))
                table.writerow([name, shape.caption])


def held_out(content: Content) -> bool:
    """Whether it is held out: for each colour and figure a third of the sizes and backgrounds."""
    values = (list(SIZES), list(COLOURS), list(FIGURES), list(COLOURS))
    return sum(names.index(name) for names, name in zip(values, content, strict=True)) % 3 == 0


def prompts() -> list[str]:
    """A hundred captions of held-out combinations, evenly spaced over all of them."""
    captions = [
        f"a {size} {colour} {figure} on {background}"
        for size, colour, figure, background in product(SIZES, COLOURS, FIGURES, COLOURS)
        if background != colour and held_out(Content(size, colour, figure, background))
    ]
    return [captions[round(i)] for i in np.linspace(0, len(captions) - 1, PROMPTS)]


def evaluate(image: files.ImageArray) -> Content:
    """Recognise the content of an image (3, H, W) uint8: the nearest figure in the same colours."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], dtype=np.float64)
    pixels = image.astype(np.float64).transpose(1, 2, 0)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = _nearest(np.median(border, axis=0), palette)
    distance = np.linalg.norm(pixels - palette[background], axis=2)
    inside = pixels[distance >= 0.7 * distance.max()]
    others = palette.copy()
    others[background] = np.inf
    colour = _nearest(np.median(inside, axis=0), others)

    direction = palette[colour] - palette[background]
    coverage = ((pixels - palette[background]) @ direction / (direction @ direction)).clip(0, 1)
    covers, kinds = _coverages(image.shape[1])  # the nearest by |a - b|^2 = |a|^2 - 2 a b + |b|^2
    figure, radius = kinds[int((np.square(covers).sum(1) - 2 * covers @ coverage.ravel()).argmin())]
    size = "small" if radius < (SIZES["small"][1] + SIZES["large"][0]) / 2 else "large"
    return Content(size, names[colour], figure, names[background])


def _nearest(colour: NDArray[np.float64], palette: NDArray[np.float64]) -> int:
    return int(np.square(palette - colour).sum(axis=1).argmin())


@cache
def _coverages(side: int) -> tuple[NDArray[np.float64], list[tuple[str, float]]]:
    """Coverage maps (K, side x side) of every figure at sizes and offsets, and what each shows."""
    blank = Figure("circle", "white", "black", "small", 0, 0, 1)
    white, black = (COLOURS[name][0] for name in ("white", "black"))
    offsets, radii = (-0.06, 0.0, 0.06), np.linspace(0.5, 0.9, 9)
    covers, kinds = [], []
    for figure, radius, x, y in product(FIGURES, radii, offsets, offsets):
        shape = replace(blank, figure=figure, radius=float(radius), x=x, y=y)
        covers.append((render(shape, (side, side))[0] - float(black)) / (white - black))
        kinds.append((figure, float(radius)))
    return np.stack(covers).reshape(len(covers), -1), kinds


def main() -> None:
    """Write the images, train, sample, and evaluate the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000, help="seen in training")
    parser.add_argument("--place", type=Path, default=Path("prompts"), help="a folder to work in")
    arguments = parser.parse_args()
    data, run, samples = (arguments.place / name for name in ("shapes", "run", "drawn"))
    if not (data / "captions.csv").exists():
        data.mkdir(parents=True)
        write_folder(data)
    settings, prompt_file = arguments.place / "settings.json", arguments.place / "prompts.txt"
    settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
    prompt_file.write_text("\n".join(prompts()) + "\n", encoding="utf-8")

    train = ["train", "--data", data, "--out", run, "--preset", "shapes", "--config", settings]
    _ddpm(*train, "--captions", "--images", arguments.images)
    _ddpm("sample", run, "--prompts", prompt_file, "--guidance", GUIDANCE, "--out", samples)

    correct = {"colour and figure": 0, "colour": 0, "figure": 0, "background": 0, "size": 0}
    for line in (samples / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        _, size, colour, figure, _, background = entry["prompt"].split()
        path = samples / entry["file"]
        content = evaluate(files.decode(path.read_bytes(), path.name))
        same = {"colour": content.colour == colour, "figure": content.figure == figure}
        same |= {"background": content.background == background, "size": content.size == size}
        same["colour and figure"] = same["colour"] and same["figure"]
        correct = {name: count + same[name] for name, count in correct.items()}
    print(json.dumps(correct, indent=2))


def _ddpm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "ddpm_cli", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
