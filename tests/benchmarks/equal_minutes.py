"""A preset, and the preset with other settings, trained for equal minutes, and scored.

    python -m tests.benchmarks.equal_minutes mnist mnist-train.zip mnist-test.zip \
        --classifier mnist-classifier.safetensors --images 20000 --seeds 0 1 2 \
        --set network.family=transformer --set network.width=128 --set optimiser.lr=0.001

The preset sees --images; the other as many as take the same time of the processor, by steps of
both that are measured in turns in this process: so that what else runs on the machine counts for
both. One thread measures best (OMP_NUM_THREADS=1). A JSON line for each training, with the distance
as in quality.py; --alone trains the other settings only, --speed nothing at all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import ddpm_cli as ddpm
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.training.trainer import Execution
from tests.benchmarks.quality import decoded, nested, scored, train
from tests.benchmarks.training_speed import trainer_of

ROUNDS, STEPS = 3, 25  # of each, in turns


def processor_seconds(config: RunConfig) -> float:
    """Of the processor, for an image of training: of some steps, after three."""
    execution = Execution(torch.device("cpu"), torch.float32)
    spent = []
    for steps in (3, 3 + STEPS):
        with trainer_of(replace(config, budget=Budget(steps=steps)), execution, steps) as trainer:
            before = time.process_time()
            trainer.train(StopRequest())
            spent.append(time.process_time() - before)
    return (spent[1] - spent[0]) / (STEPS * config.optimiser.batch)


def configs(options: argparse.Namespace) -> tuple[RunConfig, RunConfig]:
    """The preset's, and with the other settings, both for the images of the source."""
    source = open_source(options.data, Silent())
    images = {"size": list(source.native_size), "channels": source.native_channels}
    images["classes"] = list(source.classes)
    both = []
    for assignments in ([], options.set):
        settings = nested(assignments)
        settings["network"] = settings.get("network", {}) | images
        both.append(ddpm.config(options.preset, preview=0, **settings))
    return both[0], both[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("data")
    parser.add_argument("held_out")
    parser.add_argument("--classifier")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="PART.NAME=VALUE")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--sample-steps", type=int, default=25)
    options = parser.parse_args()
    rounds = [tuple(map(processor_seconds, configs(options))) for _ in range(ROUNDS)]
    one, other = (min(seconds) for seconds in zip(*rounds, strict=True))
    equal = round(options.images * one / other)
    speeds = {"ms an image": [round(1000 * one, 3), round(1000 * other, 3)]}
    print(json.dumps({"set": options.set, "images": [options.images, equal]} | speeds), flush=True)
    sides = [] if options.speed else [(options.set, equal)]
    if not (options.alone or options.speed):
        sides.insert(0, ([], options.images))
    held_out = decoded(options.held_out)
    for seed in options.seeds:
        for assignments, images in sides:
            settings = nested(assignments) | {"budget": {"images": images}}
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                model, row = train(options.preset, options.data, settings, seed, out)
                row |= scored(
                    model,
                    held_out,
                    options.classifier,
                    count=options.n,
                    steps=options.sample_steps,
                )
            print(json.dumps({"seed": seed, "set": assignments} | row), flush=True)


if __name__ == "__main__":
    main()
