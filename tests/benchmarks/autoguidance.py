"""Autoguidance against classifier-free guidance: distance, precision and recall over weights.

    python -m tests.benchmarks.autoguidance mnist-test.zip --classifier mnist.safetensors \
        --runs runs/digits-s0 runs/digits-s1 runs/digits-s2 --guides 20000 --out autoguidance.json

The runs are those of `ddpm train --data mnist:train --preset mnist --images 100000 --snapshot-every
20000 --keep-every 20000` with the seeds 0, 1 and 2. A guide is a snapshot of the run by the images
seen, early, or a path. All samples have the same seeds; the distance is that in the features of a
classifier of `ddpm train-classifier`, against the held-out images, as precision and recall. A row
of JSON for each, and the calls of networks of an image.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ddpm_cli as ddpm
from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.runtime.files import write_json
from tests.benchmarks.quality import decoded


def settings_of(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names of ways to guide, and their settings of sampling."""
    yield "plain", {}
    for weight in options.weights:
        yield "classifier-free", {"guidance": weight}
        for guide in options.guides:
            snapshot = run / "snapshots" / f"{guide.zfill(12)}.pt"
            path = str(snapshot) if snapshot.is_file() else guide
            yield f"guide {guide}", {"guidance": weight, "guide": path}
    for guide_weight, class_weight in options.both:
        snapshot = run / "snapshots" / f"{options.guides[0].zfill(12)}.pt"
        path = str(snapshot) if snapshot.is_file() else options.guides[0]
        yield (
            f"guide {options.guides[0]}, class guidance {class_weight:g}",
            {"guidance": guide_weight, "guide": path, "class_guidance": class_weight},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held_out", help="images to score against")
    parser.add_argument("--classifier", required=True, help="its features serve for the distance")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--guides", nargs="*", default=["early"])
    parser.add_argument("--weights", type=float, nargs="*", default=[1.5, 2.0, 3.0])
    parser.add_argument("--both", type=float, nargs=2, action="append", default=[])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    held_out, rows = decoded(options.held_out), []
    for run in options.runs:
        model = ddpm.load(run)
        for name, settings in settings_of(run, options):
            started = time.monotonic()
            images = model.sample(options.n, steps=options.steps, **settings)
            report = ddpm.evaluate(
                held_out, images, metrics=["fid", "prdc"], features=options.classifier
            )
            sampling = Sampling(steps=options.steps, **settings)
            rows.append(
                {
                    "run": run.name,
                    "guided": name,
                    "weight": sampling.guidance,
                    "distance": round(report.fid or 0.0, 3),
                    **{key: round(getattr(report, key), 4) for key in ("precision", "recall")},
                    "calls": evaluations(model.denoiser.schedule, sampling),
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            if options.out is not None:
                write_json(options.out, rows)


if __name__ == "__main__":
    main()
