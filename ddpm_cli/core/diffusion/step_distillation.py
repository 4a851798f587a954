"""Step distillation: a student says at once where several steps of its teacher lead to.

f(x, t) is the image in which a solver of the teacher's probability flow ODE ends, from x at t
(Luhman & Luhman 2021). It is a consistency function (consistency.py) that is learned at few noise
levels alone, those at which it is sampled: from the teacher itself, and not from its own outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import ObjectiveConfig
from ddpm_cli.core.diffusion.consistency import distance, guided_x0, scalars_at, weight_of, x0_of
from ddpm_cli.core.diffusion.denoiser import Denoiser, expand_to_image
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.runtime import devices

_RHO = 7  # Karras et al. (2022), equation 5
_LAST = 0.02  # the level from which the last step leads to 0, which changes x by little


class StepScalars(NamedTuple):
    """What the loss needs of the noise levels t of B images, and of the teacher's K steps from t.

    As losses.LossScalars, they are computed on the CPU in float64, and moved together.
    """

    sigma: Tensor  # (B,), t
    weight: Tensor  # (B,)
    student: Tensor  # (B, 4): c_in, c_noise, c_skip, c_out at t
    teacher: Tensor  # (B, K, 6): those of the teacher at each step, and its `keep` and `gain`

    @classmethod
    def at(
        cls, denoiser: Denoiser, t: Tensor, objective: ObjectiveConfig, teacher: Denoiser
    ) -> StepScalars:
        """The scalars at noise levels t, float64 (B,) on the CPU."""
        assert objective.consistency is not None
        smallest = float(teacher.schedule.sigma[0])
        levels = steps_to_zero(t, objective.consistency.teacher_steps, smallest)
        steps = [
            torch.stack((*scalars_at(teacher, level, level), *_coefficients(levels, i)), 1)
            for i, level in enumerate(levels[:-1])
        ]
        student = torch.stack(scalars_at(denoiser, t, t), 1)
        return cls(t, weight_of(denoiser, t, objective), student, torch.stack(steps, 1))

    def to(self, device: torch.device, dtype: torch.dtype) -> StepScalars:
        """Move all in one copy, which does not wait for the device."""
        parts = [field.reshape(len(field), -1).to(dtype) for field in self]
        together = devices.to_device(torch.cat(parts, 1), device)
        moved = together.split([part.shape[1] for part in parts], 1)  # type: ignore[no-untyped-call]
        fields = zip(moved, self, strict=True)
        return StepScalars(*(part.reshape(field.shape).contiguous() for part, field in fields))

    def select(self, rows: slice) -> StepScalars:
        """Those of some of the images."""
        return StepScalars(*(field[rows] for field in self))


def steps_to_zero(t: Tensor, steps: int, smallest: float) -> Tensor:
    """The noise levels of so many steps from levels t (B,) to 0: float64 (steps + 1, B).

    Evenly apart in sigma^(1/7) (Karras et al. 2022, equation 5) down to 0.02, or to the schedule's
    `smallest` level where that is above it, below which D is unknown; and then 0. From a t that is
    less than twice as large they go down to its half.
    """
    last = torch.minimum(t / 2, torch.full_like(t, max(_LAST, smallest))) if steps > 1 else t
    part = torch.linspace(0, 1, steps, dtype=t.dtype)[:, None]
    levels = (t ** (1 / _RHO) + part * (last ** (1 / _RHO) - t ** (1 / _RHO))) ** _RHO
    return torch.cat((levels, torch.zeros_like(t)[None]))


def _coefficients(levels: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """`keep` and `gain` (B,) of step i: x <- X + keep (x - X), X = x0 + gain (x0 - that before).

    DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): with h = ln(s / s') of a step from s to s', gain
    is half of h over that of the step before; the first step and that to 0 are of first order.
    """
    keep = levels[i + 1] / levels[i]
    if not 0 < i < len(levels) - 2:
        return keep, torch.zeros_like(keep)
    return keep, keep.log() / (levels[i] / levels[i - 1]).log() / 2


def end_of_steps(
    teacher: Denoiser, x: Tensor, at: StepScalars, condition: Condition, *, plain: bool
) -> Tensor:
    """The image in which the teacher's steps end from x, both (B, C, H, W).

    Its x0 is clipped at every step, as where it is sampled.
    """
    before = None
    for step in at.teacher.unbind(1):
        *scalars, keep, gain = step.unbind(1)
        x0 = guided_x0(teacher, x, scalars, condition, plain=plain).clamp(-1, 1)
        ahead = x0 if before is None else x0 + expand_to_image(gain, x) * (x0 - before)
        x = ahead + expand_to_image(keep, x) * (x - ahead)
        before = x0
    return x


def loss(
    denoiser: Denoiser,
    noised: Noised,
    condition: Condition,
    objective: ObjectiveConfig,
    at: StepScalars,
    teacher: Denoiser,
) -> Tensor:
    """The distance of f from where the teacher's steps end, of each image: (B,)."""
    x0, noise, _ = noised
    config = objective.consistency
    assert config is not None
    x = x0 + expand_to_image(at.sigma, x0) * noise
    with torch.no_grad():
        target = end_of_steps(teacher, x, at, condition, plain=config.plain_teacher)
    found = x0_of(denoiser, x, condition, at.student.unbind(1))
    return at.weight * distance(config, found, target)
