"""What training makes small."""

from __future__ import annotations

from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised


def simple_loss(denoiser: Denoiser, noised: Noised, condition: Tensor | None) -> Tensor:
    """L_simple (Ho et al. 2020, equation 14): mean squared error of F, one number a picture."""
    output = denoiser.output(noised.x, noised.sigma, condition)
    target = denoiser.target(noised.x0, noised.noise, noised.sigma)
    return (output.float() - target).square().mean(dim=(1, 2, 3))
