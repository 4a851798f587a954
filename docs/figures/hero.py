"""docs/images/hero.png: noise becomes shapes, digits and colour pictures.

    python docs/figures/hero.py --shapes runs/shapes-32 --digits runs/mnist-train-28 \
        --colours runs/cifar10-train-32

The runs are those of tests/benchmarks/quality.py with --out, seed 0: 50,000 shapes, 88,000 digits
and 114,000 pictures of CIFAR-10 (docs/performance.md, Presets as shipped). The samples are
those of seeds 0 to 15, all classes in turn: what `ddpm sample --guidance 2 -n 16` draws.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from drawing import Pixels, options, save
from PIL import Image, ImageDraw, ImageFont

import ddpm_cli as ddpm
from ddpm_cli.core.runtime.seeds import ImageNoise

OUTPUTS = ("hero.png",)

ROWS, STATES, MORE = 2, 7, 7  # of each run: samples shown from noise on, states, others
SHOWN = np.array([0, 0.1, 0.22, 0.36, 0.54, 0.78])  # which states: shares of the steps
GUIDANCE = 2.0
TITLES = {"shapes": "shapes", "digits": "digits", "colours": "CIFAR-10"}
STEPS = 50
TILE, GAP, BETWEEN = 96, 5, 22  # pixels: an image, between images, between groups of them


def drawn(run: str) -> tuple[Pixels, Pixels]:
    """States (ROWS, STATES, H, W, 3) of the first samples, and further samples (ROWS, MORE, …).

    DDIM, with D clipped to [-1, 1]: what `ddpm sample --guidance` does, written out.
    """
    model = ddpm.load(run)
    schedule, count = model.denoiser.schedule, ROWS * (1 + MORE)
    shape = model.config.network.channels, *model.config.network.size
    classes = [model.classes[i % len(model.classes)] for i in range(count)]
    every = len(schedule.sigma) // STEPS
    sigmas = [*schedule.sigma[::-every].tolist(), 0.0]
    noise = ImageNoise(range(count), shape, torch.device("cpu"))
    x, states = schedule.prior_std(sigmas[0]) * noise(), []
    for sigma, following in pairwise(sigmas):
        states.append(x[:ROWS] / (1 + sigma**2) ** 0.5)
        with torch.no_grad():
            x0 = model.denoise(x, sigma, classes=classes, guidance=GUIDANCE).clamp(-1, 1)
        x = x0 + following / sigma * (x - x0)
    shown = [states[i] for i in (SHOWN * STEPS).round().astype(int)]
    return pixels(torch.stack([*shown, x[:ROWS]], 1)), pixels(x[ROWS:].view(ROWS, MORE, *shape))


def pixels(x: torch.Tensor) -> Pixels:
    """States (…, C, H, W) in [-1, 1] as uint8 (…, H, W, 3)."""
    grey = (x.clamp(-1, 1) * 127.5 + 127.5).round().byte().numpy()
    return np.broadcast_to(np.moveaxis(grey, -3, -1), (*x.shape[:-3], *x.shape[-2:], 3))


def main() -> None:
    """Draw each run's band below the one before."""
    runs = {name: f"the run of {title}" for name, title in TITLES.items()}
    chosen = options(__doc__, **runs)
    step, left = TILE + GAP, 44
    width = left + (STATES + MORE) * step + BETWEEN
    band = ROWS * step + BETWEEN
    canvas = Image.new("RGB", (width, len(runs) * band - BETWEEN), "white")
    for number, name in enumerate(runs):
        films, others = drawn(getattr(chosen, name))
        for row in range(ROWS):
            for column, image in enumerate([*films[row], *others[row]]):
                tile = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.NEAREST)
                x = left + column * step + BETWEEN * (column >= STATES)
                canvas.paste(tile, (x, number * band + row * step))
        canvas.paste(upright(TITLES[name], ROWS * step - GAP, left - 8), (0, number * band))
    save(chosen.out / OUTPUTS[0], canvas)


def upright(text: str, length: int, across: int) -> Image.Image:
    """A title that runs upwards, in the middle of so many pixels."""
    paper = Image.new("RGB", (length, across), "white")
    font = ImageFont.load_default(26)
    ImageDraw.Draw(paper).text((length / 2, across / 2), text, "black", font, anchor="mm")
    return paper.rotate(90, expand=True)


if __name__ == "__main__":
    main()
