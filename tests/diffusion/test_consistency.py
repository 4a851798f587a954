"""Consistency tuning and its sampler, against the closed form of Gaussian images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.consistency import ConsistencyConfig, parse_guidance
from ddpm_cli.core.config.diffusion import DiffusionConfig, ObjectiveConfig
from ddpm_cli.core.diffusion import consistency, schedules
from ddpm_cli.core.diffusion.consistency import ConsistencyScalars
from ddpm_cli.core.diffusion.denoiser import PARAMETERISATIONS, Denoiser, Scalings
from ddpm_cli.core.diffusion.noising import Noised, bounds, training_sigmas
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.sampling import evaluations, grid, sample
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError
from tests.support.gaussian_images import EDM, MEAN, STD, Exact

COSINE = schedules.from_config(DiffusionConfig(schedule="cosine"))
PLAIN = ObjectiveConfig(loss="consistency", consistency=ConsistencyConfig())


class Consistent(Exact):
    """f with the scalings of EDM, so that at sigma = 0 it is x."""

    def scalings(self, sigma: Tensor) -> Scalings:
        """As a student's."""
        return PARAMETERISATIONS["edm"](sigma)

    def _value(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        c_skip, c_out, c_in = (
            scalar[:, None, None, None] for scalar in self.scalings((4 * c_noise.double()).exp())
        )
        state = x / c_in.to(x.dtype)
        return (super()._value(state, c_noise, condition) - c_skip * state) / c_out


def noised(count: int, t: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64) -> Noised:
    """Gaussian images, their noise and levels."""
    random = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, count, 1, 4, 4, generator=random, dtype=dtype)
    return Noised(MEAN + STD * x0, noise, t)


def at(
    denoiser: Denoiser,
    t: Tensor,
    stage: int,
    objective: ObjectiveConfig = PLAIN,
    teacher: Denoiser | None = None,
) -> ConsistencyScalars:
    """The scalars of the loss in float64."""
    scalars = ConsistencyScalars.at(denoiser, t, objective, stage, teacher)
    return scalars.to(torch.device("cpu"), torch.float64)


def levels(count: int = 64) -> Tensor:
    """Noise levels from 0.01 to 50."""
    return torch.logspace(-2, math.log10(50), count, dtype=torch.float64)


@pytest.mark.parametrize("stage", range(8))
def test_lower_levels_follow_the_paper(stage: int) -> None:
    """r / t = 1 - n(t) / q^(stage + 1), n(t) = 1 + k sigmoid(-b t), and 0 where that is less."""
    t, config = levels(), ConsistencyConfig(q=2.0, k=8.0, b=1.0)
    r = consistency.earlier(config, t, stage)
    expected = [
        max(0.0, one * (1 - (1 + 8 / (1 + math.exp(one))) / 2 ** (stage + 1))) for one in t.tolist()
    ]
    assert r.tolist() == pytest.approx(expected, rel=1e-12)
    assert (r < t).all()


def test_stages_are_of_images_seen() -> None:
    """So that a resumed training is in the stage in which it would have been."""
    config = ConsistencyConfig(stages=3, stage_images=100)
    assert [config.stage(n) for n in (0, 99, 100, 199, 200, 10_000)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", [name for name in PARAMETERISATIONS if name != "x0"])
def test_a_student_is_the_identity_without_noise(name: str) -> None:
    """D(x, 0) = x for every parameterisation that a student may have."""
    c_skip, c_out, _ = PARAMETERISATIONS[name](torch.zeros(1, dtype=torch.float64))
    assert (float(c_skip), float(c_out)) == (1, 0)


def test_a_student_begins_as_its_x0_teacher() -> None:
    """With the same F, D differs by c_skip (x - F): by a root mean square of c_skip sigma.

    As x - F is sigma n, if F is the image: 0.005 at most, at sigma = 0.01.
    """
    sigma = torch.logspace(-4, 2, 200, dtype=torch.float64)
    c_skip, c_out, c_in = PARAMETERISATIONS["x0-skip"](sigma)
    assert torch.equal(c_in, PARAMETERISATIONS["x0"](sigma).c_in)
    torch.testing.assert_close(c_skip + c_out, torch.ones_like(sigma))
    assert float((c_skip * sigma).max()) <= 0.005 * (1 + 1e-9) < 1 / 127.5


@pytest.mark.parametrize("stage", [0, 3, 7])
def test_the_exact_function_has_no_loss_along_the_ode(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an exact step of the teacher in place of Euler's, to as much as float32 resolves.

    c_noise is float32, of which sigma is exp(4 c_noise): to 1e-6 of it, and so f to 1e-6.
    """
    f, t = Consistent(0.5), levels()
    scalars = at(f, t, stage)

    def exact_step(
        teacher: Denoiser, x: Tensor, at: ConsistencyScalars, condition: Condition, *, plain: bool
    ) -> Tensor:
        ratio = ((STD**2 + at.r**2) / (STD**2 + at.sigma**2)).sqrt()
        return MEAN + ratio[:, None, None, None] * (x - MEAN)

    data = noised(64, t)
    assert float(consistency.loss(f, data, UNCONDITIONAL, PLAIN, scalars).max()) > 1e-3
    monkeypatch.setattr(consistency, "guided_step", exact_step)
    losses = consistency.loss(f, data, UNCONDITIONAL, PLAIN, scalars, teacher=Exact(1.0))
    assert float(losses.max()) < 5e-6


def test_a_guided_step_follows_the_teachers_ode() -> None:
    """Euler's error is of second order in t - r: halved steps have a quarter of it."""
    teacher, t = Exact(1.0), torch.full((8,), 0.7, dtype=torch.float64)
    x, condition = (
        noised(8, t).x,
        Condition(torch.zeros(8, dtype=torch.int64), guidance=torch.ones(8)),
    )
    errors = []
    for gap in (0.1, 0.05, 0.025):
        r = (1 - gap) * 0.7
        scalars = at(teacher, t, 0, teacher=teacher)._replace(r=torch.full_like(t, r))
        found = consistency.guided_step(teacher, x, scalars, condition)
        exact = MEAN + math.sqrt((STD**2 + r**2) / (STD**2 + 0.7**2)) * (x - MEAN)
        errors.append(float((found - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


class Classes(Denoiser):
    """D of two classes and the null class: constants, so that guidance is known exactly."""

    def __init__(self) -> None:
        super().__init__(self._value, EDM, "x0")
        self.guidance: Tensor | None = None

    def _value(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        assert condition.labels is not None
        self.guidance = condition.guidance
        return torch.zeros_like(x) + (condition.labels + 1).to(x.dtype)[:, None, None, None]


def test_the_teacher_is_guided_by_each_images_weight() -> None:
    """To r = 0 the step ends at D_null + w (D - D_null); the teacher itself is not given w."""
    w, x = torch.tensor([0.0, 1.0, 2.5, 4.0]), torch.randn(4, 1, 2, 2, dtype=torch.float64)
    teacher = Classes()
    condition = Condition(torch.tensor([0, 1, 1, -1]), guidance=w)
    t = torch.ones(4, dtype=torch.float64)
    scalars = at(teacher, t, 0, teacher=teacher)
    assert not scalars.r.any()
    found = consistency.guided_step(teacher, x, scalars, condition)
    assert found[:, 0, 0, 0].tolist() == [0.0, 2.0, 5.0, 0.0]
    assert teacher.guidance is None


def test_a_teacher_without_guidance_is_called_once_for_the_same_step() -> None:
    """With w = 1 the null condition has no part in D_null + w (D - D_null)."""
    x, t = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
    teacher, sizes = Classes(), list[int]()

    def counted(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        sizes.append(len(x))
        return teacher._value(x, c_noise, condition)

    teacher.network = counted
    condition = Condition(torch.tensor([0, 1, -1]), guidance=torch.ones(3))
    scalars = at(teacher, t, 3, teacher=teacher)
    both = consistency.guided_step(teacher, x, scalars, condition)
    alone = consistency.guided_step(teacher, x, scalars, condition, plain=True)
    assert torch.equal(alone, both) and sizes == [6, 3]
    assert ConsistencyConfig(guidance=(1.0, 1.0)).plain_teacher
    assert not ConsistencyConfig(guidance=(1.0, 2.0)).plain_teacher


class Recorder(torch.nn.Module):
    """A network with dropout that keeps its inputs and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.masks: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.requires: list[bool] = []

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        """The input, a half of it dropped."""
        mask = torch.nn.functional.dropout(torch.ones_like(x), 0.5)
        self.masks.append(mask)
        self.inputs.append(x)
        self.requires.append(torch.is_grad_enabled())
        return self.weight * x * mask


def loss_of(network: Recorder, stage: int, **options: bool) -> Tensor:
    """The loss of a network on some images."""
    denoiser, t = Denoiser(network, EDM, "edm"), levels(16)
    scalars = at(denoiser, t, stage).to(torch.device("cpu"), torch.float32)
    data = noised(16, t, dtype=torch.float32)
    return consistency.loss(denoiser, data, UNCONDITIONAL, PLAIN, scalars, **options)


def test_both_passes_share_masks_and_noise() -> None:
    """And what is drawn afterwards is what one pass would have left to draw."""
    network = Recorder()
    torch.manual_seed(0)
    loss_of(network, 6, dropout=True)
    after = torch.rand(4)
    target, found = network.masks
    assert torch.equal(target, found)
    torch.manual_seed(0)
    torch.nn.functional.dropout(torch.ones_like(found), 0.5)
    assert torch.equal(torch.rand(4), after)


def test_the_target_has_no_gradient() -> None:
    """The gradient is that of a constant target: of the second pass alone."""
    network = Recorder()
    torch.manual_seed(0)
    losses = loss_of(network, 6, dropout=True)
    (gradient,) = torch.autograd.grad(losses.sum(), network.weight)
    assert network.requires == [False, True]

    denoiser, t = Denoiser(network, EDM, "edm"), levels(16)
    scalars = at(denoiser, t, 6).to(torch.device("cpu"), torch.float32)
    data = noised(16, t, dtype=torch.float32)

    def f(weight: Tensor, x: Tensor, mask: Tensor, part: slice) -> Tensor:
        c_in, _, c_skip, c_out = (c[:, None, None, None] for c in scalars[part])
        return c_skip * x + c_out * weight * (c_in * x) * mask

    weight = torch.tensor(0.5, requires_grad=True)
    over = (slice(None), None, None, None)
    x = data.x0 + scalars.sigma[over] * data.noise
    below = data.x0 + scalars.r[over] * data.noise
    mask = network.masks[1]
    target = f(weight, below, mask, slice(7, 11)).detach()
    expected = (f(weight, x, mask, slice(2, 6)) - target).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), weight)[0])


def test_where_r_is_0_the_target_is_the_image() -> None:
    """In the first stage, at small t."""
    network = Recorder()
    objective = replace(PLAIN, consistency=ConsistencyConfig(distance="l2"))
    denoiser, t = Denoiser(network, EDM, "edm"), torch.full((4,), 0.3, dtype=torch.float64)
    scalars = at(denoiser, t, 0, objective).to(torch.device("cpu"), torch.float32)
    assert not scalars.r.any()
    data = noised(4, t, dtype=torch.float32)
    losses = consistency.loss(denoiser, data, UNCONDITIONAL, objective, scalars)
    network.masks.clear()
    found = consistency.x0_of(denoiser, data.x, UNCONDITIONAL, scalars[2:6])
    assert found.isfinite().all()
    assert losses.isfinite().all()


@pytest.mark.parametrize("c", [0.0, 0.03])
def test_pseudo_huber_has_no_gradient_at_no_difference(c: float) -> None:
    """With c = 0 the root's would be infinite, and NaN after all."""
    squares = torch.tensor([0.0, 0.16], requires_grad=True)
    values = consistency._pseudo_huber(squares, c)
    assert values.tolist() == pytest.approx([0, math.sqrt(0.16 + c**2) - c], abs=1e-7)
    (gradient,) = torch.autograd.grad(values.sum(), squares)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("schedule", [EDM, COSINE])
def test_training_levels_are_within_the_schedules(schedule: schedules.Schedule) -> None:
    """Normal in ln t, but none below the least level or above the largest of solvers."""
    objective = replace(PLAIN, noise_levels="log-normal", noise_mean=-1.1, noise_std=2.0)
    u = torch.linspace(1e-5, 1 - 1e-5, 1001, dtype=torch.float64)
    t = training_sigmas(schedule, objective, u)
    low, high = bounds(schedule)
    assert (float(t.min()), float(t.max())) == (low, high)
    assert high == pytest.approx(80)
    assert float(t[500].log()) == pytest.approx(-1.1)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_samples_of_the_exact_function_are_the_images(steps: int) -> None:
    """In any number of steps: mean and deviation of 40,000 pixels, whose errors are below 1 %.

    The prior's mean is 0 rather than the images', which f at 80 moves by 0.3 / 80 of it.
    """
    f, random = Exact(0.5), torch.Generator().manual_seed(1)
    settings = Sampling(sampler="consistency", steps=steps, threshold="none")

    def noise() -> Tensor:
        return torch.randn(40_000, 1, 1, 1, generator=random, dtype=torch.float64)

    x = final_state(sample(f, noise, UNCONDITIONAL, settings))
    assert f.calls == steps == evaluations(EDM, settings)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.008)
    assert float(x.std()) == pytest.approx(STD, rel=0.015)


def test_levels_of_sampling_can_be_chosen() -> None:
    """By --sigmas; by default the first is 80 and the last of steps ends at 0."""
    chosen = Sampling(sampler="consistency", sigmas=(40.0, 1.5))
    assert grid(EDM, chosen).tolist() == [40.0, 1.5, 0.0]
    for steps in range(1, 6):
        found = grid(COSINE, Sampling(sampler="consistency", steps=steps)).tolist()
        assert len(found) == steps + 1
        assert found == sorted(found, reverse=True)
        assert (found[0], found[-1]) == (80.0, 0.0)
    assert Sampling(sampler="consistency").with_default_steps(1000).steps == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spacing": "karras"}, "--sigmas"),
        ({"eta": 1.0}, "takes no --eta"),
        ({"s_churn": 1.0}, "takes no --s-churn"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, object], words: str) -> None:
    """As of any other sampler."""
    with pytest.raises(UsageError, match=words):
        Sampling(sampler="consistency", **settings)  # type: ignore[arg-type]


def test_learned_guidance_is_told_in_one_call() -> None:
    """The network is told the guidance, and is not evaluated twice."""
    settings = Sampling(sampler="consistency", steps=1, guidance=3.0, guidance_learned=True)
    denoiser = Classes()
    condition = Condition(torch.tensor([0, 1]))
    final_state(sample(denoiser, lambda: torch.randn(2, 1, 2, 2), condition, settings))
    assert denoiser.guidance is not None
    assert denoiser.guidance.tolist() == [3.0, 3.0]
    assert evaluations(EDM, settings) == 1


def test_a_range_of_guidance_is_read() -> None:
    """One number is a range of one."""
    assert parse_guidance("2") == (2.0, 2.0)
    assert parse_guidance(2) == parse_guidance([2.0]) == (2.0, 2.0)
    ranges: tuple[Any, ...] = ("1,4", [1, 4], (1.0, 4.0), np.array([1, 4]))
    assert {parse_guidance(both) for both in ranges} == {(1.0, 4.0)}
    wrongs: tuple[Any, ...] = ("", "14,", "1,2,3", "high", (), (1, 2, 3), [None], {})
    for wrong in wrongs:
        with pytest.raises(UsageError, match="range"):
            parse_guidance(wrong)
    for none in ((4.0, 1.0), (2.0,), (1.0, 2.0, 3.0), (-1.0, 1.0)):
        with pytest.raises(UsageError, match="LOW <= HIGH"):
            ConsistencyConfig(guidance=none)
