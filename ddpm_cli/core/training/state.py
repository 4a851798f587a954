"""Everything that changes while training: what a snapshot holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn.utils import get_total_norm

from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.training import ema


@dataclass
class Progress:
    """How far a training is. Random numbers are functions of `images`, so none are kept."""

    images: int = 0
    steps: int = 0
    seconds: float = 0.0  # spent training, over all resumes
    loss_smooth: float = math.nan
    best: float = math.inf  # the lowest loss at a snapshot
    stale: int = 0  # snapshots since then
    bad_steps: int = 0  # steps in a row whose loss or gradient was not finite
    skipped: int = 0  # such steps in all
    unlogged_images: int = 0  # seen since the last row of metrics, where a snapshot came first
    unlogged_seconds: float = 0.0
    unlogged_losses: list[list[float]] = field(default_factory=list)  # sum, count; by process
    processes: int = 1  # that shared the last step
    save_seconds: float = 0.0  # what the last save took, from the copy until it was on the disk
    validation_seconds: float = 0.0  # what validation, preview and curve took last


@dataclass
class State:
    """The networks, the optimiser, the progress and, for importance sampling, the losses seen."""

    network: UNet
    average: UNet  # the exponential moving average of the network's weights
    optimiser: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)
    history: LossHistory | None = None

    @classmethod
    def fresh(cls, config: RunConfig, device: torch.device) -> State:
        """The state before the first step: a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(config.optimiser.seed, "weights"))
            network = UNet(config.network)
        network = network.to(device).to(memory_format=torch.channels_last)
        state = cls(network, ema.averaged_copy(network), _optimiser(network, config.optimiser))
        if config.objective.noise_levels == "importance":
            state.history = LossHistory(schedules.from_config(config.diffusion))
        return state

    def as_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, by name."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
            "history": self.history and self.history.state_dict(),
        }

    def copied(self) -> dict[str, Any]:
        """What `as_dict` gives, in memory of its own: training may go on while it is written."""
        copied: dict[str, Any] = _copied(self.as_dict())
        return copied

    def finite(self) -> bool:
        """Whether all weights, averages and the optimiser's moments are."""
        moments = [
            value
            for kept in self.optimiser.state.values()
            for value in kept.values()
            if isinstance(value, torch.Tensor)
        ]
        tensors = [*self.network.parameters(), *self.average.parameters(), *moments]
        return bool(get_total_norm(tensors, math.inf).isfinite())

    def restore(self, held: dict[str, Any]) -> None:
        """Take over what `as_dict` gave."""
        self.network.load_state_dict(held["network"])
        self.average.load_state_dict(held["average"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.progress = Progress(**held["progress"])
        if self.history is not None:
            self.history.load_state_dict(held["history"])


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _optimiser(network: UNet, config: OptimiserConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
