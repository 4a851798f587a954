"""What a snapshot costs a training on the CPU, as a share of the time of a hundred steps.

    python tests/benchmarks/snapshot_overhead.py [--steps 600] [--every 20] [--of 100]

Random pictures of 28x28 and the preset `mnist`, without previews. Snapshots come more often than in
earnest, so that there are many. What one costs is the time of the few steps during which it is
copied and written over that of the steps around it: machines grow faster and slower by more than
that from one minute to the next.
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
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

DURING = 6  # steps that a snapshot can touch


def seconds_of_steps(config: RunConfig, pictures: DecodedImages) -> np.ndarray:
    """How long each step of a training took, from its end to the next one's."""
    nothing = replace(pictures, rows=pictures.rows[:0])
    cpu = Execution(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunDirectory(Path(folder)), TrainingState.initial(config, cpu.device)
        trainer = Trainer(run, config, state, pictures, nothing, cpu, Silent())
        trainer.log.every = config.optimiser.batch  # a row for each step
        trainer.train(StopRequest())
        return np.diff([row["seconds"] for row in run.rows()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("steps", 600), ("every", 20), ("of", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    digits = {"network": {"size": [28, 28], "channels": 1, "classes": [*"0123456789"]}}
    config = updated(updated(RunConfig(), preset("mnist").settings), digits)
    every = given.every * config.optimiser.batch
    config = replace(config, preview=0, budget=Budget(steps=given.steps), snapshot_every=every)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2_000, 1, 28, 28), dtype=np.uint8)
    pictures = DecodedImages(images, np.arange(2_000) % 10, np.arange(2_000))

    steps = seconds_of_steps(config, pictures)[given.every - 1 :]  # the first ones take longer
    rounds = steps[: len(steps) // given.every * given.every].reshape(-1, given.every)
    calm = np.median(rounds[:, DURING:], axis=1)  # each round begins with a snapshot
    costs = rounds[:, :DURING].sum(axis=1) - DURING * calm
    shares = costs / (given.of * calm)
    print(f"{len(costs)} snapshots; a step takes {1000 * np.median(calm):.0f} ms")
    for name, middle in (("mean", np.mean), ("median", np.median)):
        print(f"{name}: {1000 * middle(costs):.0f} ms, {middle(shares):.2%} of {given.of} steps")
    print(f"from {shares.min():.2%} to {shares.max():.2%}")


if __name__ == "__main__":
    main()
