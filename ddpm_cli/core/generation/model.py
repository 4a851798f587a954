"""A trained model, loaded onto a device for sampling and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.grids import of_consistency
from ddpm_cli.core.diffusion.sampling import grid
from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.diffusion.settings import CONSISTENCY, Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.run_directory import run_of

_CHOOSING = {"timesteps", "sigmas", "sections"}  # noise levels in place of a number of steps
_ROUNDING = 1e-3  # relative, of levels typed by hand


class Model(NamedTuple):
    """A denoiser on a device, with its config and origin."""

    path: Path
    denoiser: Denoiser
    config: RunConfig
    images: int  # seen in training
    sha256: str  # of the file
    device: torch.device
    precision: torch.dtype  # of autocast
    statistics: Any = None  # of the training images, as JSON values
    sigma_rel: float | None = None  # of an average with a power profile
    guide: Model | None = None  # a worse model, for settings of sampling that have one

    @property
    def guide_denoiser(self) -> Denoiser | None:
        """D of the guide."""
        return None if self.guide is None else self.guide.denoiser

    @property
    def guide_record(self) -> dict[str, Any]:
        """What is recorded of the guide; nothing without one."""
        if self.guide is None:
            return {}
        return {
            "guide": str(self.guide.path),
            "guide_sha256": self.guide.sha256,
            "guide_images_seen": self.guide.images,
        }

    @property
    def folder(self) -> Path:
        """Where results go by default: the run of the weights, or beside them."""
        return run_of(self.path).path

    @property
    def provenance(self) -> str:
        """How it was trained, or where it was imported from, for messages."""
        origin = self.config.origin
        if origin is not None and self.images == 0:
            return f"the weights of {origin.path}"
        average = "" if self.sigma_rel is None else f", sigma_rel {self.sigma_rel:g}"
        return f"{self.images:,} images seen{average}"

    @property
    def about(self) -> str:
        """Where it lies and how it was trained, for messages."""
        return f"{self.path}: {self.provenance}"


def load_model(path: Path, device: torch.device, precision: torch.dtype) -> Model:
    """Load a weights file, or a snapshot's average, onto a device.

    Raises DdpmError where it cannot be read.
    """
    loaded = weights.load(path)
    network = loaded.network.to(device).to(memory_format=torch.channels_last)
    diffusion = loaded.config.diffusion
    denoiser = Denoiser(network, schedules.from_config(diffusion), diffusion.parameterisation)
    return Model(
        path,
        denoiser,
        loaded.config,
        loaded.images,
        loaded.sha256,
        device,
        precision,
        loaded.statistics,
        loaded.sigma_rel,
    )


def own_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of Sampling that a distilled model starts from; none of other models.

    Its sampler, the steps that it learned and, where it learned a teacher's guidance, that which is
    nearest to none.
    """
    if (tuning := config.objective.consistency) is None:
        return {}
    low, high = tuning.guidance or (1.0, 1.0)
    steps = {"steps": tuning.calls} if tuning.calls else {}
    return {"sampler": CONSISTENCY, **steps, "guidance": min(max(1.0, low), high)}


def own_sampling(config: RunConfig, given: Mapping[str, Any]) -> Sampling:
    """How a model is sampled, by the settings given and else its own."""
    own, learned = own_settings(config), config.network.guidance
    other = given.get("sampler", CONSISTENCY) != CONSISTENCY
    if other or not _CHOOSING.isdisjoint(given):
        own.pop("steps", None)
    return Sampling(**own | dict(given), guidance_learned=learned)


def usual_sampling(config: RunConfig, steps: int) -> Sampling:
    """How previews and scores sample a model: in so many steps, or those of a consistency model."""
    timesteps = config.diffusion.timesteps
    given = {} if config.objective.consistency is not None else {"steps": min(steps, timesteps)}
    return own_sampling(config, given).with_default_steps(timesteps)


def check_sampling(model: Model, sampling: Sampling) -> None:
    """Raise UsageError or DdpmError where the model lacks what the settings need.

    That is a learned variance, consistency, the guidance that it learned, or a null condition for
    guidance (Ho & Salimans, 2022).
    """
    tuning = model.config.objective.consistency
    if sampling.sampler == CONSISTENCY and tuning is None:
        raise DdpmError(
            f"--sampler {CONSISTENCY} is for models of ddpm distill, and {model.path} is a "
            "diffusion model: leave it out, or distil it"
        )
    if sampling.variance == "learned" and not model.config.network.learned_variance:
        raise UsageError(
            f"{model.path} was trained without --learned-variance; "
            "use --variance fixed-small or fixed-large"
        )
    if tuning is not None and tuning.guidance:
        _check_learned_guidance(model, sampling, *tuning.guidance)
    elif sampling.class_weight != 1:
        option = "--guidance" if sampling.guide is None else "--class-guidance"
        _check_null_condition(model, option)
        if sampling.class_weight == 0 and model.guide is not None:
            _check_null_condition(model.guide, option)


def warning(model: Model, sampling: Sampling) -> str | None:
    """What is odd about sampling this model so, in a line; None for nothing."""
    tuning = model.config.objective.consistency
    if tuning is None:
        return None
    if sampling.sampler != CONSISTENCY:
        return (
            f"{model.path} is a consistency model, whose output is no denoised mean: expect poor "
            f"images of --sampler {sampling.sampler}, or use --sampler {CONSISTENCY}"
        )
    if sampling.guidance != 1 and not model.config.network.guidance:
        return (
            f"{model.path} was distilled without guidance: --guidance mixes two of its outputs, "
            "which is no guided model's (ddpm distill --guidance learns that)"
        )
    schedule = model.denoiser.schedule
    if tuning.calls and not _are_learned(grid(schedule, sampling)[:-1], schedule, tuning.calls):
        return (
            f"{model.path} was distilled for --steps {tuning.calls}: expect poor images at other "
            "noise levels"
        )
    return None


def _are_learned(visited: Tensor, schedule: Schedule, calls: int) -> bool:
    """Whether all noise levels that are visited are those of so many calls."""
    learned = torch.from_numpy(of_consistency(schedule, calls))
    return bool((visited[:, None] / learned - 1).abs().amin(1).le(_ROUNDING).all())


def _check_learned_guidance(model: Model, sampling: Sampling, low: float, high: float) -> None:
    if not low <= sampling.guidance <= high:
        learned = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise UsageError(
            f"{model.path} has learned guidance {learned}, not --guidance {sampling.guidance:g}"
        )
    interval = sampling.guidance_interval != (0.0, math.inf)
    if interval or sampling.guidance_rescale:
        raise UsageError(
            f"{model.path} is told its guidance: it takes no --guidance-interval and "
            "--guidance-rescale"
        )


def _check_null_condition(model: Model, option: str) -> None:
    network = model.config.network
    if not network.conditioned:
        raise DdpmError(
            f"{model.path} was trained without classes and captions, so there is nothing to guide "
            f"towards; leave {option} at 1, or guide by a worse model, such as --guide early"
        )
    if network.classes and not network.null_class:
        raise DdpmError(
            f"{model.path} has no null class, which guidance needs; leave {option} at 1 (ddpm "
            "convert --null-class says which class is the null class)"
        )
    if model.config.optimiser.class_drop == 0:
        raise DdpmError(
            f"{model.path} was trained with --class-drop 0, so it has no unconditional branch; "
            f"leave {option} at 1"
        )
