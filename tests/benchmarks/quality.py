"""Train a preset for a budget, sample, and score: one JSON line per seed.

    python -m tests.benchmarks.quality mnist mnist-train.zip mnist-test.zip \
        --classifier mnist-classifier.safetensors --minutes 8 --seeds 0 1 2
    python -m tests.benchmarks.quality shapes shapes --minutes 3

The distance is that in the features of a classifier of `ddpm train-classifier`, against the
held-out images; so is `real`, that of as many of the held-out images against the rest. The shapes
are judged by shapes_judge.py, with and without guidance. `--set optimiser.lr=0.004` changes a
setting of the preset, `--out` keeps the runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ddpm_cli as ddpm
from ddpm_cli.core.data.loader import prepare
from ddpm_cli.core.data.shapes import FIGURES
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.generation.trained_model import TrainedModel
from ddpm_cli.core.runtime.reporting import Silent
from tests.benchmarks import shapes_judge

FIGURES_GUIDANCE = (1.0, 2.0)  # plain, and that of the README's first command


def nested(assignments: list[str]) -> dict[str, Any]:
    """Settings given as "optimiser.lr=0.004", values as JSON or plain words."""
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, text = assignment.split("=", 1)
        part, field = name.split(".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        settings.setdefault(part, {})[field] = value
    return settings


def train(
    preset: str, data: str, settings: dict[str, Any], seed: int, out: Path
) -> tuple[TrainedModel, dict[str, Any]]:
    """Train a preset under other settings once; the model, and what it cost."""
    optimiser = settings.get("optimiser", {}) | {"seed": seed}
    config = ddpm.config(preset, preview=0, **(settings | {"optimiser": optimiser}))
    started = time.monotonic()
    model = ddpm.train(config, data, out=out, progress=True)
    seconds = time.monotonic() - started
    seen = model.model.images
    return model, {"images": seen, "seconds": round(seconds), "images/s": round(seen / seconds)}


def judged(model: TrainedModel, count: int, steps: int) -> dict[str, Any]:
    """How many figures pass, by guidance."""
    row: dict[str, Any] = {}
    for guidance in FIGURES_GUIDANCE:
        images = model.sample(count, steps=steps, guidance=guidance)
        asked = [list(FIGURES)[i % len(FIGURES)] for i in range(count)]
        fits = [shapes_judge.fit(image) for image in images]
        row[f"guidance {guidance:g}"] = {
            "pass": sum(fit.passes(figure) for fit, figure in zip(fits, asked, strict=True)),
            "right": sum(fit.figure == figure for fit, figure in zip(fits, asked, strict=True)),
            "residual": round(float(np.median([fit.residual for fit in fits])), 2),
        }
    return row


def scored(
    model: TrainedModel,
    held_out: NDArray[np.uint8],
    classifier: str | None,
    *,
    count: int,
    steps: int,
    guidance: float = 1.0,
) -> dict[str, Any]:
    """The distance of samples from the held-out images, and that of some of these from the rest."""
    fake = model.sample(count, steps=steps, guidance=guidance)
    chosen = np.random.default_rng(0).permutation(len(held_out))
    real, rest = held_out[chosen[:count]], held_out[chosen[count:]]
    features = {"features": classifier}
    return {
        "distance": round(ddpm.fid(held_out, fake, **features), 2),
        "real": round(ddpm.fid(rest, real, **features), 2),
    }


def decoded(path: str) -> NDArray[np.uint8]:
    """All images of a source, (N, H, W, C)."""
    source = open_source(path, Silent())
    transform = Transform(source.native_channels, source.native_size)
    images = prepare(source, transform, Silent())
    pixels, _ = images.take(np.arange(len(images)))
    return pixels.permute(0, 2, 3, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("data", help="what ddpm train --data takes; shapes: judged, not scored")
    parser.add_argument("held_out", nargs="?", help="images to score against")
    parser.add_argument("--classifier", help="its features serve for the distance")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="PART.NAME=VALUE")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("-n", type=int, default=500, help="samples")
    parser.add_argument("--sample-steps", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = nested(options.set)
    limits = {"minutes": options.minutes, "images": options.images}
    if any(limits.values()):
        settings["budget"] = {name: value for name, value in limits.items() if value}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as temporary:
            out = (options.out or Path(temporary)) / f"seed-{seed}"
            model, row = train(options.preset, options.data, settings, seed, out)
            if options.data == "shapes":
                row |= judged(model, options.n, options.sample_steps)
            else:
                row |= scored(
                    model,
                    decoded(options.held_out),
                    options.classifier,
                    count=options.n,
                    steps=options.sample_steps,
                    guidance=options.guidance,
                )
        print(
            json.dumps({"preset": options.preset, "seed": seed, "set": options.set} | row),
            flush=True,
        )


if __name__ == "__main__":
    main()
