"""Seeds -> noise -> sampler -> uint8 batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.requests import ConditionPlan, ConditionRequest, plan_conditions
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.samplers import SamplerStep
from ddpm_cli.core.diffusion.sampling import grid, sample
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.seeds import ImageNoise

DEFAULT_COUNT = 16  # pictures
_VISIBLE = 0.1  # share of a picture's contrast


class Model(NamedTuple):
    """Weights ready to draw from."""

    path: Path
    denoiser: Denoiser
    config: RunConfig
    images: int  # seen in training
    sha256: str  # of the weights file
    device: torch.device
    precision: torch.dtype

    @property
    def provenance(self) -> str:
        """What has become of it, for messages."""
        origin = self.config.origin
        if origin is not None and self.images == 0:
            return f"the weights of {origin.path}"
        return f"{self.images:,} images seen"


@dataclass(frozen=True)
class GenerationRequest:
    """Which pictures: image i has the seed `seed + i`, and so its noise and what it shows."""

    count: int
    seed: int
    conditions: ConditionPlan
    sampling: Sampling

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"-n must be at least 1, not {self.count}")

    def about(self, index: int) -> tuple[int | None, str | None]:
        """The class and the prompt of image `index`."""
        return self.conditions.label(self.seed + index), self.conditions.prompt(self.seed + index)


def load_model(path: Path, device: torch.device, precision: torch.dtype) -> Model:
    """Read a weights file onto a device."""
    held = weights.load(path)
    network = held.network.to(device).to(memory_format=torch.channels_last)
    diffusion = held.config.diffusion
    denoiser = Denoiser(network, schedules.from_config(diffusion), diffusion.parameterisation)
    return Model(path, denoiser, held.config, held.images, held.sha256, device, precision)


def resolve_request(
    model: Model,
    count: int | None,
    seed: int,
    asked: ConditionRequest,
    how: Sampling,
    reporter: Reporter,
    usually: int = DEFAULT_COUNT,
) -> GenerationRequest:
    """Check a wish against the model. Raises UsageError or DdpmError with what the model can do.

    count: pictures; None: as many as the wish names, or else as `usually`.
    """
    how = how.with_default_steps(len(model.denoiser.schedule))
    grid(model.denoiser.schedule, how)
    _check(model, how)
    plan = plan_conditions(model.config, asked, str(model.path))
    if count is None:
        count = plan.count or usually
    return GenerationRequest(
        count, seed, plan.encode_prompts(model.config, model.device, reporter), how
    )


def _check(model: Model, how: Sampling) -> None:
    network = model.config.network
    if how.variance == "learned" and not network.learned_variance:
        raise UsageError(
            f"{model.path} was trained without --learned-variance; "
            "use --variance fixed-small or fixed-large"
        )
    if how.guidance == 1:
        return
    if not network.conditioned:
        raise DdpmError(
            f"{model.path} was trained without classes and captions, so there is nothing to guide "
            "towards; leave --guidance at 1"
        )
    if network.classes and not network.null_class:
        raise DdpmError(
            f"{model.path} has no null class to guide away from; leave --guidance at 1 (ddpm "
            "convert --null-class says which class is one)"
        )
    if model.config.optimiser.class_drop == 0:
        raise DdpmError(
            f"{model.path} was trained with --class-drop 0, so it has no unconditional branch; "
            "leave --guidance at 1"
        )


def late_start_warning(model: Model, request: GenerationRequest) -> str | None:
    """Say it where the first of the steps is at a noise level that leaves a picture visible."""
    schedule = model.denoiser.schedule
    first = float(grid(schedule, request.sampling)[0])
    left = 1 / math.sqrt(1 + first**2)
    if left < _VISIBLE or first == schedule.sigma[-1]:
        return None
    return (
        f"the first step is at sigma {first:.3g}, where {100 * left:.0f} % of a picture shows, and "
        "is taken from noise: expect poor pictures, or use --spacing trailing"
    )


def draw(
    model: Model, request: GenerationRequest, indices: Sequence[int], batch: int, reporter: Reporter
) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
    """Draw the images of these indices, a batch at a time: (indices, pictures (B, C, H, W))."""
    steps = request.sampling.steps
    with reporter.bar("sampling", len(indices), "images") as bar:
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            x = None
            for step in sample_steps(model, request, chosen):
                x = step.x
                bar.update(start + len(chosen) * (step.index + 1) / steps)
            assert x is not None
            yield chosen, to_uint8(x).cpu().numpy()


def sample_steps(
    model: Model, request: GenerationRequest, indices: Sequence[int]
) -> Iterator[SamplerStep]:
    """Draw one batch, yielding every step."""
    with devices.autocast(model.device, model.precision):
        noise = image_noise(model, request, indices)
        wanted = request.conditions.condition([request.seed + i for i in indices], model.device)
        yield from sample(model.denoiser, noise, wanted, request.sampling)


def image_noise(model: Model, request: GenerationRequest, indices: Sequence[int]) -> ImageNoise:
    """The noise of these images; its first draw is where sampling starts."""
    network = model.config.network
    shape = (network.channels, *network.size)
    return ImageNoise([request.seed + i for i in indices], shape, model.device)
