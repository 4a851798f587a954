"""Classifier-free guidance (Ho & Salimans 2022) as a wrapper of D."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion.denoiser import Denoiser, NoiseLevels, Predict, Prediction
from ddpm_cli.core.diffusion.settings import Sampling


def guided(denoiser: Denoiser, condition: Condition, sampling: Sampling) -> Predict:
    """D = D_null + g (D_condition - D_null), both evaluated in one forward pass.

    The scale g = 1 is the conditional model and g = 0 the unconditional one; the paper's w is
    g - 1. Outside the guidance interval only the conditional model is evaluated. A learned
    variance is not guided: it is the conditional model's. With an empty condition there is nothing
    to guide, and D is the unconditional model. A given image stays in both.
    """
    if condition.is_empty:
        return partial(denoiser.predict, condition=condition)
    both = condition.with_null()

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        each = sigma if isinstance(sigma, Tensor) and sigma.ndim else None  # one level per image
        if not sampling.is_guided_at(float(sigma if each is None else each[0])):
            return denoiser.predict(x, sigma, condition)
        if sampling.guidance == 0:
            return denoiser.predict(x, sigma, both.select(slice(len(x), None)))
        levels = sigma if each is None else each.repeat(2)
        x0, fraction, _ = denoiser.predict(x.repeat(2, 1, 1, 1), levels, both)
        conditional, unconditional = x0.chunk(2)
        mixed = unconditional + sampling.guidance * (conditional - unconditional)
        if sampling.guidance_rescale:
            mixed = _rescaled(mixed, conditional, sampling.guidance_rescale)
        return Prediction(mixed, None if fraction is None else fraction[: len(x)])

    return predict


def _rescaled(mixed: Tensor, conditional: Tensor, phi: float) -> Tensor:
    """Rescale to the conditional x0's deviation, by phi (Lin et al. 2024, equations 15 and 16)."""
    over = (1, 2, 3)
    factor = conditional.std(over, keepdim=True) / mixed.std(over, keepdim=True).clamp(min=1e-8)
    return mixed * (phi * factor + 1 - phi)
