"""Step distillation, against the closed form of Gaussian images and the sampler's own steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.consistency import ConsistencyConfig
from ddpm_cli.core.config.diffusion import DiffusionConfig, ObjectiveConfig
from ddpm_cli.core.diffusion import samplers, schedules, step_distillation
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised, training_sigmas
from ddpm_cli.core.diffusion.sampling import grid
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.diffusion.step_distillation import StepScalars
from tests.support.gaussian_images import EDM, MEAN, STD, Exact

TEACHER, STUDENT = Exact(1.0), Exact(0.5)
COUNT = 16


def objective(steps: int, **tuning: object) -> ObjectiveConfig:
    """That of a student of two calls."""
    consistency = ConsistencyConfig(calls=2, teacher_steps=steps, **tuning)  # type: ignore[arg-type]
    return ObjectiveConfig(loss="consistency", consistency=consistency)


def scalars(t: Tensor, steps: int) -> StepScalars:
    """In float64."""
    at = StepScalars.at(STUDENT, t, objective(steps), TEACHER)
    return at.to(torch.device("cpu"), torch.float64)


def levels() -> Tensor:
    """The two noise levels of the calls, in turn."""
    return torch.tensor([80.0, 1.5], dtype=torch.float64).repeat(COUNT // 2)


def noised(t: Tensor) -> Noised:
    """Images within two deviations of their mean, so that none is clipped."""
    random = torch.Generator().manual_seed(0)
    x0, noise = 2 * torch.rand(2, COUNT, 1, 4, 4, generator=random, dtype=torch.float64) - 1
    return Noised(MEAN + 2 * STD * x0, noise, t)


def end_of(t: Tensor, x: Tensor, steps: int) -> Tensor:
    """Where the teacher's steps end."""
    return step_distillation.end_of_steps(TEACHER, x, scalars(t, steps), UNCONDITIONAL, plain=True)


def test_the_teachers_steps_end_where_its_ode_does() -> None:
    """With an error of second order in the length of a step, but for the last, which is short.

    That from 0.02 to 0 leaves s^2 / (s^2 + 0.02^2) in place of its root, 0.2 % of x - m.
    """
    t = levels()
    x = noised(t).x
    exact = MEAN + STD / (STD**2 + t**2).sqrt()[:, None, None, None] * (x - MEAN)
    few, more, most = (float((end_of(t, x, n) - exact).abs().max()) for n in (17, 33, 65))
    left = 0.0022 * 2 * STD * 2
    assert (few - left) / 5 < more < few / 3
    assert most < left


def test_one_level_repeats_dpm_solver() -> None:
    """Of each image at its own level, the same steps as of a batch at one."""
    t = levels()
    x, at = noised(t).x, scalars(t, 8)
    together = step_distillation.end_of_steps(TEACHER, x, at, UNCONDITIONAL, plain=True)
    for i in (0, 1):
        sigmas = step_distillation.steps_to_zero(t[i : i + 1], 8, 0.002)[:, 0]
        steps = samplers.dpmpp(TEACHER, x[i::2], sigmas, order=2, noise=lambda: torch.empty(0))
        torch.testing.assert_close(
            together[i::2], samplers.final_state(steps), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_go_down_to_0(steps: int) -> None:
    """From every level, also one below that from which the last step usually leads to 0."""
    t = torch.tensor([80.0, 1.5, 0.01], dtype=torch.float64)
    found = step_distillation.steps_to_zero(t, steps, 0.002)
    assert found.shape == (steps + 1, 3)
    torch.testing.assert_close(found[0], t)
    assert (found.diff(dim=0) < 0).all() and not found[-1].any()


def test_a_teacher_is_asked_at_levels_of_its_schedule_alone() -> None:
    """Of one of few timesteps, which begins above the level of the last step otherwise."""
    schedule = schedules.from_config(DiffusionConfig("cosine", 50))
    smallest = float(schedule.sigma[0])
    assert smallest > 0.02
    t = torch.tensor([80.0, 1.5], dtype=torch.float64)
    keep = StepScalars.at(STUDENT, t, objective(8), Exact(1.0, schedule)).teacher[:, :, 4]
    assert (t * keep[:, :-1].prod(1)).tolist() == pytest.approx([smallest] * 2)


def test_the_consistency_function_has_next_to_no_loss() -> None:
    """Against many steps of the teacher; the denoised mean, which the teacher has, has much."""
    t, tuning = levels(), objective(65, distance="l2")
    losses = [
        step_distillation.loss(student, noised(t), UNCONDITIONAL, tuning, scalars(t, 65), TEACHER)
        for student in (STUDENT, TEACHER)
    ]
    assert float(losses[0].max()) < 1e-6 < 1e-3 < float(losses[1].min())


def test_each_images_end_is_guided() -> None:
    """D_null + w (D - D_null) of constants, where all steps end."""
    w, t = torch.tensor([0.0, 1.0, 2.0]), torch.full((3,), 80.0, dtype=torch.float64)

    def constant(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
        assert condition.labels is not None and condition.guidance is None
        return torch.zeros_like(x) + 0.25 * (condition.labels + 1).to(x.dtype)[:, None, None, None]

    teacher = Denoiser(constant, EDM, "x0")
    at = StepScalars.at(STUDENT, t, objective(3), teacher).to(t.device, t.dtype)
    condition = Condition(torch.tensor([0, 1, 1]), guidance=w)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    end = step_distillation.end_of_steps(teacher, x, at, condition, plain=False)
    assert end[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_the_levels_learned_are_those_sampled(calls: int) -> None:
    """Each in as many images as the others."""
    schedule = schedules.from_config(DiffusionConfig(schedule="cosine"))
    tuning = ObjectiveConfig(loss="consistency", consistency=ConsistencyConfig(calls=calls))
    u = (torch.arange(8 * calls, dtype=torch.float64) + 0.5) / (8 * calls)
    sigmas = training_sigmas(schedule, tuning, u)
    assert (sigmas.diff() >= 0).all()  # as of all other distributions, whose quarters are logged
    found, counts = sigmas.unique(return_counts=True)
    visited = grid(schedule, Sampling(sampler="consistency", steps=calls))[:-1]
    assert found.flip(0).tolist() == visited.tolist()
    assert counts.tolist() == [8] * calls


def test_some_images_have_their_own_scalars() -> None:
    """A microbatch is computed as within the batch."""
    at = scalars(levels(), 3)
    part = at.select(slice(3, 5))
    assert [field.shape for field in part] == [(2,), (2,), (2, 4), (2, 3, 6)]
    assert torch.equal(part.teacher, at.teacher[3:5])
