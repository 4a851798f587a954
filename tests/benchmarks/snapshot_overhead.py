"""Cost of a snapshot on the CPU, as a share of the time of a hundred training steps.

    python tests/benchmarks/snapshot_overhead.py [--steps 600] [--every 20] [--of 100]

Random images of 28x28 and the preset `mnist`, without previews. Snapshots are frequent, so that
there are many. The cost of one is the time of the few steps during which it is copied and written,
relative to the steps around it: the speed of a machine drifts by more than that within minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

DURING = 6  # steps that a snapshot can slow down


def seconds_of_steps(config: RunConfig, images: DecodedImages) -> np.ndarray:
    """Seconds from the end of each training step to the end of the next (steps - 1,)."""
    held_out = replace(images, rows=images.rows[:0])
    cpu = Execution(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunDirectory(Path(folder)), TrainingState.initial(config, cpu.device)
        trainer = Trainer(run, config, state, images, held_out, cpu, Silent())
        trainer.train(StopRequest())
        return np.diff([row["seconds"] for row in run.rows()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("steps", 600), ("every", 20), ("of", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    digits = {"network": {"size": [28, 28], "channels": 1, "classes": [*"0123456789"]}}
    config = updated(updated(RunConfig(), preset("mnist").settings), digits)
    every = options.every * config.optimiser.batch
    config = replace(config, preview=0, budget=Budget(steps=options.steps), snapshot_every=every)
    config = replace(config, log_every=config.optimiser.batch)  # a row for each step
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2_000, 1, 28, 28), dtype=np.uint8)
    images = DecodedImages(pixels, np.arange(2_000) % 10, np.arange(2_000))

    steps = seconds_of_steps(config, images)[options.every - 1 :]  # the first ones take longer
    rounds = steps[: len(steps) // options.every * options.every].reshape(-1, options.every)
    undisturbed = np.median(rounds[:, DURING:], axis=1)  # each round begins with a snapshot
    costs = rounds[:, :DURING].sum(axis=1) - DURING * undisturbed
    shares = costs / (options.of * undisturbed)
    print(f"{len(costs)} snapshots; a step takes {1000 * np.median(undisturbed):.0f} ms")
    for name, average in (("mean", np.mean), ("median", np.median)):
        print(
            f"{name}: {1000 * average(costs):.0f} ms, {average(shares):.2%} of {options.of} steps"
        )
    print(f"from {shares.min():.2%} to {shares.max():.2%}")


if __name__ == "__main__":
    main()
