"""Classifier-free guidance (Ho & Salimans 2022) as a wrapper of D."""

from __future__ import annotations

from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion.denoiser import Denoiser, Predict, Prediction
from ddpm_cli.core.diffusion.settings import Sampling


def guided(denoiser: Denoiser, condition: Condition, how: Sampling) -> Predict:
    """D = D_null + g (D_condition - D_null), both in one forward pass.

    g 1 is the plain conditional model, 0 the unconditional one; the paper's w is g - 1. Outside
    the guidance interval the plain conditional model is asked alone. A learned variance is not
    guided: it is the conditional model's.
    A model that knows neither classes nor texts cannot be guided.
    """
    if condition.is_empty:
        return denoiser.predict
    both = condition.with_null()

    def predict(x: Tensor, sigma: Tensor) -> Prediction:
        if not how.is_guided_at(float(sigma[0])):
            return denoiser.predict(x, sigma, condition)
        if how.guidance == 0:
            return denoiser.predict(x, sigma, both.select(slice(len(x), None)))
        x0, fraction = denoiser.predict(x.repeat(2, 1, 1, 1), sigma.repeat(2), both)
        wanted, free = x0.chunk(2)
        mixed = free + how.guidance * (wanted - free)
        if how.guidance_rescale:
            mixed = _rescaled(mixed, wanted, how.guidance_rescale)
        return Prediction(mixed, None if fraction is None else fraction[: len(x)])

    return predict


def _rescaled(mixed: Tensor, wanted: Tensor, share: float) -> Tensor:
    """Bring x0's deviation that share of the way back to `wanted`'s (Lin et al. 2024, 3.4)."""
    over = (1, 2, 3)
    factor = wanted.std(over, keepdim=True) / mixed.std(over, keepdim=True).clamp(min=1e-8)
    return mixed * (share * factor + 1 - share)
