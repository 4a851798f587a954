"""Consistency tuning: a denoiser becomes f(x, sigma), the end of the probability flow ODE from x.

f(x, 0) = x, and f has the same value all along a solution of the ODE (Song et al. 2023). Tuning
compares f at a noise level t with f at a lower level r, which nears t stage by stage (Geng et al.
2024, "Consistency Models Made Easy"). f is the denoiser D itself, whose parameterisation has
c_skip = 1 and c_out = 0 at sigma = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.consistency import ConsistencyConfig
from ddpm_cli.core.config.diffusion import ObjectiveConfig
from ddpm_cli.core.diffusion.denoiser import Denoiser, expand_to_image
from ddpm_cli.core.diffusion.losses import WEIGHTINGS
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.runtime import devices


def earlier(config: ConsistencyConfig, t: Tensor, stage: int) -> Tensor:
    """The lower noise levels r of levels t (B,), float64 (Geng et al. 2024, section 3.2)."""
    gap = (1 + config.k * torch.sigmoid(-config.b * t)) / config.q ** (stage + 1)
    return t * (1 - gap).clamp(min=0)


class ConsistencyScalars(NamedTuple):
    """What the loss needs of the noise levels t of B images, and of the levels r below: each (B,).

    As losses.LossScalars, they are computed on the CPU in float64, so that what differs between t
    and r is rounded only once, and moved together with the batch.
    """

    sigma: Tensor  # t
    weight: Tensor
    c_in: Tensor
    c_noise: Tensor
    c_skip: Tensor
    c_out: Tensor
    r: Tensor
    r_in: Tensor
    r_noise: Tensor
    r_skip: Tensor
    r_out: Tensor
    teacher_in: Tensor | None = None  # at t, of a teacher that is guided; None: there is none
    teacher_noise: Tensor | None = None
    teacher_skip: Tensor | None = None
    teacher_out: Tensor | None = None

    @classmethod
    def at(
        cls,
        denoiser: Denoiser,
        t: Tensor,
        objective: ObjectiveConfig,
        stage: int,
        teacher: Denoiser | None = None,
    ) -> ConsistencyScalars:
        """The scalars at noise levels t, float64 (B,) on the CPU, in a stage."""
        assert objective.consistency is not None
        r = earlier(objective.consistency, t, stage)
        weight = weight_of(denoiser, t, objective)
        # Where r is 0, f is x whatever the network says, and a schedule may have no c_noise.
        above_zero = torch.where(r > 0, r, t)
        of_t, of_r = scalars_at(denoiser, t, t), scalars_at(denoiser, r, above_zero)
        of_teacher = (None,) * 4 if teacher is None else scalars_at(teacher, t, t)
        return cls._make((t, weight, *of_t, r, *of_r, *of_teacher))

    def to(self, device: torch.device, dtype: torch.dtype) -> ConsistencyScalars:
        """Move all in one copy, which does not wait for the device."""
        together = torch.stack([field for field in self if field is not None]).to(dtype)
        return ConsistencyScalars(*devices.to_device(together, device))

    def select(self, rows: slice) -> ConsistencyScalars:
        """Those of some of the images."""
        return ConsistencyScalars(*(field[rows] for field in self if field is not None))


def weight_of(denoiser: Denoiser, t: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The weight of the error of D at noise levels t (B,): float64 (B,)."""
    weighting = WEIGHTINGS.get(objective.weighting)
    return torch.ones_like(t) if weighting is None else weighting(denoiser, t, objective)


def scalars_at(denoiser: Denoiser, sigma: Tensor, c_noise_at: Tensor) -> tuple[Tensor, ...]:
    """c_in, c_noise, c_skip and c_out (B,) of noise levels; c_noise of other ones."""
    c_skip, c_out, c_in = denoiser.scalings(sigma)
    return c_in, denoiser.schedule.c_noise(c_noise_at).double(), c_skip, c_out


def loss(
    denoiser: Denoiser,
    noised: Noised,
    condition: Condition,
    objective: ObjectiveConfig,
    at: ConsistencyScalars,
    *,
    teacher: Denoiser | None = None,
    dropout: bool = False,
) -> Tensor:
    """The loss of each image, (B,): of f at t, against f at r without gradient.

    Both see the same noise, and with dropout the same masks (Geng et al. 2024, section 3.3). Where
    r is 0 the target is x0 itself. With a teacher, the state at r is where its guided ODE leads
    from that at t, instead.
    """
    x0, noise, _ = noised
    config = objective.consistency
    assert config is not None
    x = x0 + expand_to_image(at.sigma, x0) * noise
    with torch.no_grad():
        if teacher is None:
            below = x0 + expand_to_image(at.r, x0) * noise
        else:
            below = guided_step(teacher, x, at, condition, plain=config.plain_teacher)
        with devices.same_random_numbers(x.device) if dropout else nullcontext():
            target = x0_of(denoiser, below, condition, at[7:11])
    found = x0_of(denoiser, x, condition, at[2:6])
    return at.weight * distance(config, found, target)


def distance(config: ConsistencyConfig, found: Tensor, target: Tensor) -> Tensor:
    """The distance of images (B, C, H, W), each from its target: (B,)."""
    squares = (found - target).square().mean(dim=(1, 2, 3))
    return _pseudo_huber(squares, config.huber_c) if config.distance == "pseudo-huber" else squares


def guided_step(
    teacher: Denoiser,
    x: Tensor,
    at: ConsistencyScalars,
    condition: Condition,
    *,
    plain: bool = False,
) -> Tensor:
    """Euler's step of the guided teacher from x (B, C, H, W) at t to r.

    To r = 0 it leads to D.
    """
    x0 = guided_x0(teacher, x, at[-4:], condition, plain=plain)
    return x0 + expand_to_image(at.r / at.sigma, x) * (x - x0)


def guided_x0(
    teacher: Denoiser,
    x: Tensor,
    scalars: Sequence[Tensor | None],
    condition: Condition,
    *,
    plain: bool = False,
) -> Tensor:
    """D_null + w (D - D_null) of the teacher, at x (B, C, H, W) and c_in, c_noise, c_skip, c_out.

    Each image has its own guidance w, which the student is given as a condition (Meng et al. 2023,
    section 3; Luo et al. 2023, section 4.2). plain: all w are 1, so that D alone is evaluated.
    """
    at, given = [field for field in scalars if field is not None], condition._replace(guidance=None)
    if plain:
        return x0_of(teacher, x, given, at)
    if condition.guidance is None:
        raise ValueError("a teacher is guided by condition.guidance, and there is none")
    both = x0_of(
        teacher, x.repeat(2, 1, 1, 1), given.with_null(), [field.repeat(2) for field in at]
    )
    conditional, null = both.chunk(2)
    return null + expand_to_image(condition.guidance, x) * (conditional - null)


def x0_of(
    denoiser: Denoiser, x: Tensor, condition: Condition, scalars: Sequence[Tensor | None]
) -> Tensor:
    """f, or a teacher's D, of states x (B, C, H, W) and c_in, c_noise, c_skip and c_out (B,)."""
    c_in, c_noise, c_skip, c_out = (field for field in scalars if field is not None)
    output, _ = denoiser.evaluate(expand_to_image(c_in, x) * x, c_noise.float(), condition)
    return expand_to_image(c_skip, x) * x + expand_to_image(c_out, x) * output.to(x.dtype)


def _pseudo_huber(squares: Tensor, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of d^2 (B,) (Song & Dhariwal 2024, equation 7).

    Where d is 0 so is the gradient, also with c = 0, where that of the root is infinite.
    """
    inside = squares + c**2
    return torch.where(inside > 0, inside, 1).sqrt().where(inside > 0, 0.0) - c
