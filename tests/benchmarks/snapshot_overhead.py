"""What snapshots cost a training on the CPU, as a share of the time of its steps.

    python tests/benchmarks/snapshot_overhead.py [--every 100] [--steps 300] [--pairs 5]

Random pictures of 28x28 and the preset `mnist`, without previews. A pair is the same training with
a snapshot every so many steps and with one in the end only, in changing order, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddpm_cli.core.config import Budget, RunConfig
from ddpm_cli.core.data.loader import Pictures
from ddpm_cli.core.plain import updated
from ddpm_cli.core.presets import preset
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.rundir import RunDirectory
from ddpm_cli.core.runtime.stopping import StopRequest
from ddpm_cli.core.training import snapshots
from ddpm_cli.core.training.state import State
from ddpm_cli.core.training.trainer import Machine, Trainer


def trained(config: RunConfig, pictures: Pictures) -> tuple[float, int]:
    """Seconds that a training takes, and how many snapshots it writes."""
    nothing = replace(pictures, rows=pictures.rows[:0])
    cpu = Machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunDirectory(Path(folder)), State.fresh(config, cpu.device)
        trainer = Trainer(run, config, state, pictures, nothing, cpu, Silent())
        trainer.journal.every = config.optimiser.batch  # rows cost both the same
        started = time.perf_counter()
        trainer.train(StopRequest())
        return time.perf_counter() - started, len(snapshots.listed(run.snapshots))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("every", 100), ("steps", 300), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    digits = {"network": {"size": [28, 28], "channels": 1, "classes": [*"0123456789"]}}
    config = updated(updated(RunConfig(), preset("mnist").settings), digits)
    config = replace(config, preview=0, keep=10**6, budget=Budget(steps=given.steps))
    often = replace(config, snapshot_every=given.every * config.optimiser.batch)
    once = replace(config, snapshot_every=10**12)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2_000, 1, 28, 28), dtype=np.uint8)
    pictures = Pictures(images, np.arange(2_000) % 10, np.arange(2_000))

    trained(replace(once, budget=Budget(steps=10)), pictures)  # the first steps take longer
    shares = []
    for pair in range(given.pairs):
        order = [often, once] if pair % 2 else [once, often]
        ended = {which.snapshot_every: trained(which, pictures) for which in order}
        (slow, many), (fast, few) = ended[often.snapshot_every], ended[once.snapshot_every]
        each, step = (slow - fast) / (many - few), fast / given.steps
        shares.append(each / (given.every * step))
        print(
            f"pair {pair + 1}: step {1000 * step:.1f} ms, a snapshot {1000 * each:+.1f} ms, "
            f"{shares[-1]:+.2%} of {given.every} steps"
        )
    spread = f"{min(shares):+.2%} to {max(shares):+.2%}"
    print(f"median {statistics.median(shares):+.2%} of the training's time ({spread})")


if __name__ == "__main__":
    main()
