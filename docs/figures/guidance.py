"""What guidance does to samples of the same seeds, and what tames strong guidance.

    python docs/figures/guidance.py --colours runs/cifar10-train-32 --digits runs/mnist-train-28

The runs are those of `ddpm train --data cifar10:train --preset small --minutes 12` and
`ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores.

- guidance.png: a picture of each class at five strengths;
- guidance-diversity.png: twelve seeds of one digit at the same strengths;
- thresholds.png: strong guidance with each threshold, in an interval, and rescaled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from drawing import Pixels, options, save, sheet

import ddpm_cli as ddpm

OUTPUTS = ("guidance.png", "guidance-diversity.png", "thresholds.png")

STRENGTHS = (0, 1, 2, 4, 8)
SETTINGS: dict[str, Any] = {"steps": 30}
TAMED: dict[str, dict[str, Any]] = {
    "guidance 1": {"guidance": 1},
    "guidance 8, no threshold": {"guidance": 8, "threshold": "none"},
    "8, static (default)": {"guidance": 8},
    "8, dynamic": {"guidance": 8, "threshold": "dynamic"},
    "8, interval 0.3,5": {"guidance": 8, "guidance_interval": (0.3, 5.0)},
    "8, rescale 0.7": {"guidance": 8, "guidance_rescale": 0.7},
}
DIGIT, SEEDS = "2", 12


def limits(images: Pixels) -> str:
    """The share of values that are black or white."""
    return f"{100 * np.isin(images, (0, 255)).mean():.0f} % at the limits"


def main() -> None:
    """Draw all three."""
    chosen = options(__doc__, colours="a run of CIFAR-10", digits="a run of MNIST")
    colours, digits = ddpm.load(chosen.colours), ddpm.load(chosen.digits)
    titles, rows = (
        [c.replace("automobile", "auto-mobile") for c in colours.classes],
        [f"guidance {g}" for g in STRENGTHS],
    )

    shown = [colours.sample(len(titles), guidance=g, **SETTINGS) for g in STRENGTHS]
    picture = sheet(np.concatenate(shown), len(titles), titles=titles, rows=rows)
    save(chosen.out / "guidance.png", picture)

    shown = [digits.sample(SEEDS, classes=[DIGIT], guidance=g, **SETTINGS) for g in STRENGTHS]
    save(chosen.out / "guidance-diversity.png", sheet(np.concatenate(shown), SEEDS, rows=rows))

    shown = [colours.sample(len(titles), **SETTINGS, **tamed) for tamed in TAMED.values()]
    rows = [f"{name}: {limits(images)}" for name, images in zip(TAMED, shown, strict=True)]
    picture = sheet(np.concatenate(shown), len(titles), titles=titles, rows=rows)
    save(chosen.out / "thresholds.png", picture)


if __name__ == "__main__":
    main()
