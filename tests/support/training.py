"""Training without the command line: a tiny config, images in memory, runs and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.config.run import DataConfig, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.runtime.elastic import watchdog
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.batches import Batch, Batches
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer
from tests.support.cli import TINY

CPU = Execution(torch.device("cpu"))
BASE = updated(RunConfig(), TINY | {"preview": 0})
CONFIG = replace(BASE, network=replace(BASE.network, size=(8, 8)), data=DataConfig(flip=False))


class Messages(Silent):
    """A reporter that stores its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


def decoded_images(count: int = 16, seed: int = 0) -> DecodedImages:
    """Images of two classes: dark with a light corner, and the reverse."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 30, (count, 3, 8, 8))
    images[:, :, :4, :4] += 200
    images[::2] = 255 - images[::2]
    labels = np.arange(count) % 2
    return DecodedImages(images.astype(np.uint8), labels, np.arange(count))


def first_images(images: DecodedImages, count: int) -> DecodedImages:
    """The first `count` of the images."""
    return replace(images, rows=images.rows[:count])


NO_IMAGES = first_images(decoded_images(), 0)


def batches_of(config: RunConfig, images: DecodedImages) -> Batches:
    """The batches of a training, on the CPU."""
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(lambda x, *_: x, schedule, config.diffusion.parameterisation)
    return Batches(config, denoiser, images, CPU.device)


def train_run(
    folder: Path,
    config: RunConfig = CONFIG,
    state: TrainingState | None = None,
    held_out: DecodedImages = NO_IMAGES,
    execution: Execution = CPU,
    reporter: Reporter = SILENT,
) -> TrainingState:
    """Train in a run directory, from the initial state unless one is given; the final state."""
    folder.mkdir(parents=True, exist_ok=True)
    state = state or TrainingState.initial(config, execution.device)
    Trainer(
        RunDirectory(folder), config, state, decoded_images(), held_out, execution, reporter
    ).train(StopRequest())
    return state


def equal_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def before_each_step(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], object]) -> None:
    """Call `action` with the number of images seen before each step of a training."""
    draw = Batches.draw

    def act_and_draw(self: Batches, seen: int, history: LossHistory | None) -> Batch:
        action(seen)
        return draw(self, seen, history)

    monkeypatch.setattr(Batches, "draw", act_and_draw)


def watchdog_pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Record the watchdog's pauses; the returned function says whether it is paused."""
    depth = [0]

    @contextmanager
    def paused() -> Iterator[None]:
        depth[0] += 1
        yield
        depth[0] -= 1

    monkeypatch.setattr(watchdog, "paused", paused)
    return lambda: depth[0] > 0
