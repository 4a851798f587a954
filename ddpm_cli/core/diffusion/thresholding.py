"""Keeping x0 within the range of pictures, as a wrapper of D."""

from __future__ import annotations

from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import Predict, Prediction

_SHARE = 0.995  # of a picture's values that dynamic thresholding leaves unclipped


def thresholded(predict: Predict, how: str) -> Predict:
    """D whose pictures stay within [-1, 1], if `how` is not none.

    static cuts off what lies outside (Ho et al. 2020, in their code); dynamic shrinks first
    (Saharia et al. 2022, section 2.3), which keeps strongly guided pictures from saturating.
    """
    if how == "none":
        return predict
    bound = _shrunk if how == "dynamic" else _clipped

    def bounded(x: Tensor, sigma: Tensor) -> Prediction:
        x0, fraction = predict(x, sigma)
        return Prediction(bound(x0), fraction)

    return bounded


def _clipped(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def _shrunk(x0: Tensor) -> Tensor:
    """Clip each picture at its 99.5th percentile of |x0|, if that is above 1, and divide by it."""
    sizes = x0.abs().flatten(1).sort(dim=1).values
    place = _SHARE * (sizes.shape[1] - 1)
    low = sizes[:, int(place)]
    high = sizes[:, min(int(place) + 1, sizes.shape[1] - 1)]
    largest = low.lerp(high, place % 1).clamp(min=1)[:, None, None, None]
    return x0.clamp(-largest, largest) / largest
