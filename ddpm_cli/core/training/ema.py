"""Moving averages of the weights: the exponential one, which is sampled, and others beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)

Decays = Sequence[float | Tensor]
"""Of one step: of the exponential average, then of those with power profiles, in their order."""


def averaged_copy(network: Net) -> Net:
    """A copy of the network to hold the average, in evaluation mode and without gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float | Tensor, skipped: Tensor) -> None:
    """average <- decay average + (1 - decay) weights, in place, unless the step was skipped.

    decay: a number, or () float64 on the device. skipped: 1 where it was, else 0; () on the device,
    which is not waited for.
    """
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    if skipped.device.type == "cpu":
        if not skipped:
            torch._foreach_lerp_(averages, weights, float(1 - decay))
        return
    changes = torch._foreach_sub(weights, averages)
    torch._foreach_mul_(changes, ((1 - decay) * (1 - skipped)).float())
    torch._foreach_add_(averages, changes)


def decay_after(batch: int, images: int, halflife: float, rampup: float) -> float:
    """The decay of one step: half-life in images, at most `rampup` of the images seen.

    Karras et al. (2022), appendix F.2; the ramp lets early averages forget the start.
    """
    return float(0.5 ** (batch / max(min(halflife, rampup * images), 1e-8)))
