"""Editing digits of the test set: image to image, inpainting, inversion, interpolation.

    python docs/figures/editing.py --run runs/mnist-train-28 --data mnist-test.zip

The run is that of `ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores; the
data are a .zip of images in class folders, of which the first of a class is taken.

- strength.png: digits on the way to another class, by --strength;
- inpainting.png: the lower half of a digit drawn anew as six classes, with and without --resample;
- inversion.png: eight digits, and what is sampled from their noise;
- interpolation.png: from one digit to another, by their noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from drawing import Pixels, ddpm, extracted, options, save, sheet
from PIL import Image

import ddpm_cli

OUTPUTS = ("strength.png", "inpainting.png", "inversion.png", "interpolation.png")

STRENGTHS = (0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1)
TOWARDS = {"3": "8", "7": "4", "1": "2"}
FILLED = ("3", "8", "9", "2", "5", "7")
GREY = 128  # of what is drawn anew, in the picture


def main() -> None:
    """Draw all four."""
    chosen = options(__doc__, run="a run of MNIST", data="a .zip of test images in class folders")
    model = ddpm_cli.load(chosen.run)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extracted(Path(chosen.data), folder, list("01234567"))
        digits = {path.stem: opened(path) for path in sorted(folder.glob("*.png"))}

        cells = [
            model.edit(digits[one][None], strength=s, classes=[other], guidance=3)[0]
            for one, other in TOWARDS.items()
            for s in STRENGTHS
        ]
        rows = [f"{one} to {other}" for one, other in TOWARDS.items()]
        titles = [f"{s:g}" for s in STRENGTHS]
        picture = sheet(np.stack(cells), len(STRENGTHS), titles=titles, rows=rows)
        save(chosen.out / "strength.png", picture)

        image = digits["3"]
        hole = np.zeros(image.shape[:2], np.uint8)
        hole[len(hole) // 2 :] = 255
        given = np.where(hole[..., None] > 0, GREY, image).astype(np.uint8)
        cells = []
        for times in (1, 10):
            cells += [image, given]
            for other in FILLED:
                settings: dict[str, Any] = {"mask": hole, "resample": times, "guidance": 2}
                cells += model.edit(image[None], classes=[other], **settings)
        titles, rows = ["image", "to draw", *FILLED], ["--resample 1", "--resample 10"]
        save(chosen.out / "inpainting.png", sheet(np.stack(cells), 8, titles=titles, rows=rows))

        ddpm("invert", chosen.run, folder, "--out", folder / "noise")
        save(chosen.out / "inversion.png", Image.open(folder / "noise" / "inversion.png"))
        ends = (folder / "3.png", folder / "5.png")
        ddpm("interpolate", chosen.run, *ends, "-n", 9, "--out", folder / "between")
        save(chosen.out / "interpolation.png", Image.open(folder / "between" / "grid.png"))


def opened(path: Path) -> Pixels:
    """A grey image file, (H, W, 1)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))[..., None]


if __name__ == "__main__":
    main()
