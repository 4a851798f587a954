"""docs/images/augmentation.png: shapes, and what `ddpm train --augment 0.5` makes of them. No run.

python docs/figures/augmentation.py
"""

from __future__ import annotations

import numpy as np
import torch
from drawing import options, save, sheet

from ddpm_cli.core.data.augmentation import augment, sample_parameters
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform

OUTPUTS = ("augmentation.png",)

SHAPES, TIMES, SIDE = (2, 3, 4, 1), 8, 64  # a triangle, a star, a cross, a square


def main() -> None:
    """Each shape, and then several random transformations of it."""
    folder = options(__doc__).out
    source, generator = Shapes(), torch.Generator().manual_seed(0)
    images = [torch.from_numpy(source.image(i, Transform(3, (SIDE, SIDE)))) for i in SHAPES]
    rows = []
    for image in images:
        copies = to_unit(image.repeat(TIMES, 1, 1, 1))
        moved = augment(copies, sample_parameters(TIMES, 0.5, 0.5, generator))
        rows += [image[None], to_uint8(moved)]
    shown = torch.cat(rows).permute(0, 2, 3, 1).numpy()
    titles = ("image", *[""] * TIMES)
    save(
        folder / OUTPUTS[0], sheet(np.ascontiguousarray(shown), 1 + TIMES, titles=titles, width=600)
    )


if __name__ == "__main__":
    main()
