"""The teacher of a distilled run, whose guidance it learns: a copy of its weights, in the run."""

from __future__ import annotations

from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights


def is_needed(config: RunConfig) -> bool:
    """Whether steps of training compute the teacher: where guidance is learned."""
    tuning = config.objective.consistency
    return tuning is not None and bool(tuning.guidance)


def keep(run: RunDirectory, teacher: Path) -> None:
    """Copy a teacher's weights into the run, which then resumes without the teacher's folder."""
    source = weights.load(find_weights(teacher))
    state = source.network.state_dict()
    weights.save(run.teacher, state, source.config, source.images, source.statistics)


def load(run: RunDirectory, config: RunConfig, device: torch.device) -> Denoiser | None:
    """The teacher's D, without gradient; None for a run that needs none. Raises DdpmError."""
    if not is_needed(config):
        return None
    loaded = weights.load(run.teacher)
    network = loaded.network.to(device).to(memory_format=torch.channels_last)
    diffusion = loaded.config.diffusion
    schedule = schedules.from_config(diffusion)
    return Denoiser(network.requires_grad_(False), schedule, diffusion.parameterisation)
