"""Autoguidance against classifier-free guidance: distance, precision and recall over weights.

    python -m tests.benchmarks.autoguidance mnist-test.zip --classifier mnist.safetensors \
        --runs runs/digits-s0 runs/digits-s1 runs/digits-s2 --guides 40000 --both 1.5 1.5 \
        --unconditional 2 --out autoguidance.json

The runs are those of `ddpm train --data mnist:train --preset mnist --images 100000 --snapshot-every
20000 --keep-every 20000` with the seeds 0, 1 and 2. A guide is a snapshot of the run by the images
seen, early, or a path; --both are weights of a guide and of classifier-free guidance beside it,
--unconditional those of a guide where neither model is told the class. All samples have the same
seeds; the distance is that in the features of a classifier of `ddpm train-classifier`, against the
held-out images, as precision and recall. A row of JSON for each, with the network calls of an
image.
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

    def by(guide: str) -> dict[str, Any]:
        snapshot = run / "snapshots" / f"{guide.zfill(12)}.pt"
        return {"guide": str(snapshot) if snapshot.is_file() else guide}

    first, *_ = options.guides
    yield "plain", {}
    for weight in options.weights:
        yield "classifier-free", {"guidance": weight}
        for guide in options.guides:
            yield f"guide {guide}", {"guidance": weight, **by(guide)}
    for weight, scale in options.both:
        settings = {"guidance": weight, "class_guidance": scale}
        yield f"guide {first}, class guidance {scale:g}", settings | by(first)
    if options.unconditional:
        yield "unconditional", {"guidance": 0.0}
    for weight in options.unconditional:
        settings = {"guidance": weight, "class_guidance": 0.0}
        yield f"unconditional, guide {first}", settings | by(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held_out", help="images to score against")
    parser.add_argument("--classifier", required=True, help="its features serve for the distance")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--guides", nargs="*", default=["early"])
    parser.add_argument("--weights", type=float, nargs="*", default=[1.5, 2.0])
    parser.add_argument("--both", type=float, nargs=2, action="append", default=[])
    parser.add_argument("--unconditional", type=float, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("-n", type=int, default=500)
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
