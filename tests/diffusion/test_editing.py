"""Sampling that begins at images, against data of which D is known: a Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import sampling, schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, NoiseLevels, Prediction, noise_levels
from ddpm_cli.core.diffusion.editing import Edit, invert
from ddpm_cli.core.diffusion.samplers import ddim
from ddpm_cli.core.diffusion.settings import CONSISTENCY, SAMPLERS, SPACINGS, Sampling
from ddpm_cli.core.runtime.seeds import ImageNoise

COSINE = schedules.from_config(DiffusionConfig("cosine", 1000))
SHAPE = (2, 1, 4, 6)
MEAN, STD = 0.1, 0.3


class Gaussian(Denoiser):
    """D of independent pixels N(MEAN, STD^2): the posterior's mean."""

    def predict(
        self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
    ) -> Prediction:
        variance = float(noise_levels(sigma, x)) ** 2
        return Prediction((STD**2 * x + variance * MEAN) / (STD**2 + variance))


D = Gaussian(lambda x, *_: x, COSINE, "x0")


def images(seed: int = 0) -> Tensor:
    return MEAN + STD * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def noise() -> ImageNoise:
    return ImageNoise([3, 4], SHAPE[1:], torch.device("cpu"))


def sampled(settings: Sampling, edit: Edit | None = None) -> Tensor:
    x = images() if edit is None else edit.images
    for step in sampling.sample(D, noise(), UNCONDITIONAL, settings, edit):
        x = step.x
    return x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_strength_gives_the_images_back_and_full_strength_samples(sampler: str) -> None:
    settings = Sampling(sampler=sampler, steps=8)
    assert torch.equal(sampled(settings, Edit(images(), strength=0)), images())
    assert torch.equal(sampled(settings, Edit(images(), strength=1)), sampled(settings))


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp-2m", "dpmpp-3m", "ipndm"])
def test_a_strength_is_a_noise_level(sampler: str, strength: float) -> None:
    """The same of all samplers. A Gaussian's flow keeps quantiles: so the result is known."""
    settings = Sampling(sampler=sampler, steps=400 if sampler == "ddim" else 100)
    sigma = float(COSINE.sigma[round(strength * 1000) - 1])
    start = images() + sigma * noise()()
    expected = MEAN + STD * (start - MEAN) / math.hypot(STD, sigma)
    taken = list(sampling.sample(D, noise(), UNCONDITIONAL, settings, Edit(images(), strength)))
    assert taken[0].sigma == sigma
    torch.testing.assert_close(taken[-1].x, expected, atol=0.02, rtol=0)  # of 400 Euler steps


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_descend_from_that_of_the_strength(sampler: str, spacing: str) -> None:
    if sampler == CONSISTENCY and spacing != SPACINGS[0]:
        return  # it has levels of its own
    of_sampler = {} if sampler == CONSISTENCY else {"spacing": spacing}
    settings = Sampling(sampler=sampler, steps=12, **of_sampler)
    whole = sampling.grid(COSINE, settings)
    for timesteps in (1, 2, 40, 333, 600, 990, 999):
        sigmas = sampling.visited(COSINE, settings, Edit(images(), timesteps / 1000))
        assert float(sigmas[0]) == min(float(COSINE.sigma[timesteps - 1]), float(whole[0]))
        assert (sigmas.diff() < 0).all() and sigmas[-1] == 0
        assert set(sigmas[1:].tolist()) <= set(whole.tolist())
    assert sampling.visited(COSINE, settings, Edit(images(), 0.0004)).tolist() == [0.0]


def test_the_strength_is_the_share_of_ddims_steps() -> None:
    for strength in (0.1, 0.5, 0.74):
        settings, edit = Sampling(steps=50), Edit(images(), strength)
        assert sampling.evaluations(COSINE, settings, edit) == strength * 50


def test_evaluations_count_resampling() -> None:
    edit = Edit(images(), mask=torch.ones(1, 1, 1, 1), resample=4)
    for sampler, each in (("ddim", 25), ("heun", 2 * 25 - 1)):
        settings = Sampling(sampler=sampler, steps=25)
        assert sampling.evaluations(COSINE, settings, edit) == 4 * each


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("resample", [1, 3])
def test_known_pixels_come_out_as_they_went_in(sampler: str, resample: int) -> None:
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 2:] = 1
    settings = Sampling(sampler=sampler, steps=15)
    edited = sampled(settings, Edit(images(), mask=mask, resample=resample))
    known = (mask == 0).expand(SHAPE)
    torch.testing.assert_close(edited[known], images()[known], atol=1e-6, rtol=0)
    assert (edited[~known] - images()[~known]).abs().mean() > 0.1
    nothing = sampled(settings, Edit(images(), mask=torch.zeros(1, 1, 1, 1), resample=resample))
    torch.testing.assert_close(nothing, images(), atol=1e-6, rtol=0)


def test_all_pixels_anew_are_sampled() -> None:
    settings = Sampling(steps=12)
    edit = Edit(images(), mask=torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(sampled(settings, edit), sampled(settings))


def test_resampling_takes_each_stretch_so_often_and_yields_it_once() -> None:
    evaluated = 0

    class Counting(Gaussian):
        def predict(
            self, x: Tensor, sigma: NoiseLevels, condition: Condition = UNCONDITIONAL
        ) -> Prediction:
            nonlocal evaluated
            evaluated += 1
            return super().predict(x, sigma, condition)

    edit = Edit(images(), mask=torch.ones(1, 1, 1, 1), resample=4)
    steps = list(
        sampling.sample(
            Counting(lambda x, *_: x, COSINE, "x0"),
            noise(),
            UNCONDITIONAL,
            Sampling(steps=25),
            edit,
        )
    )
    assert evaluated == 4 * 25
    assert [step.index for step in steps] == list(range(25))
    assert steps[-1].sigma_next == 0


def test_resampling_keeps_the_distribution() -> None:
    """Without known pixels, as noise that is added again is what the steps took away."""
    many = ImageNoise(range(64), (1, 32, 32), torch.device("cpu"))
    x0 = torch.zeros(64, 1, 32, 32)
    edit = Edit(x0, mask=torch.ones(1, 1, 1, 1), resample=3)
    settings = Sampling(sampler="ddpm", steps=250)
    *_, last = sampling.sample(D, many, UNCONDITIONAL, settings, edit)
    assert float(last.x.mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(last.x.std()) == pytest.approx(STD, rel=0.05)  # of 250 steps


def test_inversion_leads_back_to_the_images() -> None:
    sigmas = sampling.grid(COSINE, Sampling(steps=50))
    *_, last = invert(D.predict, images(), sigmas, noise()())
    assert last.sigma_next == float(sigmas[0])
    *_, back = ddim(D.predict, last.x, sigmas, eta=0, noise=noise())
    torch.testing.assert_close(back.x, images(), atol=1e-3, rtol=0)


def test_the_inverted_noise_is_that_of_the_flow() -> None:
    """Which keeps a state's quantile: x = MEAN + sqrt(STD^2 + sigma^2) (x0 - MEAN) / STD."""
    sigmas = torch.cat((torch.logspace(0.5, -2.5, 1500, dtype=torch.float64), torch.zeros(1)))
    for step in invert(D.predict, images(), sigmas, noise()(), refinements=8):
        exact = MEAN + math.hypot(STD, step.sigma_next) / STD * (images() - MEAN)
        assert (step.x - exact).abs().max() < 1e-3 * max(1.0, step.sigma_next / STD)


def test_unclipped_noise_of_new_pixels_stays_unclipped() -> None:
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    edit = Edit(torch.full((1, 1, 1, 2), 0.25), mask=mask)
    predict = edit.keep(
        lambda *_: Prediction(torch.ones(1, 1, 1, 2), None, torch.full((1, 1, 1, 2), 3.0))
    )
    found = predict(torch.zeros(1, 1, 1, 2), 1.0)
    assert found.x0.flatten().tolist() == [1, 0.25]
    assert found.unclipped is not None and found.unclipped.flatten().tolist() == [3, 0.25]
