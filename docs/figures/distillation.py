"""Digits of the same seeds by a teacher in 50 network calls, and by its student in 1 and 2.

    python docs/figures/distillation.py --teacher runs/digits --student runs/digits-distilled

The teacher is that of `ddpm train --data mnist:train --preset mnist --images 88000 --out
runs/digits`, the student that of `ddpm distill runs/digits`. Written is distillation.png, three
grids.
"""

from __future__ import annotations

import numpy as np
from drawing import Pixels, options, save, sheet

import ddpm_cli as ddpm

OUTPUTS = ("distillation.png",)

COLUMNS, ROWS = 10, 6  # a column for each digit


def tiled(images: Pixels) -> Pixels:
    """Images (N, H, W, C) as one."""
    starts = range(0, len(images), COLUMNS)
    return np.concatenate([np.concatenate(list(images[i : i + COLUMNS]), axis=1) for i in starts])


def main() -> None:
    """Draw the grids side by side."""
    chosen = options(__doc__, teacher="a run of MNIST", student="the run distilled from it")
    teacher, student = ddpm.load(chosen.teacher), ddpm.load(chosen.student)
    count = COLUMNS * ROWS
    grids = [tiled(teacher.sample(count, steps=50))]
    grids += [tiled(student.sample(count, steps=calls)) for calls in (1, 2)]
    captions = ["teacher, 50 calls", "student, 1 call", "student, 2 calls"]
    save(chosen.out / OUTPUTS[0], sheet(np.stack(grids), 3, captions=captions))


if __name__ == "__main__":
    main()
