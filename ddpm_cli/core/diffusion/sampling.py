"""From noise to pictures: prior, grid, guidance, clipping and sampler put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_cli.core.diffusion import grids, samplers
from ddpm_cli.core.diffusion.denoiser import Denoiser, clipped
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.samplers import Step
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.seeds import ImageNoise

SAMPLERS = ("ddim", "ddpm")


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn from a model."""

    steps: int = 50
    eta: float = 0.0  # 0: DDIM, 1: DDPM's ancestral sampling
    guidance: float = 1.0  # 1: the plain conditional model
    spacing: str = "trailing"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"--eta must be between 0 (DDIM) and 1 (DDPM), not {self.eta}")
        if not 0 <= self.guidance < float("inf"):
            raise UsageError(f"--guidance must be 0 or more, not {self.guidance}")
        if self.spacing not in grids.SPACINGS:
            raise UsageError(f"--spacing {self.spacing!r} is none of {', '.join(grids.SPACINGS)}")

    @property
    def evaluations(self) -> int:
        """Network evaluations a picture takes (NFE); guidance takes two a step."""
        return self.steps * (1 if self.guidance in (0, 1) else 2)


@torch.inference_mode()
def sample(
    denoiser: Denoiser, noise: ImageNoise, condition: Tensor | None, how: Sampling
) -> Iterator[Step]:
    """Draw one batch, yielding every step; the last step's `x` is the pictures in [-1, 1].

    noise: draws (B, C, H, W); condition: (B,) labels or None.
    """
    sigmas = grids.sigmas(denoiser.schedule, how.steps, how.spacing)
    start = noise() * denoiser.schedule.prior_std(float(sigmas[0]))
    denoise = clipped(guided(denoiser, condition, how.guidance))
    yield from samplers.ddim(denoise, start, sigmas, eta=how.eta, noise=noise)
