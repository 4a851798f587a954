"""Guidance and thresholds: wrappers of D checked on analytic data."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.diffusion import grids, samplers, schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, Prediction
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.diffusion.thresholding import thresholded

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
SIGMA = torch.from_numpy(LINEAR.sigma[[300]])
ZERO = torch.zeros(2, 1, 1, 1)


def labelled(calls: list[int] | None = None) -> Denoiser:
    """D = 10 for class 0, 20 for class 1, 4 for the null class."""
    values = torch.tensor([4.0, 10.0, 20.0])

    def network(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        assert condition.labels is not None
        if calls is not None:
            calls.append(len(x))
        return values[condition.labels + 1][:, None, None, None].expand_as(x)

    return Denoiser(network, LINEAR, "x0")


def at(sigma: float) -> Tensor:
    return torch.full((2,), sigma, dtype=torch.float64)


@pytest.mark.parametrize(
    ("scale", "expected"), [(0, [4, 4]), (1, [10, 20]), (4, [28, 68]), (0.5, [7, 12])]
)
def test_guidance(scale: float, expected: list[float]) -> None:
    calls: list[int] = []
    predict = guided(labelled(calls), Condition(torch.tensor([0, 1])), Sampling(guidance=scale))
    assert predict(ZERO, SIGMA.expand(2)).x0.flatten().tolist() == expected
    assert calls == [2 if scale in (0, 1) else 4]  # both branches in one pass, none needlessly


def test_a_model_without_classes_is_not_guided() -> None:
    denoiser = Denoiser(lambda x, c, k: x if k.is_empty else x + NULL_CLASS, LINEAR, "x0")
    assert (
        guided(denoiser, UNCONDITIONAL, Sampling())(ZERO, SIGMA.expand(2)).x0.tolist()
        == ZERO.tolist()
    )


def test_outside_its_interval_guidance_has_no_effect() -> None:
    calls: list[int] = []
    sampling = Sampling(guidance=4, guidance_interval=(0.3, 5.0))
    predict = guided(labelled(calls), Condition(torch.tensor([0, 1])), sampling)
    for sigma in (0.3, 5.1, 80.0):  # LOW itself is outside
        assert predict(ZERO, at(sigma)).x0.flatten().tolist() == [10, 20]
    assert calls == [2, 2, 2]  # one evaluation each
    for sigma in (0.301, 5.0):  # HIGH is inside
        assert predict(ZERO, at(sigma)).x0.flatten().tolist() == [28, 68]


class Learned(Denoiser):
    """D = x, with a variance fraction that depends on the class."""

    def __init__(self) -> None:
        super().__init__(lambda x, c, k: x, LINEAR, "x0")

    def predict(self, x: Tensor, sigma: float, condition: Condition = UNCONDITIONAL) -> Prediction:
        assert condition.labels is not None
        return Prediction(x, (condition.labels / 10).float()[:, None, None, None].expand_as(x))


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
def test_a_learned_variance_passes_unguided(scale: float, threshold: str) -> None:
    predict = guided(Learned(), Condition(torch.tensor([3, 7])), Sampling(guidance=scale))
    fraction = thresholded(predict, threshold)(ZERO, at(1.0)).variance_fraction
    assert fraction is not None
    assert fraction.flatten().tolist() == pytest.approx([0.3, 0.7])


def test_rescaling_brings_the_deviation_back(noise: Callable[..., Tensor]) -> None:
    conditional, unconditional = noise(2, 3, 8, 8), noise(2, 3, 8, 8)

    class Two(Denoiser):
        def predict(
            self, x: Tensor, sigma: Tensor, condition: Condition = UNCONDITIONAL
        ) -> Prediction:
            assert condition.labels is not None and condition.labels.tolist() == [0, 0, -1, -1]
            return Prediction(torch.cat([conditional, unconditional]))

    def guided_by(phi: float) -> Tensor:
        sampling = Sampling(guidance=5, guidance_rescale=phi)
        predict = guided(
            Two(lambda x, c, k: x, LINEAR, "x0"), Condition(torch.tensor([0, 0])), sampling
        )
        return predict(conditional, at(1.0)).x0

    plain = unconditional + 5 * (conditional - unconditional)
    # Lin et al. (2024), equations 15 and 16, one image at a time
    rescaled = torch.stack([p * w.std() / p.std() for p, w in zip(plain, conditional, strict=True)])
    torch.testing.assert_close(guided_by(0), plain)
    torch.testing.assert_close(guided_by(1), rescaled)
    torch.testing.assert_close(guided_by(0.7), 0.7 * rescaled + 0.3 * plain)


class Gaussians(Denoiser):
    """The exact D of N(mean, 0.3^2): mean 0.4 for class 0, 0 without a class."""

    def predict(self, x: Tensor, sigma: float, condition: Condition = UNCONDITIONAL) -> Prediction:
        assert condition.labels is not None
        mean = torch.where(condition.labels == 0, 0.4, 0.0)[:, None, None, None]
        variance = sigma**2
        return Prediction((variance * mean + 0.3**2 * x) / (variance + 0.3**2))


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_guided_gaussians_have_the_tilted_mean(
    scale: float, eta: float, noise: Callable[..., Tensor]
) -> None:
    """p_class^g p_null^(1 - g) of two Gaussians of one width is a third, with mean g 0.4."""
    count = 20_000
    denoiser = Gaussians(lambda x, c, k: x, LINEAR, "x0")
    predict = guided(
        denoiser, Condition(torch.zeros(count, dtype=torch.int64)), Sampling(guidance=scale)
    )
    sigmas = grids.sigmas(LINEAR, 200, "karras")
    draw = lambda: noise(count, 1, 1, 1)  # noqa: E731
    steps = samplers.ddim(predict, 80 * draw(), sigmas, eta=eta, noise=draw)
    x = list(steps)[-1].x
    # The mean of 20,000 draws of deviation 0.3 is known to 0.0021. The start's mean, 0, is still
    # left with weight 0.3 / 80, and 200 steps of Euler err by 0.5 %.
    assert x.mean().item() == pytest.approx(scale * 0.4, abs=0.015)
    assert x.std().item() == pytest.approx(0.3, rel=0.05)


def test_static_thresholding_clips() -> None:
    x = torch.tensor([[[[-3.0, 0.5, 2.0]]]])
    predict = thresholded(lambda x, s: Prediction(x), "static")
    assert predict(x, SIGMA).x0.tolist() == [[[[-1.0, 0.5, 1.0]]]]
    predict = thresholded(lambda x, s: Prediction(x), "none")
    assert predict(x, SIGMA).x0 is x


def test_dynamic_thresholding_is_imagens(noise: Callable[..., Tensor]) -> None:
    x = noise(3, 3, 16, 16) * torch.tensor([0.2, 1.0, 4.0])[:, None, None, None]
    out = thresholded(lambda x, s: Prediction(x), "dynamic")(x, SIGMA).x0
    for image, bounded in zip(x, out, strict=True):  # Saharia et al. (2022), appendix, as printed
        s = max(1.0, torch.quantile(image.abs().flatten(), 0.995).item())
        torch.testing.assert_close(bounded, image.clamp(-s, s) / s)
    assert torch.equal(out[0], x[0])  # an image within the range is unchanged
    assert out.abs().max() <= 1
    tiny = torch.full((1, 1, 1, 1), -7.0)
    assert thresholded(lambda x, s: Prediction(x), "dynamic")(tiny, SIGMA).x0.item() == -1
    assert math.isclose(float(out[2].abs().max()), 1)
