"""Samples of the same seeds by sampler and number of steps, and by the share of fresh noise.

    python docs/figures/samplers.py --run runs/mnist-train-28

The run is that of `ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores.

- samplers.png: five samplers, 4 to 64 steps, with the calls of the network that an image costs;
- eta.png: one starting noise, and eight draws of the noise that is added on the way.
"""

from __future__ import annotations

import numpy as np
from drawing import Pixels, options, save, sheet

import ddpm_cli as ddpm

OUTPUTS = ("samplers.png", "eta.png")

SAMPLERS = ("ddim", "ddpm", "heun", "dpmpp-2m", "ipndm")
STEPS = (4, 8, 16, 32, 64)
ETAS = (0, 0.25, 0.5, 0.75, 1)
SHOWN = ("2", "4", "5", "8")  # the digits of seeds 0 to 3, in each cell
DRAWS = 8


def tiled(images: Pixels) -> Pixels:
    """Four images (4, H, W, C) as one, two by two."""
    rows = [np.concatenate(list(images[i : i + 2]), axis=1) for i in (0, 2)]
    return np.concatenate(rows)


def main() -> None:
    """Draw both."""
    chosen = options(__doc__, run="a run of MNIST")
    model = ddpm.load(chosen.run)
    cells, captions = [], []
    for sampler in SAMPLERS:
        for steps in STEPS:
            drawn = model.sample(4, classes=SHOWN, sampler=sampler, steps=steps)
            cells.append(tiled(drawn))
            calls = 2 * steps - 1 if sampler == "heun" else steps
            captions.append(f"{calls} calls")
    titles = [f"{steps} steps" for steps in STEPS]
    picture = sheet(
        np.stack(cells), len(STEPS), titles=titles, rows=SAMPLERS, captions=captions, width=600
    )
    save(chosen.out / "samplers.png", picture)

    (height, width), channels = model.config.network.size, model.config.network.channels
    start = np.random.default_rng(0).standard_normal((1, channels, height, width), np.float32)
    rows = []
    for eta in ETAS:
        for seed in range(DRAWS):
            drawn = model.sample(1, noise=start, seed=seed, classes=["5"], eta=eta, guidance=1.5)
            rows.append(drawn)
    titles = [f"noise {seed}" for seed in range(DRAWS)]
    names = [f"eta {eta:g}" for eta in ETAS]
    save(chosen.out / "eta.png", sheet(np.concatenate(rows), DRAWS, titles=titles, rows=names))


if __name__ == "__main__":
    main()
