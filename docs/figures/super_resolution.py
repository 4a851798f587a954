"""Held-out pictures at a quarter of their sides, enlarged by interpolation and by a model.

    ddpm train --data mnist-train.zip --preset mnist --unconditional --given lowres:4 --minutes 9
    ddpm train --data cifar10-train.zip --preset small --unconditional --given lowres:4 --minutes 28
    python docs/figures/super_resolution.py --digits RUN --digits-data mnist-test.zip \
        --colours RUN --colours-data cifar10-test.zip

- super-resolution.png: digits; super-resolution-cifar10.png: CIFAR-10.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from drawing import Pixels, extracted, options, save, sheet
from PIL import Image

import ddpm_cli as ddpm

OUTPUTS = ("super-resolution.png", "super-resolution-cifar10.png")

FACTOR, STEPS, SHOWN = 4, 25, 10


def enlarged(model: ddpm.TrainedModel, folder: Path) -> Pixels:
    """What is given, bicubic interpolation, a sample, and the originals: (4 SHOWN, H, W, C)."""
    mode = "L" if model.config.network.channels == 1 else "RGB"
    small, bicubic, originals = [], [], []
    for path in sorted(folder.iterdir())[:SHOWN]:
        with Image.open(path) as file:
            image = file.convert(mode)
        reduced = image.resize([side // FACTOR for side in image.size], Image.Resampling.BICUBIC)
        small.append(np.atleast_3d(np.asarray(reduced)))
        bicubic.append(
            np.atleast_3d(np.asarray(reduced.resize(image.size, Image.Resampling.BICUBIC)))
        )
        originals.append(np.atleast_3d(np.asarray(image)))
    given = np.stack(small)
    sampled = model.sample(given=given, steps=STEPS)
    squares = given.repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)
    return np.concatenate([squares, np.stack(bicubic), sampled, np.stack(originals)])


def main() -> None:
    """Draw both."""
    chosen = options(
        __doc__,
        digits="a run of MNIST with --given lowres:4",
        digits_data="a .zip of test images in class folders",
        colours="a run of CIFAR-10 with --given lowres:4",
        colours_data="likewise",
    )
    rows = ("given", "bicubic", f"sampled in {STEPS} steps", "original")
    runs = {chosen.digits: chosen.digits_data, chosen.colours: chosen.colours_data}
    for name, (run, data) in zip(OUTPUTS, runs.items(), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            extracted(Path(data), Path(folder))
            images = enlarged(ddpm.load(run), Path(folder))
        save(chosen.out / name, sheet(images, SHOWN, rows=rows))


if __name__ == "__main__":
    main()
