"""Images and floating point operations per second of training, by preset, precision and compiler.

    python tests/benchmarks/training_speed.py [CASE ...] [--device cuda] [--steps 200] [--batch 128]

A case is PRESET:PRECISION, or PRESET:PRECISION:compile. Random pictures of 32x32; the first half of
the steps is left aside, and with it what is done once. Operations are those of convolutions, linear
layers and attention, counted by torch; the way back is taken as twice the way forth.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

PICTURES = 10_000


def operations(config: RunConfig) -> int:
    """Floating point operations of one image, forth and back."""
    network = UNet(config.network).to("meta")
    x = torch.zeros(1, config.network.channels, *config.network.size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(1, device="meta"))
    return 3 * int(counter.get_total_flops())


def images_per_second(config: RunConfig, machine: Execution, steps: int) -> float:
    shape = (PICTURES, config.network.channels, *config.network.size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pictures = DecodedImages(images, np.full(PICTURES, -1), np.arange(PICTURES))
    nothing = replace(pictures, rows=pictures.rows[:0])
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunDirectory(Path(folder)), TrainingState.initial(config, machine.device)
        trainer = Trainer(run, config, state, pictures, nothing, machine, Silent())
        trainer.log.every = config.optimiser.batch * max(1, steps // 20)
        trainer.train(StopRequest())
        rows = run.rows()
    first, last = rows[len(rows) // 2], rows[-1]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["mnist:fp32"], metavar="CASE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int)
    given = parser.parse_args()
    device = devices.choose_device(given.device)
    for case in given.cases:
        name, precision, *compiled = case.split(":")
        config = updated(RunConfig(), preset(name).settings)
        if given.batch:
            config = updated(config, {"optimiser": {"batch": given.batch}})
        batch = config.optimiser.batch
        budget = Budget(steps=given.steps)
        config = replace(config, preview=0, budget=budget, snapshot_every=100 * given.steps * batch)
        chosen = devices.choose_precision(precision, device)
        speed = images_per_second(
            config, Execution(device, chosen, compiled=bool(compiled)), given.steps
        )
        print(
            f"{case}, batch {batch}: {speed:,.0f} images/s, {1000 * batch / speed:.1f} ms a step, "
            f"{speed * operations(config) / 1e12:.4g} TFLOP/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
