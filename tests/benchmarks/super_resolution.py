"""Super-resolution of held-out images against bicubic: PSNR and a distance; one JSON line.

    ddpm train --data mnist-train.zip --preset mnist --unconditional --given lowres:4 --minutes 9 \
        --out digits
    python -m tests.benchmarks.super_resolution digits mnist-test.zip -n 1000 \
        --features mnist-classifier.safetensors --picture super-resolution.png

The images are reduced as in training, and rounded to 8 bits. A sample is one of the many images
that fit, as sharp as an image; their mean, and samples of few steps, have a smaller squared error
and are blurred. So PSNR (in decibels) and a distance (FID, or local with --features, of the images
from the originals) are given of bicubic interpolation, of samples and of the mean of some.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ddpm_cli as ddpm
from ddpm_cli.core.conditioning.images import as_input, degraded
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.loader import prepare
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.reporting import Silent

Images = NDArray[np.uint8]
"""(N, H, W, C)."""

_SHOWN = 10  # images in the picture


def psnr(images: NDArray[Any], real: Images) -> float:
    """Mean over images of the peak signal-to-noise ratio, in decibels."""
    errors = (images.astype(np.float64) - real).reshape(len(real), -1)
    return float((10 * np.log10(255**2 / (errors**2).mean(axis=1))).mean())


def held_out(data: str, config: RunConfig, count: int) -> Images:
    """Some of the images of a source, at the model's size, evenly spaced."""
    images = prepare(open_source(data, Silent()), Transform.of(config), Silent())
    rows = np.arange(count) * len(images) // count
    return images.pixels_of(rows).permute(0, 2, 3, 1).numpy()


def reduced(images: Images, config: RunConfig) -> tuple[Images, Images]:
    """The small images, and those enlarged by bicubic interpolation."""
    degradation = config.data.degradation
    assert degradation is not None and degradation.kind == "lowres", "a run of --given lowres"
    small = to_uint8(degraded(to_unit(torch.from_numpy(images).permute(0, 3, 1, 2)), degradation))
    large = to_uint8(as_input(to_unit(small), config.network.size))
    return small.permute(0, 2, 3, 1).numpy(), large.permute(0, 2, 3, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", help="held-out images")
    parser.add_argument("-n", type=int, default=1000, help="images")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 50], help="of a sample")
    parser.add_argument(
        "--samples", type=int, default=4, help="of an image, of which a mean is taken"
    )
    parser.add_argument("--features", type=Path, help="a classifier of ddpm train-classifier")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    model = ddpm.load(options.run)
    real = held_out(options.data, model.config, options.n)
    small, bicubic = reduced(real, model.config)
    local = {} if options.features is None else {"features": options.features}

    def judged(images: NDArray[Any]) -> dict[str, float]:
        rounded = images.round().astype(np.uint8)
        distance = ddpm.fid(real, rounded, **local)
        return {"psnr": round(psnr(images, real), 2), "distance": round(distance, 2)}

    row: dict[str, Any] = {"run": str(options.run), "images": options.n}
    row["bicubic"] = judged(bicubic)
    for steps in options.steps:
        started = time.monotonic()
        samples = [
            model.sample(given=small, steps=steps, seed=10**6 * seed)
            for seed in range(options.samples)
        ]
        each = 1000 * (time.monotonic() - started) / options.n / options.samples
        row[f"{steps} steps"] = judged(samples[0]) | {"ms": round(each, 1)}
        row[f"{steps} steps, mean of {options.samples}"] = judged(np.mean(samples, axis=0))
    print(json.dumps(row, default=str))
    if options.picture is not None:
        shown = np.arange(_SHOWN) * options.n // _SHOWN
        parts = small[shown], bicubic[shown], samples[0][shown], real[shown]
        write_picture(options.picture, parts, options.steps[-1])


def write_picture(path: Path, parts: tuple[Images, ...], steps: int) -> None:
    """Low resolution, bicubic, a sample and the original below each other."""
    small, *others = parts
    factor = others[0].shape[1] // small.shape[1]
    squares = small.repeat(factor, axis=1).repeat(factor, axis=2)
    images = np.concatenate([squares, *others]).transpose(0, 3, 1, 2)
    titles = ("given", "bicubic", f"sampled in {steps} steps", "original")
    sheet = sheets.sheet(images, len(small), sheets.Words(rows=titles), width=1000)
    files.write_png(path, sheet)


if __name__ == "__main__":
    main()
