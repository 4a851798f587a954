"""Images and floating point operations per second of training, by preset, precision and compiler.

    python tests/benchmarks/training_speed.py [CASE ...] [--device cuda] [--steps 200] [--batch 128]

A case is PRESET:PRECISION, or PRESET:PRECISION:compile. Random images of 32x32, or of the
size that the preset is for; the first half of the steps is discarded as warm-up. Operations are
those of convolutions, linear layers and attention, counted by torch; the backward pass is taken as
twice the forward pass.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import SILENT, Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer

IMAGES = 10_000
SIZES = {"mnist": [28, 28], "photos-64": [64, 64], "adm-64": [64, 64], "celeba-64": [64, 64]}


def preset_config(name: str, batch: int | None = None) -> RunConfig:
    """The settings of a preset as training completes them, with another batch if one is given."""
    config = updated(RunConfig(), preset(name).settings)
    settings = {
        "network": {"augmented": config.data.augment > 0, "size": SIZES.get(name, [32, 32])}
    }
    if batch is not None:
        settings["optimiser"] = {"batch": batch}
    return updated(config, settings)


def operations(config: RunConfig) -> int:
    """Floating point operations of one image, forward and backward."""
    network = build(config.network).to("meta")
    x = torch.zeros(1, config.network.channels, *config.network.size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(1, device="meta"))
    return 3 * int(counter.get_total_flops())


@contextmanager
def trainer_of(
    config: RunConfig, execution: Execution, rows: int, reporter: Reporter = SILENT
) -> Iterator[Trainer]:
    """A training of random images that writes about so many rows of metrics, and saves nothing."""
    shape = (IMAGES, config.network.channels, *config.network.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = DecodedImages(pixels, np.full(IMAGES, -1), np.arange(IMAGES))
    batch, steps = config.optimiser.batch, config.budget.steps or rows
    config = replace(config, preview=0, validate_every=2**40, snapshot_every=2**40)
    config = replace(config, log_every=batch * max(1, steps // rows))
    with tempfile.TemporaryDirectory() as folder:
        run, state = RunDirectory(Path(folder)), TrainingState.initial(config, execution.device)
        no_images = replace(images, rows=images.rows[:0])
        trainer = Trainer(run, config, state, images, no_images, execution, reporter)
        with (
            mock.patch.object(trainer.saver, "start"),
            mock.patch.object(trainer.saver, "save_previews"),
        ):
            yield trainer


def images_per_second(
    config: RunConfig, execution: Execution, budget: Budget, reporter: Reporter = SILENT
) -> float:
    """Images per second of the second half of a training of at most budget.steps.

    The reporter hears whether the step was compiled or recorded, or why not.
    """
    with trainer_of(replace(config, budget=budget), execution, 20, reporter) as trainer:
        trainer.train(StopRequest())
        rows = trainer.run.rows()
    first, last = rows[(len(rows) - 1) // 2], rows[-1]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["mnist:fp32"], metavar="CASE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int)
    options = parser.parse_args()
    device = devices.choose_device(options.device)
    for case in options.cases:
        name, precision, *compiled = case.split(":")
        config = preset_config(name, options.batch)
        batch = config.optimiser.batch
        dtype = devices.choose_precision(precision, device)
        execution = Execution(device, dtype, compiled=bool(compiled))
        speed = images_per_second(config, execution, Budget(steps=options.steps))
        print(
            f"{case}, batch {batch}: {speed:,.0f} images/s, {1000 * batch / speed:.1f} ms a step, "
            f"{speed * operations(config) / 1e12:.4g} TFLOP/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
