"""Guidance by a worse model, on mixtures and Gaussians whose denoisers are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, NoiseLevels, Prediction
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.sampling import evaluations, sample
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError

LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
EDM = schedules.from_config(DiffusionConfig("edm", 1000))
SIGMA = 0.7
X = torch.linspace(-3, 3, 6, dtype=torch.float64).reshape(6, 1, 1, 1)
LABELS = Condition(torch.tensor([0, 1, 0, 1, 0, 1]))
EXACT = {"rtol": 1e-14, "atol": 1e-14}  # some roundings of float64


@dataclass
class Mixture(Denoiser):
    """The exact D of a Gaussian about the mean of a class; of both of them without a class."""

    deviation: float
    means: tuple[float, float] = (-1.0, 1.0)
    calls: int = 0

    def predict(
        self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
    ) -> Prediction:
        self.calls += 1
        labels = torch.full((len(x),), -1) if condition.labels is None else condition.labels
        x0 = [
            self.denoised(value, float(sigma), int(label))
            for value, label in zip(x.flatten(), labels, strict=True)
        ]
        fraction = torch.full_like(x, self.deviation)
        return Prediction(torch.stack(x0).reshape(x.shape), fraction)

    def denoised(self, x: Tensor, sigma: float, label: int) -> Tensor:
        """E[x0 | x]: the mean of each Gaussian's, weighted by its likelihood."""
        total = self.deviation**2 + sigma**2
        means = torch.tensor(self.means if label < 0 else [self.means[label]], dtype=torch.float64)
        share = torch.softmax(-((x - means) ** 2) / (2 * total), 0)
        return (share * (sigma**2 * means + self.deviation**2 * x) / total).sum()


def mixture(deviation: float) -> Any:
    return Mixture(deviation)


MAIN, GUIDE = 0.2, 0.5


def by(w: float, **settings: Any) -> Sampling:
    return Sampling(guidance=w, guide="guide", **settings)


@pytest.mark.parametrize("condition", [UNCONDITIONAL, LABELS])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.7, 3.0])
def test_it_is_the_formula(w: float, condition: Condition) -> None:
    main, guide = mixture(MAIN), mixture(GUIDE)
    found = guided(main, condition, by(w), guide)(X, SIGMA)
    good, bad = (one.predict(X, SIGMA, condition).x0 for one in (main, guide))
    torch.testing.assert_close(found.x0, bad + w * (good - bad), **EXACT)
    assert found.variance_fraction is not None  # that of the model, not of the guide
    assert found.variance_fraction.unique().tolist() == [MAIN]
    assert (main.calls, guide.calls) == (2, 2)  # one call of each, and those above


@pytest.mark.parametrize(("g", "w"), [(2.0, 1.7), (3.0, 1.0), (0.5, 2.0), (2.5, 0.5)])
def test_both_are_a_share_of_each(g: float, w: float) -> None:
    """Geffner et al. (2025): omega D + (1 - omega) ((1 - alpha) D_null + alpha D_guide)."""
    main, guide = mixture(MAIN), mixture(GUIDE)
    found = guided(main, LABELS, by(w, class_guidance=g), guide)(X, SIGMA).x0
    good, null, bad = (
        main.predict(X, SIGMA, LABELS).x0,
        main.predict(X, SIGMA).x0,
        guide.predict(X, SIGMA, LABELS).x0,
    )
    omega = 1 + (g - 1) + (w - 1)
    if omega != 1:
        alpha = (w - 1) / (omega - 1)
        expected = omega * good + (1 - omega) * ((1 - alpha) * null + alpha * bad)
        torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(
        found, good + (g - 1) * (good - null) + (w - 1) * (good - bad), **EXACT
    )


@pytest.mark.parametrize("interval", [(0.3, 5.0), (1.0, 5.0)])  # SIGMA is in it, or not
def test_without_the_class_both_models_are_without_it(interval: tuple[float, float]) -> None:
    main, guide = mixture(MAIN), mixture(GUIDE)
    settings = by(1.7, class_guidance=0.0, guidance_interval=interval)
    found = guided(main, LABELS, settings, guide)(X, SIGMA).x0
    plain = guided(main, UNCONDITIONAL, by(1.7, guidance_interval=interval), guide)(X, SIGMA).x0
    torch.testing.assert_close(found, plain, **EXACT)


def test_a_weight_of_1_and_levels_outside_the_interval_call_no_guide() -> None:
    main, guide = mixture(MAIN), mixture(GUIDE)
    plain = main.predict(X, SIGMA, LABELS).x0
    assert torch.equal(guided(main, LABELS, by(1.0), guide)(X, SIGMA).x0, plain)
    predict = guided(main, LABELS, by(3.0, guidance_interval=(1.0, 5.0)), guide)
    assert torch.equal(predict(X, SIGMA).x0, plain)
    assert guide.calls == 0
    predict(X, 2.0)
    assert guide.calls == 1


def test_it_is_rescaled_to_the_model() -> None:
    main, guide = mixture(MAIN), mixture(GUIDE)
    x, condition = X.reshape(1, 1, 6, 1), UNCONDITIONAL

    class Whole(Denoiser):
        def __init__(self, one: Any) -> None:
            self.one = one

        def predict(
            self, x: Tensor, sigma: NoiseLevels, condition: Condition = condition
        ) -> Prediction:
            return Prediction(self.one.predict(x.reshape(6, 1, 1, 1), sigma).x0.reshape(x.shape))

    found = guided(Whole(main), condition, by(3.0, guidance_rescale=1.0), Whole(guide))(x, SIGMA).x0
    good, bad = main.predict(X, SIGMA).x0.flatten(), guide.predict(X, SIGMA).x0.flatten()
    mixed = bad + 3 * (good - bad)
    torch.testing.assert_close(found.flatten(), mixed * good.std() / mixed.std(), **EXACT)


def gaussian(schedule: schedules.Schedule, parameterisation: str, deviation: float) -> Denoiser:
    """D(x, sigma) = x s^2 / (s^2 + sigma^2), by a network of any parameterisation."""

    def network(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        if isinstance(schedule, schedules.KarrasSchedule):
            sigma = (4 * c_noise.double()).exp()
        else:
            steps = torch.arange(len(schedule)).double().numpy()
            levels = c_noise.double().numpy()
            sigma = torch.from_numpy(np.exp(np.interp(levels, steps, np.log(schedule.sigma))))
        c_skip, c_out, c_in = denoiser.scalings(sigma)
        original = x.double() / c_in[:, None, None, None]
        x0 = original * (deviation**2 / (deviation**2 + sigma**2))[:, None, None, None]
        return (x0 - c_skip[:, None, None, None] * original) / c_out[:, None, None, None]

    denoiser = Denoiser(network, schedule, parameterisation)
    return denoiser


@pytest.mark.parametrize("w", [0.5, 1.7, 3.0])
@pytest.mark.parametrize(("schedule", "parameterisation"), [(LINEAR, "eps"), (EDM, "edm")])
def test_a_guided_gaussian_has_a_known_deviation(
    w: float, schedule: schedules.Schedule, parameterisation: str
) -> None:
    """d ln x = w sigma / (s^2 + sigma^2) + (1 - w) sigma / (g^2 + sigma^2) integrates exactly.

    From S to 0 x shrinks by (s^2 / (s^2 + S^2))^(w/2) (g^2 / (g^2 + S^2))^((1 - w)/2), so that the
    deviation is s^w g^(1 - w) for large S: below s for w above 1 and a guide wider than s. The
    guide has a schedule and a parameterisation of its own.
    """
    s, g, start = 0.5, 0.8, 80.0
    sampling = by(w, steps=200, sampler="heun", threshold="none")
    main, guide = gaussian(EDM, "edm", s), gaussian(schedule, parameterisation, g)
    unit = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    x = final_state(sample(main, lambda: unit, UNCONDITIONAL, sampling, guide=guide))
    shrinks = (s**2 / (s**2 + start**2)) ** (w / 2) * (g**2 / (g**2 + start**2)) ** ((1 - w) / 2)
    # 200 steps of Heun err by up to 1e-3; the networks compute with inputs of float32.
    assert x.item() == pytest.approx(start * shrinks, rel=3e-3)
    assert start * shrinks == pytest.approx(s**w * g ** (1 - w), rel=1e-3)


@pytest.mark.parametrize(
    ("sampling", "calls"),
    [
        (by(1.0, steps=10), 10),
        (by(1.7, steps=10), 20),
        (by(0.0, steps=10), 20),
        (by(1.7, steps=10, class_guidance=2.0), 30),
        (by(1.7, steps=10, class_guidance=0.0), 20),
        (by(1.0, steps=10, class_guidance=2.0), 20),
        (by(1.7, steps=10, sampler="heun"), 38),
        (by(1.7, sigmas=(20.0, 5.0, 1.0), guidance_interval=(2.0, 10.0)), 4),
    ],
)
def test_calls_of_both_networks_are_counted(sampling: Sampling, calls: int) -> None:
    assert evaluations(LINEAR, sampling) == calls


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="--class-guidance is beside a guide's"):
        Sampling(class_guidance=2.0)
    with pytest.raises(UsageError, match="--class-guidance must be 0 or more, not -1"):
        by(1.7, class_guidance=-1.0)
    with pytest.raises(UsageError, match="no meaning at --guidance 1"):
        by(1.0, guidance_interval=(0.3, 5.0))
    with pytest.raises(ValueError, match="missing"):
        guided(mixture(MAIN), UNCONDITIONAL, by(2.0))


@pytest.mark.parametrize("g", [0.0, 1.0, 2.0])
def test_without_its_guide_what_is_classifier_free_stays(g: float) -> None:
    settings = {"guidance_interval": (0.3, 5.0), "guidance_rescale": 0.5}
    plain = by(1.7, class_guidance=g, **settings).without_guide()
    assert plain == Sampling(guidance=g, **(settings if g == 2 else {}))
