"""Films, and strips of their states, of a run of digits: commands of `ddpm gif`.

    python docs/figures/films.py --run runs/mnist-train-28 --data mnist-test.zip

The run is that of `ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores; the
data are a .zip of images in class folders.

- film.gif: digits emerging from noise, and beside them what the model sees in the noise;
- film-strip.png: the same as a strip; film-forward.png: two test images dissolving in noise;
- film-morph.png: one class becoming another; film-interpolation.png: one seed becoming another.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from drawing import ddpm, extracted, options, reduce

OUTPUTS = (
    "film.gif",
    "film-strip.png",
    "film-morph.png",
    "film-interpolation.png",
    "film-forward.png",
)


def main() -> None:
    """Run each command of docs/sampling.md."""
    chosen = options(__doc__, run="a run of MNIST", data="a .zip of test images in class folders")

    def gif(name: str, *arguments: object) -> None:
        path = chosen.out / name
        ddpm("gif", chosen.run, *arguments, "--out", path, "--overwrite")
        if path.suffix == ".png":
            reduce(path)

    guided = ("--guidance", 2)
    four = ("--class", 2, "--class", 3, "--class", 5, "--class", 8, "-n", 4, "--grid", "2x2")
    gif("film.gif", *four, *guided, "--show", "both", "--frames", 24)
    strip = ("--strip", *guided, "--frames", 8)
    gif("film-strip.png", *strip, "--show", "both", "-n", 2, "--class", 3, "--class", 7)
    gif("film-morph.png", *strip, "--morph", 3, 8, "-n", 3, "--steps", 20)
    gif("film-interpolation.png", *strip, "--interpolate", 3, 18, "-n", 2, "--steps", 20)
    with tempfile.TemporaryDirectory() as folder:
        extracted(Path(chosen.data), Path(folder), ["3", "7"])
        gif("film-forward.png", "--forward", folder, "--strip", "--frames", 8)


if __name__ == "__main__":
    main()
