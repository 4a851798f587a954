"""The teacher of a student that learns its steps: a copy of its weights, in the student's run."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.files import atomic_write
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, run_of_snapshot


def is_needed(config: RunConfig) -> bool:
    """Whether steps of training compute the teacher: where its steps are learned."""
    consistency = config.objective.consistency
    return consistency is not None and consistency.with_teacher


def keep(run: RunDirectory, config: RunConfig, resumed: Path | None) -> None:
    """Copy the teacher's weights into a run without them, which then resumes without its folder.

    resumed: the snapshot of another run that this one goes on from, whose teacher it has. Raises
    DdpmError where the weights are not there any more.
    """
    if run.teacher.is_file():
        return
    other = None if resumed is None else run_of_snapshot(resumed)
    if other is not None and other.teacher.is_file():
        source = other.teacher
    else:
        source = _find(run, config.origin)
    if source.suffix == run.teacher.suffix:  # the same file, whose sha256 the config names
        with atomic_write(run.teacher, durable=True) as partial:
            shutil.copyfile(source, partial)
    else:
        taken = weights.load(source)
        state = taken.network.state_dict()
        weights.save(run.teacher, state, taken.config, taken.images, taken.statistics)


def load(run: RunDirectory, config: RunConfig, device: torch.device) -> Denoiser | None:
    """The teacher's D, without gradient; None for a run that needs none. Raises DdpmError.

    Of a run that is not begun, in a dry run, it is read where the student begins.
    """
    if not is_needed(config):
        return None
    loaded = weights.load(_find(run, config.origin))
    network = loaded.network.to(device).to(memory_format=torch.channels_last)
    diffusion = loaded.config.diffusion
    schedule = schedules.from_config(diffusion)
    return Denoiser(network.requires_grad_(False), schedule, diffusion.parameterisation)


def _find(run: RunDirectory, origin: WeightsOrigin | None) -> Path:
    """The teacher's weights: the run's copy, or those that the student begins with."""
    if run.teacher.is_file():
        return run.teacher
    try:
        found = None if origin is None else find_weights(Path(origin.path))
    except DdpmError:
        found = None
    if found is None or origin is None or sha256_of(found) != origin.sha256:
        which = "" if origin is None else f", those of {origin.path} (sha256 {origin.sha256}),"
        raise DdpmError(
            f"{run.path} learns its teacher's steps, and the teacher's weights are missing: "
            f"copy them{which} to {run.teacher}"
        )
    return found
