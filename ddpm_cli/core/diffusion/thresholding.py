"""Thresholding: keeping x0 in the range of images, as a wrapper of D."""

from __future__ import annotations

from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import NoiseLevels, Predict, Prediction

_QUANTILE = 0.995  # of |x0|, the threshold of dynamic thresholding


def thresholded(predict: Predict, method: str) -> Predict:
    """D whose x0 stays in [-1, 1], unless the method is "none".

    "static" clips (the code of Ho et al. 2020). "dynamic" divides by a quantile of |x0| as well,
    which keeps strongly guided images from saturating (Saharia et al. 2022, section 2.3).
    """
    if method == "none":
        return predict
    threshold = _dynamic if method == "dynamic" else _static

    def bounded(x: Tensor, sigma: NoiseLevels) -> Prediction:
        x0, fraction, _ = predict(x, sigma)
        return Prediction(threshold(x0), fraction, x0)

    return bounded


def _static(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


def _dynamic(x0: Tensor) -> Tensor:
    """Clip each image at s, the 99.5th percentile of |x0| but at least 1, and divide by s."""
    magnitudes = x0.abs().flatten(1).sort(dim=1).values
    position = _QUANTILE * (magnitudes.shape[1] - 1)
    low = magnitudes[:, int(position)]
    high = magnitudes[:, min(int(position) + 1, magnitudes.shape[1] - 1)]
    s = low.lerp(high, position % 1).clamp(min=1)[:, None, None, None]
    return x0.clamp(-s, s) / s
