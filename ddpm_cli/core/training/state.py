"""Everything that changes during training: the contents of a snapshot."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch.nn.utils import get_total_norm

from ddpm_cli.core.checkpoints import profiles
from ddpm_cli.core.checkpoints.post_hoc import TRACKED
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.checkpoints.snapshots import StateDict
from ddpm_cli.core.checkpoints.tensors import mismatches
from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.training import ema
from ddpm_cli.core.training.learned_weight import LearnedWeight
from ddpm_cli.core.training.muon import Muon


@dataclass
class Progress:
    """How far a training is. Random numbers are functions of `images`, so none are kept."""

    images: int = 0  # seen
    steps: int = 0
    seconds: float = 0.0  # of training, over all resumes
    loss: float = math.nan  # of the last row of metrics
    loss_smooth: float = math.nan
    loss_heldout: float | None = None  # of the last validation
    gap: float | None = None  # of it, as --stop-at-gap compares it; None: none is certain
    best: float = math.inf  # lowest loss at a validation
    stale: int = 0  # validations since then
    bad_steps: int = 0  # consecutive steps whose loss or gradient was not finite
    skipped: int = 0  # such steps in all
    unlogged_losses: list[list[float]] = field(default_factory=list)  # sum, count; by rank
    smoothed_losses: list[list[float]] = field(default_factory=list)  # the same, decayed
    unlogged_quarters: list[list[float]] = field(default_factory=list)  # by quarter of noise levels
    processes: int = 1  # that shared the last step
    save_seconds: float = 0.0  # of the last save, from the copy until it was on the disk
    validation_seconds: float = 0.0  # of the last validation
    preview_seconds: float = 0.0  # of the last preview and plot

    @classmethod
    def restored(cls, values: dict[str, Any]) -> Progress:
        """The progress in a snapshot; what only earlier versions stored is left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass
class TrainingState:
    """The networks, the optimiser, the progress and, for importance sampling, past losses.

    Averages with power profiles are there for --ema-every alone.
    """

    network: Network
    average: Network  # the exponential moving average of the network's weights
    optimiser: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)
    history: LossHistory | None = None
    power_averages: dict[float, Network] = field(default_factory=dict)  # by sigma_rel
    weight: LearnedWeight | None = None  # of the loss

    @classmethod
    def initial(cls, config: RunConfig, device: torch.device) -> TrainingState:
        """The state before the first step: a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(config.optimiser.seed, "weights"))
            network = build(config.network)
        network = network.to(device).to(memory_format=torch.channels_last)
        state = cls(network, ema.averaged_copy(network), _optimiser(network, config.optimiser))
        if config.objective.noise_levels == "importance":
            state.history = LossHistory(schedules.from_config(config.diffusion))
        if config.objective.weighting == "learned":
            state.weight = LearnedWeight().to(device)
            state.optimiser.add_param_group({"params": state.weight.parameters()})
        if config.ema_every is not None:
            state.power_averages = {length: ema.averaged_copy(network) for length in TRACKED}
        return state

    def decays(self, config: OptimiserConfig) -> ema.Decays:
        """Those of the step after which `progress.images` are seen."""
        batch, images = config.batch, self.progress.images
        usual = ema.decay_after(batch, images, config.ema_halflife, config.ema_rampup)
        return (usual, *(profiles.decay(Profile(images, x), batch) for x in self.power_averages))

    def state_dict(self) -> StateDict:
        """Tensors and plain numbers, by name; the tensors are those in use."""
        state: StateDict = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
            "history": self.history and self.history.state_dict(),
        }
        if self.weight is not None:
            state["weight"] = self.weight.state_dict()
        if self.power_averages:
            averages = {length: net.state_dict() for length, net in self.power_averages.items()}
            state["power_averages"] = averages
        return state

    def copied_state_dict(self, *parts: str) -> StateDict:
        """These parts, or all, in memory of their own: training may go on while they are written.

        Tensors are on the CPU.
        """
        state = self.state_dict()
        copied: StateDict = _copied({name: state[name] for name in parts or state})
        return copied

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. Raises DdpmError for another network's."""
        if wrong := mismatches(state["network"], self.network.state_dict()):
            raise DdpmError(f"it is of another network: {listed(wrong, separator='; ')}")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress.restored(state["progress"])
        if self.history is not None:
            self.history.load_state_dict(state["history"])
        if self.weight is not None:
            self.weight.load_state_dict(state["weight"])
        for length, average in self.power_averages.items():
            # Where none were kept before: these weights stand for those of all images seen.
            average.load_state_dict(state.get("power_averages", {}).get(length, state["network"]))

    def is_finite(self) -> bool:
        """Whether all weights, averages and optimiser moments are finite."""
        moments = [
            value
            for of_parameter in self.optimiser.state.values()
            for value in of_parameter.values()
            if isinstance(value, torch.Tensor)
        ]
        modules = [self.network, self.average, *self.power_averages.values(), self.weight]
        weights = [p for module in modules if module is not None for p in module.parameters()]
        tensors = [*weights, *moments]
        return bool(get_total_norm(tensors, math.inf).isfinite())


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _optimiser(network: Network, config: OptimiserConfig) -> torch.optim.Optimizer:
    if config.method == "muon":
        return Muon(network, config)
    return torch.optim.AdamW(
        network.parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
