"""Super-resolution of held-out images against bicubic: PSNR and a distance; one JSON line.

    ddpm train --data mnist-train.zip --preset mnist --unconditional --given lowres:4 --minutes 9 \
        --out digits
    python -m tests.benchmarks.super_resolution digits mnist-test.zip -n 1000 \
        --features mnist-classifier.safetensors --picture super-resolution.png

The images are reduced as in training, and rounded to 8 bits. A sample is one of the many images
that fit; their mean has the least squared error, and a single step from pure noise predicts it. So
PSNR is given of one step, of the mean of several samples, and of single samples; the distance (FID,
or local with --features) is that of single samples, which are as sharp as images.
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
from ddpm_cli.core.data import files, sheets
from ddpm_cli.core.data.loader import prepare
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
    parser.add_argument("--steps", type=int, default=50, help="of a sample")
    parser.add_argument("--samples", type=int, default=8, help="in a mean")
    parser.add_argument("--averaged", type=int, default=200, help="images of which there is a mean")
    parser.add_argument("--features", type=Path, help="a classifier of ddpm train-classifier")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    model = ddpm.load(options.run)
    real = held_out(options.data, model.config, options.n)
    small, bicubic = reduced(real, model.config)
    started = time.monotonic()
    sampled = model.sample(given=small, steps=options.steps)
    seconds = time.monotonic() - started
    one_step = model.sample(given=small, steps=1)
    few = min(options.averaged, options.n)
    means = np.mean(
        [
            model.sample(given=small[:few], steps=options.steps, seed=10**6 * seed)
            for seed in range(options.samples)
        ],
        axis=0,
    )
    local = {} if options.features is None else {"features": options.features}
    row = {
        "run": str(options.run),
        "images": options.n,
        "steps": options.steps,
        "ms/image": round(1000 * seconds / options.n, 1),
        "psnr": {
            "bicubic": psnr(bicubic, real),
            "one step": psnr(one_step, real),
            f"mean of {options.samples} samples": psnr(means, real[:few]),
            f"bicubic, the same {few} images": psnr(bicubic[:few], real[:few]),
            "sample": psnr(sampled, real),
        },
        "distance": {
            "bicubic": ddpm.fid(real, bicubic, **local),
            "one step": ddpm.fid(real, one_step, **local),
            "sample": ddpm.fid(real, sampled, **local),
        },
    }
    print(json.dumps(row, default=str))
    if options.picture is not None:
        columns = small[:_SHOWN], bicubic[:_SHOWN], sampled[:_SHOWN], real[:_SHOWN]
        write_picture(options.picture, columns, options.steps)


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
