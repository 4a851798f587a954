"""A training step and a sampling step on a device, walked with torch's meta tensors.

These have a shape and no content: reading a value is an error, and no GPU is needed. The host's
tensors stay what they are.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.losses import LossScalars
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.diffusion.sampling import grid, sample
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.metrics_log import MetricsLog
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step, weighted

DEVICE = torch.device("meta")
NETWORK = NetworkConfig(
    size=(16, 16),
    width=32,
    multipliers=(1, 2),
    blocks=("res", "res,attn"),
    classes=("one", "two"),
    modulation="scale-shift",
)


class Moves(TorchDispatchMode):
    """Records the operations that take a tensor from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        if function is torch.ops.aten._fused_adamw_.default:  # which has no kernel for meta tensors
            return None
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
        # Kernels take numbers, which torch passes as tensors () on the CPU, as arguments.
        devices = {t.device.type for t in tensors if t.ndim or t.device.type != "cpu"}
        if len(devices) > 1 or function is torch.ops.aten.nonzero.default:
            self.found.append(str(function))
        return result


@pytest.fixture(autouse=True)
def fused_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optimiser take meta tensors, as it takes those of a DEVICE."""
    name = "_get_fused_kernels_supported_devices"
    for module in ("optimizer", "adam", "adamw"):
        imported = sys.modules[f"torch.optim.{module}"]
        monkeypatch.setattr(imported, name, lambda: ["meta"], raising=False)


def step_and_log(config: RunConfig) -> Moves:
    """Take a step of a run, count its losses, and return the operations."""
    state = TrainingState.initial(config, DEVICE)
    state.progress.images = config.optimiser.batch
    network = state.network
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(network, schedule, config.diffusion.parameterisation)
    count, shape = 4, (config.network.channels, *config.network.size)
    log = MetricsLog(RunDirectory(Path("run")), config, state.progress, DEVICE)
    x0 = torch.zeros(count, *shape, device=DEVICE)
    sigma = torch.zeros(count, dtype=torch.float64)  # of no use on the device
    scalars = torch.zeros(count, device=DEVICE)
    bound = 6 * [scalars] if config.network.learned_variance else 6 * [None]
    batch = Batch(
        Noised(x0, torch.zeros_like(x0), sigma),
        Condition(torch.zeros(count, dtype=torch.int64, device=DEVICE)),
        np.arange(count),
        LossScalars(*5 * [scalars], None, *bound),
        None,
    )
    step = Step(config, state, network, denoiser, DEVICE, torch.float32, 2, SILENT)
    with Moves() as moves:
        for _ in range(2):  # the first one makes the optimiser's states
            outcome = step(batch, state.decays(config.optimiser))
            losses = weighted(outcome.losses, batch)
            log.count(losses, batch.scalars.sigma, outcome.skipped, batch.importance)
    assert {value.device for value in outcome} == {DEVICE}
    assert moves.count > 200
    return moves


CONFIGS = {
    "conditional, clipped": RunConfig(network=NETWORK),
    "muon": RunConfig(network=NETWORK, optimiser=OptimiserConfig(method="muon")),
    "averages with power profiles": RunConfig(network=NETWORK, ema_every=1000),
    "learned variance": RunConfig(network=replace(NETWORK, learned_variance=True, dropout=0.0)),
    "x0 of cosine": RunConfig(
        network=NETWORK, diffusion=DiffusionConfig("cosine", parameterisation="x0")
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_moves_and_reads_nothing(name: str) -> None:
    assert step_and_log(CONFIGS[name]).found == []


def test_reading_a_value_in_a_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Step.clip

    def reading(self: Step, losses: Tensor) -> tuple[Tensor, Tensor]:
        norm, skipped = clip(self, losses)
        torch.stack([norm, skipped]).tolist()
        return norm, skipped

    monkeypatch.setattr(Step, "clip", reading)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        step_and_log(CONFIGS["conditional, clipped"])


def test_a_copy_in_a_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Step.clip

    def copying(self: Step, losses: Tensor) -> tuple[Tensor, Tensor]:
        return clip(self, losses * torch.ones(len(losses)).to(DEVICE))

    monkeypatch.setattr(Step, "clip", copying)
    assert step_and_log(CONFIGS["conditional, clipped"]).found


class FakeNoise:
    """Noise on the device."""

    def __call__(self) -> Tensor:
        return torch.zeros(2, 3, 16, 16, device=DEVICE)


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": 1.0},
        {"guidance": 3.0},
        {"guidance": 3.0, "guidance_interval": (0.1, 10.0)},
        {"sampler": "heun"},
        {"sampler": "dpmpp-2m"},
        {"sampler": "ddpm", "eta": 1.0},
    ],
)
def test_sampling_steps_move_and_read_nothing(settings: dict[str, Any]) -> None:
    sampling = Sampling(steps=3, **settings)
    schedule = schedules.from_config(DiffusionConfig("cosine"))
    sigmas = grid(schedule, sampling)
    assert len(sigmas) == 4
    denoiser = Denoiser(UNet(NETWORK).to(DEVICE).eval(), schedule, "v")
    labels = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    noise: Any = FakeNoise()
    with Moves() as moves:
        steps = list(sample(denoiser, noise, Condition(labels), sampling))
    assert steps[-1].x.device.type == "meta"
    assert moves.found == []
    assert moves.count > 100
