"""Samplers, grids, guidance and thresholds together: any choice gives finite images."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import grids, sampling, schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import (
    CONSISTENCY,
    ODE_SOLVERS,
    SAMPLERS,
    SDE_SOLVERS,
    SPACINGS,
    THRESHOLDS,
    VARIANCES,
    Sampling,
)
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.seeds import ImageNoise

CPU = torch.device("cpu")
SCHEDULES = {
    (name, total): schedules.from_config(DiffusionConfig(name, total))
    for name in ("linear", "cosine")
    for total in (1, 2, 3, 10, 1000, 4000)
}


class CountingNetwork:
    """An untrained network that counts the images it is evaluated on."""

    def __init__(self) -> None:
        self.evaluated = 0

    def __call__(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        assert torch.isfinite(x).all()
        assert torch.isfinite(c_noise).all()
        self.evaluated += len(x)
        labels = condition.labels
        shift = 0.0 if labels is None else 0.1 * labels[:, None, None, None]
        return torch.tanh(x) * 0.7 + shift


class BFloat16Noise(ImageNoise):
    """Noise in bfloat16."""

    def __call__(self) -> Tensor:
        return super().__call__().bfloat16()


def sample_two(
    chosen: Sampling, schedule: schedules.Schedule, parameterisation: str, kind: type[ImageNoise]
) -> int:
    """Sample two images, check every step, and count the evaluations per image."""
    network = CountingNetwork()
    denoiser = Denoiser(network, schedule, parameterisation)
    noise = kind([0, 1], (1, 2, 2), CPU)
    condition = UNCONDITIONAL if chosen.guidance == 1 else Condition(torch.tensor([0, 1]))
    steps = list(sampling.sample(denoiser, noise, condition, chosen))
    assert [step.index for step in steps] == list(range(chosen.steps))
    assert steps[-1].sigma_next == 0
    assert all(torch.isfinite(step.x).all() for step in steps)
    assert steps[-1].x.dtype == noise().dtype
    if chosen.threshold != "none":
        assert steps[-1].x.abs().max() <= 1  # every sampler ends at D
    return network.evaluated // 2


def valid_settings() -> st.SearchStrategy[dict[str, Any]]:
    """Any combination that is valid."""

    def fit(chosen: dict[str, Any]) -> dict[str, Any]:
        if chosen["sampler"] in (*ODE_SOLVERS, CONSISTENCY):
            chosen["eta"] = 0.0
        if chosen["sampler"] == CONSISTENCY:
            chosen["spacing"] = None
        if chosen["sampler"] in SDE_SOLVERS:
            chosen["variance"] = "fixed-small"
        if chosen["sampler"] != "ddim" or chosen["threshold"] == "none":
            chosen["unclipped_eps"] = False
        if chosen["sampler"] == "ddpm":
            chosen["eta"] = 1.0
        if chosen["sampler"] != "heun":
            chosen["s_churn"] = 0.0
        if chosen["eta"] == 0:
            chosen["variance"] = "fixed-small"
        if chosen["guidance"] in (0, 1):
            chosen["guidance_interval"] = (0.0, math.inf)
            chosen["guidance_rescale"] = 0.0
        return chosen

    return st.fixed_dictionaries(
        {
            "sampler": st.sampled_from(SAMPLERS),
            "spacing": st.sampled_from(SPACINGS),
            "threshold": st.sampled_from(THRESHOLDS),
            "variance": st.sampled_from([v for v in VARIANCES if v != "learned"]),
            "eta": st.sampled_from([0.0, 0.5, 1.0]),
            "guidance": st.sampled_from([0.0, 1.0, 3.0]),
            "guidance_interval": st.sampled_from([(0.0, math.inf), (0.2, 4.0)]),
            "guidance_rescale": st.sampled_from([0.0, 0.7]),
            "s_churn": st.sampled_from([0.0, 10.0, 1e6]),
            "unclipped_eps": st.booleans(),
        }
    ).map(fit)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    chosen=valid_settings(),
    where=st.sampled_from(sorted(SCHEDULES)),
    parameterisation=st.sampled_from(["eps", "x0", "v"]),
    kind=st.sampled_from([ImageNoise, BFloat16Noise]),
    data=st.data(),
)
def test_any_settings_give_finite_images(
    chosen: dict[str, Any],
    where: tuple[str, int],
    parameterisation: str,
    kind: type[ImageNoise],
    data: st.DataObject,
) -> None:
    schedule = SCHEDULES[where]
    steps = data.draw(st.integers(1, min(len(schedule), 40)))
    settings = Sampling(steps=steps, **chosen)
    assert sample_two(settings, schedule, parameterisation, kind) == sampling.evaluations(
        schedule, settings
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    where=st.sampled_from(sorted(SCHEDULES)),
    spacing=st.sampled_from(SPACINGS),
    largest=st.sampled_from([80.0, math.inf]),
    data=st.data(),
)
def test_any_grid_descends_within_the_schedule(
    where: tuple[str, int], spacing: str, largest: float, data: st.DataObject
) -> None:
    schedule = SCHEDULES[where]
    steps = data.draw(st.integers(1, len(schedule)))
    sigmas = grids.sigmas(schedule, steps, spacing, largest)
    assert sigmas.shape == (steps + 1,)
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0
    assert sigmas[-2] >= schedule.sigma[0] * (1 - 1e-9)
    assert sigmas[0] <= min(schedule.sigma[-1], largest) * (1 + 1e-9)
    t = schedule.timestep(sigmas[:-1])
    assert (t.diff() <= 0).all()  # float32 rounds neighbours of 4000 steps to the same value


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"timesteps": [999, 500, 20]}, [999, 500, 20]),
        ({"sections": [1, 2]}, [999, 500, 0]),
        ({"sigmas": np.array([150.0, 3.0, 0.5])}, [150.0, 3.0, 0.5]),
        ({"sigmas": (150.0, 3.0, 0.5, 0.0)}, [150.0, 3.0, 0.5]),
    ],
)
def test_every_sampler_visits_the_levels_given(
    name: str, levels: dict[str, Any], expected: list[float]
) -> None:
    schedule = SCHEDULES["linear", 1000]
    chosen = Sampling(sampler=name, **levels)
    if "sigmas" not in levels:
        expected = schedule.sigma[[int(t) for t in expected]].tolist()
    assert sampling.grid(schedule, chosen).tolist() == [*expected, 0]  # also above 80
    sample_two(chosen, schedule, "eps", ImageNoise)
    assert chosen.with_default_steps(1000) == chosen
    assert Sampling(**chosen.document() | {"s_max": math.inf, "guidance_interval": (0, math.inf)})


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_ends_at_the_smallest_level_if_asked_to(name: str) -> None:
    """Data of one value: there D is it, and what is left is sigma_min n."""
    schedule = SCHEDULES["linear", 1000]
    denoiser = Denoiser(lambda x, c_noise, condition: torch.full_like(x, 0.3), schedule, "x0")
    chosen = Sampling(steps=20, sampler=name, final_sigma="sigma-min", threshold="none")
    noise = ImageNoise(range(64), (1, 8, 8), CPU)
    last = list(sampling.sample(denoiser, noise, UNCONDITIONAL, chosen))[-1]
    assert last.sigma_next == schedule.sigma[0]
    # The standard error of a deviation from 4,096 samples is 1.1 %; DDPM's prior adds 1 / sigma^2.
    assert (last.x - 0.3).std().item() == pytest.approx(schedule.sigma[0], rel=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_all_of_the_timesteps(name: str, schedule: str) -> None:
    chosen = Sampling(1000, sampler=name)
    expected = 1999 if name == "heun" else 1000
    assert sample_two(chosen, SCHEDULES[schedule, 1000], "eps", ImageNoise) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Sampling(50), 50),
        (Sampling(50, guidance=0), 50),
        (Sampling(50, guidance=3), 100),
        (Sampling(18, sampler="heun", spacing="karras"), 35),
        (Sampling(18, sampler="heun", spacing="karras", guidance=2), 70),
        (Sampling(10, sampler="dpmpp-3m-sde"), 10),
        (Sampling(10, sampler="ipndm"), 10),
        # Guided at timesteps 999 and 499 alone.
        (Sampling(4, guidance=3, guidance_interval=(2.0, 10.0)), 5),
    ],
)
def test_evaluations(chosen: Sampling, expected: int) -> None:
    assert sampling.evaluations(SCHEDULES["linear", 1000], chosen) == expected


def test_levels_are_those_of_churn_too() -> None:
    """Heun's churn raises each level by sqrt(2) - 1 at most (Karras et al. 2022, algorithm 2)."""
    chosen = Sampling(sampler="heun", sigmas=(20.0, 5.0), s_churn=100.0, s_max=10.0)
    raised = 5.0 * math.sqrt(2)
    assert sampling.levels(SCHEDULES["linear", 1000], chosen) == pytest.approx([20, 5, raised])


def test_cosines_first_jump_does_not_break_ode_solvers() -> None:
    """Gaussian data of deviation 0.5 under the cosine schedule, whose largest sigma is 20,291."""
    schedule = SCHEDULES["cosine", 1000]

    def network(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        # D(x) = x 0.25 / (0.25 + sigma^2) of the unscaled x, from c_in x and the timestep
        levels = np.interp(c_noise, range(1000), np.log(schedule.sigma))
        sigma = torch.from_numpy(levels).exp()
        scale = (1 + sigma**2).sqrt() * 0.25 / (0.25 + sigma**2)
        return (x * scale[:, None, None, None]).float()

    denoiser = Denoiser(network, schedule, "x0")
    for name in ("heun", "dpmpp-2m", "ipndm"):
        for spacing in ("karras", "trailing"):
            chosen = Sampling(40, sampler=name, spacing=spacing, threshold="none")
            noise = ImageNoise(range(64), (1, 8, 8), CPU)
            x = list(sampling.sample(denoiser, noise, UNCONDITIONAL, chosen))[-1].x
            # The standard error of a deviation of 0.5 from 4,096 samples is 0.0055.
            assert x.std().item() == pytest.approx(0.5, abs=0.03), (name, spacing)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sampler": "magic"}, ", ".join(SAMPLERS)),
        ({"spacing": "even"}, "trailing, leading, linspace, quadratic, beta, karras"),
        ({"variance": "large"}, "fixed-small, fixed-large, learned"),
        ({"threshold": "hard"}, "static, dynamic, none"),
        ({"final_sigma": "none"}, "choose one of zero, sigma-min"),
        ({"sigmas": (1.0, 5.0)}, "--sigmas 1,5 should descend"),
        ({"sigmas": (5.0, math.nan)}, "--sigmas must be more than 0"),
        ({"sigmas": (0.0,)}, "--sigmas must be more than 0"),
        ({"timesteps": (9, 9)}, "--timesteps 9,9 should descend"),
        ({"timesteps": (9, -1)}, "--timesteps must be at least 0"),
        ({"sections": (3, 0)}, "--sections must be more than 0"),
        ({"sections": (3,), "sigmas": (2.0,)}, "--sigmas and --sections each choose the steps"),
        ({"sigmas": (5.0, 1.0), "steps": 3}, "--sigmas gives 2 steps, not --steps 3"),
        ({"timesteps": (5, 1), "spacing": "karras"}, "--spacing karras has no meaning with"),
        ({"eta": 1.5}, "--eta must be between 0"),
        ({"eta": -0.1}, "--eta must be between 0"),
        ({"guidance": -1.0}, "--guidance must be 0 or more"),
        ({"guidance": math.nan}, "--guidance must be 0 or more"),
        ({"guidance": 2.0, "guidance_rescale": 2.0}, "--guidance-rescale must be"),
        ({"guidance": 2.0, "guidance_interval": (5.0, 1.0)}, "LOW < HIGH"),
        ({"sampler": "heun", "s_churn": -1.0}, "--s-churn must be"),
        ({"sampler": "heun", "s_churn": 1.0, "s_min": 5.0, "s_max": 1.0}, "--s-min 5"),
        ({"sampler": "heun", "s_churn": 1.0, "s_noise": 0.0}, "--s-noise must be"),
        ({"sampler": "ddpm", "eta": 0.0}, "--sampler ddpm is --eta 1"),
        ({"sampler": "heun", "eta": 0.5}, "--sampler heun takes no --eta"),
        ({"variance": "fixed-large"}, "none at --eta 0"),
        ({"sampler": "dpmpp-2m", "eta": 0.5}, "--sampler dpmpp-2m takes no --eta"),
        ({"sampler": "dpmpp-2m-sde", "variance": "learned"}, "takes no --variance"),
        ({"sampler": "ddpm", "unclipped_eps": True}, "takes no --unclipped-eps"),
        ({"threshold": "none", "unclipped_eps": True}, "no meaning with --threshold none"),
        ({"s_churn": 1.0}, "--sampler ddim takes no --s-churn"),
        ({"sampler": "heun", "s_max": 50.0}, "without --s-churn"),
        ({"guidance_interval": (0.3, 5.0)}, "no meaning at --guidance 1"),
        ({"guidance_rescale": 0.7}, "no meaning at --guidance 1"),
        ({"guidance": 0.0, "guidance_rescale": 0.7}, "no meaning at --guidance 0"),
        ({"guidance": 0.0, "guidance_interval": (0.3, 5.0)}, "no meaning at --guidance 0"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**wrong)


def test_the_settings_are_json() -> None:
    chosen = Sampling(guidance=2, guidance_interval=(0.3, math.inf))
    document = chosen.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["guidance_interval"] == [0.3, None]
    assert document["s_max"] is None
