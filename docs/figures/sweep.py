"""Scores over guidance and steps, as `ddpm sweep` draws them.

    ddpm train --data mnist-train.zip --preset mnist --images 100000 --out runs/digits-28
    ddpm train-classifier --data mnist-train.zip --out digits.safetensors
    python docs/figures/sweep.py --run runs/digits-28 --classifier digits.safetensors

- sweep.png: a heat map, with the values that golden section added between those of the grid.

The table is printed as well. Settings that an earlier call scored are not scored again.
"""

from __future__ import annotations

import shutil

from drawing import ddpm, options, reduce

OUTPUTS = ("sweep.png",)

SWEPT = ("--guidance", "1:3", "--steps", "3,6,12", "-n", 150)


def main() -> None:
    """Draw the picture."""
    chosen = options(
        __doc__, run="a run with classes", classifier="a file of ddpm train-classifier"
    )
    told = ddpm("sweep", chosen.run, *SWEPT, "--features", chosen.classifier, "--no-default")
    print(told)
    path = chosen.out / OUTPUTS[0]
    shutil.copy(told.rpartition("Picture: ")[2].splitlines()[0], path)
    reduce(path)


if __name__ == "__main__":
    main()
