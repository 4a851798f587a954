"""Our samplers beside diffusers' schedulers: the same network, noise and steps.

Differences of convention are noted where they matter. diffusers' betas are float32, and its
`linear` is ours at T = 1000. It works in the state x_t of DDPM or, where its scheduler has sigmas,
in ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.diffusion import grids, samplers, schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser, Prediction
from ddpm_cli.core.diffusion.thresholding import thresholded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers' own imports
    pytest.importorskip("diffusers")
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
    )

STEPS = 20
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
LINEAR = schedules.from_config(DiffusionConfig("linear", 1000))
TRAILING = grids.sigmas(LINEAR, STEPS, "trailing")
# float32 states; at the top sigma is 157, so x0 keeps five digits of its seven.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def network(x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
    """A stand-in for eps(x_t, t): smooth in both, and near enough to a denoiser's."""
    t = c_noise.float().reshape(-1, 1, 1, 1) / 1000
    return 0.9 * x * t.sqrt() + 0.3 * torch.sin(3 * x + 5 * t)


OURS = Denoiser(network, LINEAR, "eps")


def clipped(x: Tensor, sigma: Tensor) -> Prediction:
    return Prediction(OURS(x, sigma).clamp(-1, 1))


@pytest.fixture
def draws() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(STEPS + 1)]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of diffusers, not ours
        yield


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_spacings_are_those_of_ddim_and_ddpm(kind: Any, spacing: str) -> None:
    scheduler = kind(**BETAS, timestep_spacing=spacing)
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == grids.timesteps(1000, STEPS, spacing).tolist()


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_multistep_solvers_of_diffusers_leave_out_a_last_timestep_of_0(spacing: str) -> None:
    """They take one more timestep than steps, and not the last; docs/samplers.md says so."""
    scheduler = DPMSolverMultistepScheduler(**BETAS, timestep_spacing=spacing)
    scheduler.set_timesteps(STEPS)
    longer = grids.timesteps(1000, STEPS + 1, spacing).tolist()
    assert scheduler.timesteps.tolist() == longer[:-1]


def test_exponential_and_beta_are_diffusers_between_the_same_bounds() -> None:
    """Its beta spaces sigma itself, ours the timesteps: the quantiles are the same."""
    converter = EulerDiscreteScheduler(**BETAS)
    bounds = torch.tensor([80.0, LINEAR.sigma[0]])
    theirs = converter._convert_to_exponential(bounds, STEPS)
    torch.testing.assert_close(
        grids.sigmas(LINEAR, STEPS, "exponential")[:-1], torch.as_tensor(theirs).double(), **CLOSE
    )
    quantiles = converter._convert_to_beta(torch.tensor([999.0, 0.0]), STEPS)
    ours = LINEAR.timestep(grids.sigmas(LINEAR, STEPS, "beta")[:-1])
    torch.testing.assert_close(ours, torch.as_tensor(quantiles).float(), rtol=1e-4, atol=1e-3)


def last(steps: Iterator[samplers.SamplerStep]) -> Tensor:
    return list(steps)[-1].x


def theirs_vp(scheduler: Any, x: Tensor, **arguments: Any) -> Tensor:
    """A scheduler in DDPM's state, with the given noise."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None]), t, x, **arguments).prev_sample
    return x


def theirs_ve(scheduler: Any, x: Tensor) -> Tensor:
    """A scheduler in our state x0 + sigma n."""
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(scaled, t[None]), t, x).prev_sample
    return x


def start(x_t: Tensor) -> Tensor:
    """DDPM's x_T as our state."""
    return x_t * LINEAR.prior_std(float(TRAILING[0]))


@pytest.mark.parametrize("unclipped", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta: float, unclipped: bool, draws: list[Tensor]) -> None:
    """The noise's direction is that of the clipped x0, or the network's (diffusers' default)."""
    scheduler = DDIMScheduler(
        **BETAS, timestep_spacing="trailing", clip_sample=True, set_alpha_to_one=True
    )
    scheduler.set_timesteps(STEPS)
    x, queue = draws[-1], iter(draws)
    for t in scheduler.timesteps:
        noise = next(queue) if t > 1000 // STEPS else torch.zeros_like(x)  # we end without
        x = scheduler.step(
            network(x, t[None]),
            t,
            x,
            eta=eta,
            use_clipped_model_output=not unclipped,
            variance_noise=noise,
        ).prev_sample
    queue = iter(draws)
    steps = samplers.ddim(
        thresholded(OURS.predict, "static"),
        start(draws[-1]),
        TRAILING,
        eta=eta,
        noise=lambda: next(queue),
        unclipped_eps=unclipped,
    )
    torch.testing.assert_close(last(steps), x, **CLOSE)


def test_ddim_that_ends_at_the_smallest_level(draws: list[Tensor]) -> None:
    """Their state at timestep 0 is sqrt(abar) of ours."""
    scheduler = DDIMScheduler(
        **BETAS, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False
    )
    scheduler.set_timesteps(STEPS)
    smallest = float(LINEAR.sigma[0])
    levels = grids.sigmas(LINEAR, STEPS, "trailing", final=smallest)
    steps = samplers.ddim(OURS.predict, start(draws[-1]), levels, eta=0, noise=lambda: draws[0])
    ours = last(steps) / LINEAR.prior_std(smallest)
    torch.testing.assert_close(ours, theirs_vp(scheduler, draws[-1]), **CLOSE)


@pytest.mark.parametrize(
    ("variance", "name"), [("fixed-small", "fixed_small"), ("fixed-large", "fixed_large")]
)
def test_ddpm(
    variance: str, name: str, draws: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ancestral steps over every 50th timestep, by the posterior's mean and either variance."""
    scheduler = DDPMScheduler(
        **BETAS, timestep_spacing="trailing", clip_sample=True, variance_type=name
    )
    scheduler.set_timesteps(STEPS)
    queue = iter(draws)
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: next(queue))
    # It adds noise in its last step too, unless that is timestep 0: this one is 49, so stop there.
    x, ours = draws[-1], None
    for t in scheduler.timesteps[:-1]:
        x = scheduler.step(network(x, t[None]), t, x).prev_sample
    again = iter(draws)
    steps = list(
        samplers.ddim(
            clipped, start(draws[-1]), TRAILING, eta=1, noise=lambda: next(again), variance=variance
        )
    )
    ours = steps[-2].x / LINEAR.prior_std(steps[-2].sigma_next)
    torch.testing.assert_close(ours, x, **CLOSE)


def test_learned_variance(draws: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Improved DDPM's interpolation; their network outputs 2 fraction - 1."""
    scheduler = DDPMScheduler(
        **BETAS, timestep_spacing="trailing", clip_sample=True, variance_type="learned_range"
    )
    scheduler.set_timesteps(STEPS)
    fraction = torch.sigmoid(draws[-2])
    queue = iter(draws)
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: next(queue))
    x = draws[-1]
    for t in scheduler.timesteps[:-1]:
        output = torch.cat([network(x, t[None]), 2 * fraction - 1], dim=1)
        x = scheduler.step(output, t, x).prev_sample
    again = iter(draws)
    steps = list(
        samplers.ddim(
            lambda x, s: Prediction(clipped(x, s).x0, fraction),
            start(draws[-1]),
            TRAILING,
            eta=1,
            noise=lambda: next(again),
            variance="learned",
        )
    )
    ours = steps[-2].x / LINEAR.prior_std(steps[-2].sigma_next)
    torch.testing.assert_close(ours, x, **CLOSE)


SOLVERS: dict[
    str, tuple[Any, dict[str, Any], Callable[[Tensor, Tensor], Iterator[samplers.SamplerStep]]]
]
SOLVERS = {
    "euler": (
        EulerDiscreteScheduler,
        {},
        lambda x, s: samplers.ddim(OURS.predict, x, s, eta=0, noise=lambda: x),
    ),
    "heun": (
        HeunDiscreteScheduler,
        {},
        lambda x, s: samplers.heun(OURS, x, s, noise=lambda: x),
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_ode_solvers(name: str, draws: list[Tensor]) -> None:
    """Neither clips, and their sigmas are ours."""
    kind, extra, ours = SOLVERS[name]
    scheduler = kind(**BETAS, timestep_spacing="trailing", **extra)
    scheduler.set_timesteps(STEPS)
    x = start(draws[-1])
    torch.testing.assert_close(last(ours(x, TRAILING)), theirs_ve(scheduler, x), **CLOSE)


def dpm_solver(order: int, **settings: Any) -> Any:
    """Their multistep solver; its state is DDPM's."""
    return DPMSolverMultistepScheduler(
        **BETAS,
        timestep_spacing="trailing",
        solver_order=order,
        solver_type="midpoint",
        **{"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"} | settings,
    )


@pytest.mark.parametrize("count", [8, 20])  # with less than 15 steps the last are of lower order
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver(order: int, count: int, draws: list[Tensor]) -> None:
    scheduler = dpm_solver(order)
    scheduler.set_timesteps(count)
    levels = grids.sigmas(LINEAR, count, "trailing")
    steps = samplers.dpmpp(OURS, start(draws[-1]), levels, order=order, noise=lambda: draws[0])
    torch.testing.assert_close(last(steps), theirs_vp(scheduler, draws[-1]), **CLOSE)


def test_dpm_solver_of_the_sde(draws: list[Tensor]) -> None:
    scheduler = dpm_solver(2, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(STEPS)
    x = draws[-1]
    for t, noise in zip(scheduler.timesteps, draws, strict=False):
        x = scheduler.step(network(x, t[None]), t, x, variance_noise=noise).prev_sample
    queue = iter(draws)
    steps = samplers.dpmpp(
        OURS, start(draws[-1]), TRAILING, order=2, eta=1, noise=lambda: next(queue)
    )
    torch.testing.assert_close(last(steps), x, **CLOSE)


@pytest.mark.parametrize("chosen", [[999, 700, 400, 100, 20], [900, 100]])
def test_dpm_solver_at_given_timesteps(chosen: list[int], draws: list[Tensor]) -> None:
    scheduler = dpm_solver(2)
    scheduler.set_timesteps(timesteps=chosen)
    levels = grids.ending_at(0.0, grids.at_timesteps(LINEAR, chosen))
    x = draws[-1] * LINEAR.prior_std(float(levels[0]))
    steps = samplers.dpmpp(OURS, x, levels, order=2, noise=lambda: x)
    torch.testing.assert_close(last(steps), theirs_vp(scheduler, draws[-1]), **CLOSE)


def test_dpm_solver_that_ends_at_the_smallest_level(draws: list[Tensor]) -> None:
    scheduler = dpm_solver(2, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(STEPS)
    smallest = float(LINEAR.sigma[0])
    levels = grids.sigmas(LINEAR, STEPS, "trailing", final=smallest)
    steps = samplers.dpmpp(OURS, start(draws[-1]), levels, order=2, noise=lambda: draws[0])
    ours = last(steps) / LINEAR.prior_std(smallest)
    torch.testing.assert_close(ours, theirs_vp(scheduler, draws[-1]), **CLOSE)
