"""Between two samples: their noises on a sphere, and their conditions by mixing D."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.diffusion.denoiser import NoiseLevels, Predict, Prediction, expand_to_image

_PARALLEL = 1e-6  # radians, below which the arc is a straight line


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical linear interpolation (Shoemake 1985) of each of B images: a at t = 0, b at t = 1.

    a, b: (B, C, H, W). t: (B,). Of two independent standard normal noises, which are nearly
    orthogonal, every point between is one, too; of a straight line those in the middle are weaker.
    """
    u, v = (x.flatten(1).double() for x in (a, b))
    cosine = (u * v).sum(dim=1) / (u.norm(dim=1) * v.norm(dim=1)).clamp(min=1e-30)
    angle, t = cosine.clamp(-1, 1).acos(), t.to(u)
    straight = (angle < _PARALLEL) | (torch.pi - angle < _PARALLEL)
    sine = torch.where(straight, 1.0, angle.sin())
    of_a = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    of_b = torch.where(straight, t, (t * angle).sin() / sine)
    return expand_to_image(of_a, a) * a + expand_to_image(of_b, b) * b


@dataclass(frozen=True)
class NoiseBetween:
    """A source of noise between two others, draw by draw: (B, C, H, W)."""

    one: Callable[[], Tensor]
    other: Callable[[], Tensor]
    t: Tensor  # (B,)

    def __call__(self) -> Tensor:
        """The next noise."""
        return slerp(self.one(), self.other(), self.t)


@dataclass(frozen=True)
class Towards:
    """A second condition, and how far each of B images is on the way to it."""

    condition: Condition
    t: Tensor  # (B,): 0 the first condition, 1 the second


def mixed(first: Predict, second: Predict, t: Tensor) -> Predict:
    """(1 - t) D_first + t D_second, t (B,): by a score that is mixed at each noise level.

    Since D is affine in the score, this adds the scores, as in Liu et al. (2022, "Compositional
    visual generation with composable diffusion models", equation 11): that of the weighted
    geometric mean of the noisy densities, which is not that mean's with noise.
    """

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        one, other = first(x, sigma), second(x, sigma)
        weight = expand_to_image(t, x)
        x0 = (1 - weight) * one.x0 + weight * other.x0
        if one.variance_fraction is None or other.variance_fraction is None:
            return Prediction(x0)
        fraction = (1 - weight) * one.variance_fraction + weight * other.variance_fraction
        return Prediction(x0, fraction)

    return predict
