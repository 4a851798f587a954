"""Sampling that begins at images: some of their noise levels again, or some of their pixels anew.

Image to image begins at the noise level of a strength (Meng et al. 2022, SDEdit): the same one for
every sampler and spacing, as it is that of a share of the model's timesteps. Inpainting keeps
known pixels: D's value there is the image itself, so every sampler carries them along its own path
of noise and ends at them exactly. Resampling goes back to more noise and down again, so that new
pixels fit the known ones (Lugmayr et al. 2022, RePaint, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import SIGMA_DATA, NoiseLevels, Predict, Prediction
from ddpm_cli.core.diffusion.samplers import SamplerStep
from ddpm_cli.core.diffusion.schedules import Schedule

_JUMP = 10  # steps of a stretch that is resampled (RePaint's j)

Steps = Callable[[Predict, Tensor, Tensor], Iterator[SamplerStep]]
"""A sampler: (D, state, noise levels) -> its steps."""


@dataclass(frozen=True)
class Edit:
    """Images to begin at, and what of them stays."""

    images: Tensor  # x0 (B, C, H, W) in [-1, 1]
    strength: float = 1.0  # share of the timesteps: 0 gives the images back, 1 is sampling
    mask: Tensor | None = None  # (B, 1, H, W) or (1, 1, H, W): 1 where pixels are drawn anew
    resample: int = 1  # times that each stretch of steps is taken

    def start(self, level: float, prior: Tensor, noise: Tensor) -> Tensor:
        """The state at the first noise level: pure noise, the prior, at full strength.

        prior, noise: (B, C, H, W), the latter standard normal, whose multiple the prior is.
        """
        return prior if self.strength == 1 else self.images + level * noise

    def keep(self, predict: Predict) -> Predict:
        """D with the known pixels of the images in place of its own."""
        if self.mask is None:
            return predict
        new, images = self.mask, self.images

        def kept(x: Tensor, sigma: NoiseLevels) -> Prediction:
            x0, fraction, unclipped = predict(x, sigma)
            known = (1 - new) * images
            free = None if unclipped is None else new * unclipped + known
            return Prediction(new * x0 + known, fraction, free)

        return kept

    def steps(
        self,
        sampler: Steps,
        predict: Predict,
        x: Tensor,
        sigmas: Tensor,
        noise: Callable[[], Tensor],
    ) -> Iterator[SamplerStep]:
        """The steps between these noise levels; those that are resampled are yielded once."""
        done = 0
        if len(sigmas) == 1:
            return
        if self.mask is None or self.resample == 1:
            yield from sampler(predict, x, sigmas)
            return
        while done < len(sigmas) - 1:
            stretch = sigmas[done : done + _JUMP + 1]
            for _ in range(self.resample - 1):
                for step in sampler(predict, x, stretch):
                    x = step.x
                high, low = float(stretch[0]), float(stretch[-1])
                x = x + (high**2 - low**2) ** 0.5 * noise()
            for step in sampler(predict, x, stretch):
                x = step.x
                yield replace(step, index=done + step.index)
            done += len(stretch) - 1


def levels(strength: float, sigmas: Tensor, schedule: Schedule) -> Tensor:
    """The noise levels to visit, from that of a strength on: its timestep's, then the grid's.

    sigmas: the whole grid (steps + 1,), whose level nearest to the first one gives way to it. One
    level, without a step, where the strength is less than half a timestep.
    """
    timesteps = round(strength * len(schedule))
    if timesteps == len(schedule):
        return sigmas
    first = float(schedule.sigma[timesteps - 1]) if timesteps else 0.0
    if first <= float(sigmas[-1]):
        return sigmas[-1:]
    nearest = int((sigmas[:-1].log() - math.log(first)).abs().argmin())
    return torch.cat((sigmas[:1].clamp(max=first), sigmas[nearest + 1 :]))


def invert(
    predict: Predict, images: Tensor, sigmas: Tensor, noise: Tensor, refinements: int = 5
) -> Iterator[SamplerStep]:
    """The noise from which deterministic DDIM samples these images, by its steps in reverse.

    images: x0 (B, C, H, W). sigmas: descending, as for sampling; the last may be 0. noise: standard
    normal (B, C, H, W). The state of more noise from which a step leads to the present one is found
    by fixed-point iteration, so that sampling leads back (Pan et al. 2023, AIDI), which divides the
    error by the slope that a step has for data of EDM's standard deviation; DDIM's own guess is
    that D hardly changes in a step. Yields the steps upwards; x of the last is the state at
    sigmas[0].

    Images without any noise are none that a network has seen at its smallest level, so the state
    there is that of the image with noise, corrected once by what D makes of it: more corrections
    come closer to the image, and end in noise that is not standard normal.
    """
    x, ascending = images, sigmas.flip(0).tolist()
    for index, (low, high) in enumerate(pairwise(ascending)):
        kept = low / high  # of the noise, in the step down from the state sought
        slope = kept + (1 - kept) * SIGMA_DATA**2 / (SIGMA_DATA**2 + high**2)
        state = x if low > 0 else x + high * noise
        for _ in range(refinements if low > 0 else 1):
            x0 = predict(state, high).x0
            state = state + (x - (x0 + kept * (state - x0))) / slope
        x = state
        yield SamplerStep(index, low, high, x, x0)
