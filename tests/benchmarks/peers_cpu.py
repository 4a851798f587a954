"""A training step and a forward pass of the 35.7 M network against diffusers', on the CPU in fp32.

    python tests/benchmarks/peers_cpu.py [--batch 16] [--rounds 5]

UNet2DModel with the layout of google/ddpm-cifar10-32, in what diffusers' `train_unconditional.py`
does for each batch, against preset `cifar10` in `ddpm train`'s step. In turns in one process, so
that both meet the same machine; the ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer
from tests.benchmarks.gpu_day.day import Day
from tests.benchmarks.gpu_day.peers import diffusers_unet
from tests.benchmarks.training_speed import preset_config

CPU = torch.device("cpu")
Timed = Callable[[], object]


def ours(batch: int, folder: Path) -> tuple[Timed, Timed]:
    """A step and a forward pass."""
    config = preset_config("cifar10")
    config = replace(config, optimiser=replace(config.optimiser, batch=batch))
    pixels = np.random.default_rng(0).integers(0, 256, (512, 3, 32, 32), dtype=np.uint8)
    images = DecodedImages(pixels, np.full(512, -1), np.arange(512))
    held_out = replace(images, rows=images.rows[:0])
    state = TrainingState.initial(config, CPU)
    run = RunDirectory(folder)
    trainer = Trainer(run, config, state, images, held_out, Execution(CPU), Silent())
    trainer.network.train()
    x, c_noise = torch.randn(batch, 3, 32, 32), torch.full((batch,), 500.0)
    return lambda: trainer.trial(batch), lambda: state.average(x, c_noise)


def theirs(batch: int) -> tuple[Timed, Timed]:
    """The same of diffusers."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network = diffusers_unet(Day("", CPU, False, 0.0, Path(), Path()))
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999))
    clean = torch.rand(batch, 3, 32, 32) * 2 - 1

    def step() -> None:
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        output = network(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = nn.functional.mse_loss(output, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.step(network.parameters())
        loss.item()

    return step, lambda: network(clean, torch.full((batch,), 500))


def seconds(call: Timed) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own, other = ours(options.batch, Path(folder)), theirs(options.batch)
        for what, one, two in zip(("training step", "forward pass"), own, other, strict=True):
            with torch.set_grad_enabled(what == "training step"):
                seconds(one), seconds(two)
                pairs = [(seconds(one), seconds(two)) for _ in range(options.rounds)]
            a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(
                f"{what}, batch {options.batch}, {torch.get_num_threads()} threads: {a:.3f} s, "
                f"diffusers {b:.3f} s: {b / a:.2f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
