"""What the scripts of this folder share: their options, the program `ddpm`, how pictures are saved.

Each script names its pictures in OUTPUTS, and writes them to docs/images, or where `--out` says.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.data.pictures import sheets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[1] / "images"
LARGEST = 300_000  # bytes of a picture: pages stay light
WIDTH = 8.0  # inches of a plot; its letters are legible where a page shows it 700 pixels wide
DOTS = 150  # pixels per inch

Pixels = NDArray[np.uint8]
"""Images (N, H, W, C), or one (H, W, C)."""

matplotlib.rc("font", size=11)
matplotlib.rc("axes", grid=True)
matplotlib.rc("axes.spines", top=False, right=False)
matplotlib.rc("grid", alpha=0.25)
matplotlib.rc("legend", frameon=False)


def options(description: str, **inputs: str) -> argparse.Namespace:
    """The script's options: `--out`, and a required path or name for each input, with its help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in inputs.items():
        parser.add_argument(f"--{name.replace('_', '-')}", required=True, help=text)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    return parsed


def ddpm(*arguments: object) -> str:
    """Run `ddpm` and return its standard output."""
    command = [sys.executable, "-m", "ddpm_cli", *map(str, arguments)]
    print("+ ddpm", *command[3:], file=sys.stderr)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def extracted(archive: Path, folder: Path, classes: Sequence[str] = ()) -> None:
    """Write the first image of these class folders of a .zip, or of all, as CLASS.png or .jpg."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if not name.endswith("/"))
        for kind in classes or sorted({name.split("/")[0] for name in names}):
            first = next(name for name in names if name.split("/")[0] == kind)
            (folder / kind).with_suffix(Path(first).suffix).write_bytes(opened.read(first))


def sheet(
    images: Pixels,
    columns: int,
    *,
    heading: str = "",
    titles: Sequence[str] = (),
    rows: Sequence[str] = (),
    captions: Sequence[str] = (),
    width: int = 700,
) -> Pixels:
    """Tiled images (N, H, W, C) with words, enlarged to at least `width` pixels: (H, W, C)."""
    words = sheets.Words(heading, titles, rows, captions)
    return sheets.sheet(images.transpose(0, 3, 1, 2), columns, words, width=width).transpose(
        1, 2, 0
    )


def save(path: Path, image: Pixels | Image.Image, colours: int = 256) -> None:
    """Write a PNG with a palette of so many colours."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())
    buffer = io.BytesIO()
    if picture.mode != "L":
        picture = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    picture.save(buffer, "PNG", optimize=True)
    if buffer.tell() > LARGEST:
        raise SystemExit(f"{path.name} has {buffer.tell():,} bytes, more than {LARGEST:,}")
    path.write_bytes(buffer.getvalue())
    print(f"{path} ({picture.width}x{picture.height}, {buffer.tell():,} bytes)")


def reduce(path: Path, colours: int = 256) -> None:
    """Save a PNG that `ddpm` wrote again, with a palette."""
    with Image.open(path) as image:
        image.load()
    save(path, image, colours)


def plots(
    rows: int = 1, columns: int = 1, height: float = 3.2, width: float = WIDTH, sharey: bool = False
) -> tuple[Figure, NDArray[Any]]:
    """A figure of rows x columns plots, each row of so many inches, and the plots."""
    figure = Figure(figsize=(width, height * rows), dpi=DOTS, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def save_plots(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG with a palette."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    save(path, Image.open(buffer))


def show(axes: Axes, image: Pixels, title: str = "") -> None:
    """An image on axes of its own, as sharp squares."""
    pixels = image.squeeze()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=title)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
