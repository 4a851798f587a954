"""Does a model of captions understand them? Train on shapes, draw what it never saw, and judge.

Shapes have 360 captions: size, colour, figure and ground. A third of them is left out of the
training pictures altogether, so each word is there in other combinations. A hundred prompts then
ask for combinations that were left out, and for no others:

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
from ddpm_cli.core.data.shapes import COLOURS, FIGURES, SIZES, Figure, Shapes, draw

PICTURES = 12_000  # of which a third is left out
PROMPTS = 100
SIDE = 32  # pixels
GUIDANCE = 4
SETTINGS = {"network": {"text": {"width": 64}}}  # so few words need no more


class Seen(NamedTuple):
    """What a picture of shapes shows."""

    size: str
    colour: str
    figure: str
    ground: str


def write_folder(folder: Path) -> None:
    """Write shapes and captions.csv into a folder, without the combinations that are left out."""
    source = Shapes(PICTURES)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for index in range(PICTURES):
            shown = source.describe(index)
            if not left_out(Seen(shown.size, shown.colour, shown.figure, shown.ground)):
                name = f"{index:05d}.png"
                files.write_png(folder / name, source.image(index, 3, (SIDE, SIDE)))
                table.writerow([name, shown.caption])


def left_out(shown: Seen) -> bool:
    """Whether training sees none such: of each colour and figure a third of sizes and grounds."""
    places = (list(SIZES), list(COLOURS), list(FIGURES), list(COLOURS))
    return sum(place.index(word) for place, word in zip(places, shown, strict=True)) % 3 == 0


def prompts() -> list[str]:
    """A hundred captions of combinations that were left out, evenly spread over all of them."""
    told = [
        f"a {size} {colour} {figure} on {ground}"
        for size, colour, figure, ground in product(SIZES, COLOURS, FIGURES, COLOURS)
        if ground != colour and left_out(Seen(size, colour, figure, ground))
    ]
    return [told[round(i)] for i in np.linspace(0, len(told) - 1, PROMPTS)]


def evaluate(picture: files.ImageArray) -> Seen:
    """Say what a picture (3, H, W) uint8 shows: the figure that, so coloured, is nearest to it."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], dtype=np.float64)
    pixels = picture.astype(np.float64).transpose(1, 2, 0)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = _nearest(np.median(border, axis=0), palette)
    distance = np.linalg.norm(pixels - palette[ground], axis=2)
    inside = pixels[distance >= 0.7 * distance.max()]
    others = palette.copy()
    others[ground] = np.inf
    colour = _nearest(np.median(inside, axis=0), others)

    towards = palette[colour] - palette[ground]
    cover = ((pixels - palette[ground]) @ towards / (towards @ towards)).clip(0, 1)
    covers, kinds = _covers(picture.shape[1])  # the nearest by |a - b|^2 = |a|^2 - 2 a b + |b|^2
    figure, radius = kinds[int((np.square(covers).sum(1) - 2 * covers @ cover.ravel()).argmin())]
    size = "small" if radius < (SIZES["small"][1] + SIZES["large"][0]) / 2 else "large"
    return Seen(size, names[colour], figure, names[ground])


def _nearest(colour: NDArray[np.float64], palette: NDArray[np.float64]) -> int:
    return int(np.square(palette - colour).sum(axis=1).argmin())


@cache
def _covers(side: int) -> tuple[NDArray[np.float64], list[tuple[str, float]]]:
    """Every figure in every size about the middle: where it lies (K, side x side), what it is."""
    blank = Figure("circle", "white", "black", "small", 0, 0, 1)
    white, black = (COLOURS[name][0] for name in ("white", "black"))
    places, radii = (-0.06, 0.0, 0.06), np.linspace(0.5, 0.9, 9)
    covers, kinds = [], []
    for figure, radius, x, y in product(FIGURES, radii, places, places):
        shown = replace(blank, figure=figure, radius=float(radius), x=x, y=y)
        covers.append((draw(shown, (side, side))[0] - float(black)) / (white - black))
        kinds.append((figure, float(radius)))
    return np.stack(covers).reshape(len(covers), -1), kinds


def main() -> None:
    """Write the pictures, train, draw, and judge what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000, help="seen in training")
    parser.add_argument("--place", type=Path, default=Path("prompts"), help="a folder to work in")
    wanted = parser.parse_args()
    data, run, drawn = (wanted.place / name for name in ("shapes", "run", "drawn"))
    if not (data / "captions.csv").exists():
        data.mkdir(parents=True)
        write_folder(data)
    settings, told = wanted.place / "settings.json", wanted.place / "prompts.txt"
    settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
    told.write_text("\n".join(prompts()) + "\n", encoding="utf-8")

    train = ["train", "--data", data, "--out", run, "--preset", "shapes", "--config", settings]
    _ddpm(*train, "--captions", "--images", wanted.images)
    _ddpm("sample", run, "--prompts", told, "--guidance", GUIDANCE, "--out", drawn)

    right = {"colour and figure": 0, "colour": 0, "figure": 0, "ground": 0, "size": 0}
    for line in (drawn / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        _, size, colour, figure, _, ground = entry["prompt"].split()
        path = drawn / entry["file"]
        seen = evaluate(files.decode(path.read_bytes(), path.name))
        same = {"colour": seen.colour == colour, "figure": seen.figure == figure}
        same |= {"ground": seen.ground == ground, "size": seen.size == size}
        same["colour and figure"] = same["colour"] and same["figure"]
        right = {name: count + same[name] for name, count in right.items()}
    print(json.dumps(right, indent=2))


def _ddpm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "ddpm_cli", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
