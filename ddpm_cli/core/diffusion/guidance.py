"""Guidance as a wrapper of D: classifier-free, by a worse model (autoguidance), or both."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion.denoiser import Denoiser, NoiseLevels, Predict, Prediction
from ddpm_cli.core.diffusion.settings import Sampling


def guided(
    denoiser: Denoiser, condition: Condition, sampling: Sampling, guide: Denoiser | None = None
) -> Predict:
    """D with classifier-free guidance of scale g, that of a guide with weight w, or both.

    Classifier-free (Ho & Salimans 2022): D_null + g (D - D_null), both evaluated in one forward
    pass. The scale g = 1 is the conditional model and g = 0 the unconditional one; the paper's w is
    g - 1.

    A guide (autoguidance, Karras et al. 2024b, equation 3): D_guide + w (D - D_guide), with the
    same condition. The guide may be any D of these images, of another parameterisation or schedule.

    Both: D + (g - 1) (D - D_null) + (w - 1) (D - D_guide), the combination of Geffner et al. (2025,
    Proteina) with the weight omega = 1 + (g - 1) + (w - 1) in all, of which the share alpha =
    (w - 1) / (omega - 1) is the guide's.

    At g = 0 the null condition replaces the condition everywhere: in D, in the guide, and outside
    the guidance interval, where D alone is evaluated. At w = 1 no guide is. A learned variance is
    not guided: it is that of D. With an empty condition there is no D_null, and D is the
    unconditional model. A given image stays in all of them. A network that learned guidance is told
    g instead. Raises ValueError where the settings have a guide that is missing.
    """
    if sampling.guidance_learned:
        return _told(denoiser, condition, sampling.guidance)
    if sampling.guide is not None and guide is None:
        raise ValueError(f"the guide of these settings, {sampling.guide}, is missing")
    scale = 1.0 if condition.is_empty else sampling.class_weight
    weight = sampling.guide_weight
    if scale == 0:
        condition, scale = condition.null(), 1.0
    if scale == weight == 1:
        return partial(denoiser.predict, condition=condition)
    both = condition if scale == 1 else condition.with_null()

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        each = sigma if isinstance(sigma, Tensor) and sigma.ndim else None  # one level per image
        if not sampling.is_guided_at(float(sigma if each is None else each[0])):
            return denoiser.predict(x, sigma, condition)
        if scale == 1:
            mixed, fraction, _ = denoiser.predict(x, sigma, condition)
            x0 = mixed
        else:
            levels = sigma if each is None else each.repeat(2)
            pair, fraction, _ = denoiser.predict(x.repeat(2, 1, 1, 1), levels, both)
            x0, unconditional = pair.chunk(2)
            mixed = unconditional + scale * (x0 - unconditional)
            fraction = None if fraction is None else fraction[: len(x)]
        if guide is not None and weight != 1:
            mixed = mixed + (weight - 1) * (x0 - guide.predict(x, sigma, condition).x0)
        if sampling.guidance_rescale:
            mixed = _rescaled(mixed, x0, sampling.guidance_rescale)
        return Prediction(mixed, fraction)

    return predict


def _told(denoiser: Denoiser, condition: Condition, guidance: float) -> Predict:
    """D of a network that is conditioned on the guidance."""

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        told = torch.full((len(x),), guidance, device=x.device)
        return denoiser.predict(x, sigma, condition._replace(guidance=told))

    return predict


def _rescaled(mixed: Tensor, x0: Tensor, phi: float) -> Tensor:
    """Rescale to the deviation of the model's own x0, by phi (Lin et al. 2024, eq. 15 and 16)."""
    over = (1, 2, 3)
    factor = x0.std(over, keepdim=True) / mixed.std(over, keepdim=True).clamp(min=1e-8)
    return mixed * (phi * factor + 1 - phi)
