"""Sampling that begins at images: some of their noise levels again, or some of their pixels anew.

Image to image begins at the noise level of a strength (Meng et al. 2022, SDEdit). Inpainting keeps
known pixels: D's value there is the image itself, so every sampler carries them along its own path
of noise and ends at them exactly. Resampling goes back to more noise and down again, so that new
pixels fit the known ones (Lugmayr et al. 2022, RePaint, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from ddpm_cli.core.diffusion.denoiser import SIGMA_DATA, NoiseLevels, Predict, Prediction
from ddpm_cli.core.diffusion.samplers import SamplerStep

_JUMP = 10  # steps of a stretch that is resampled (RePaint's j)

Steps = Callable[[Predict, Tensor, Tensor], Iterator[SamplerStep]]
"""A sampler: (D, state, noise levels) -> its steps."""


@dataclass(frozen=True)
class Edit:
    """Images to begin at, and what of them stays."""

    images: Tensor  # x0 (B, C, H, W) in [-1, 1]
    strength: float = 1.0  # share of the steps taken: 0 gives the images back, 1 is sampling
    mask: Tensor | None = None  # (B, 1, H, W) or (1, 1, H, W): 1 where pixels are drawn anew
    resample: int = 1  # times that each stretch of steps is taken

    def first(self, steps: int) -> int:
        """The index of the first of `steps` steps that is taken."""
        return steps - round(self.strength * steps)

    def start(self, sigmas: Tensor, prior: Tensor, noise: Tensor) -> Tensor:
        """The state at the first noise level: pure noise, the prior, where all steps are taken.

        sigmas: (steps + 1,). prior, noise: (B, C, H, W), the latter standard normal, whose multiple
        the prior is.
        """
        first = self.first(len(sigmas) - 1)
        return prior if first == 0 else self.images + float(sigmas[first]) * noise

    def keep(self, predict: Predict) -> Predict:
        """D with the known pixels of the images in place of its own."""
        if self.mask is None:
            return predict
        new, images = self.mask, self.images

        def kept(x: Tensor, sigma: NoiseLevels) -> Prediction:
            x0, fraction, unclipped = predict(x, sigma)
            x0 = new * x0 + (1 - new) * images
            return Prediction(x0, fraction, None if unclipped is None else x0)

        return kept

    def steps(
        self,
        sampler: Steps,
        predict: Predict,
        x: Tensor,
        sigmas: Tensor,
        noise: Callable[[], Tensor],
    ) -> Iterator[SamplerStep]:
        """The steps from the first noise level on; those that are resampled are yielded once."""
        first = self.first(len(sigmas) - 1)
        sigmas, done = sigmas[first:], 0
        if len(sigmas) == 1:  # no step is taken
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


def invert(
    predict: Predict, images: Tensor, sigmas: Tensor, refinements: int = 5
) -> Iterator[SamplerStep]:
    """The noise from which deterministic DDIM samples these images, by its steps in reverse.

    images: x0 (B, C, H, W). sigmas: descending, as for sampling; the last may be 0. The state of
    more noise from which a step leads to the present one is found by fixed-point iteration, so
    that sampling leads back (Pan et al. 2023, AIDI), which divides the error by the slope that a
    step has for data of EDM's standard deviation; DDIM's own guess is that D hardly changes in a
    step. Yields the steps upwards; x of the last is the state at sigmas[0].
    """
    x, ascending = images, sigmas.flip(0).tolist()
    for index, (low, high) in enumerate(pairwise(ascending)):
        kept, state = low / high, x  # of the noise, in the step down from the state sought
        slope = kept + (1 - kept) * SIGMA_DATA**2 / (SIGMA_DATA**2 + high**2)
        for _ in range(refinements):
            x0 = predict(state, high).x0
            state = state + (x - (x0 + kept * (state - x0))) / slope
        x = state
        yield SamplerStep(index, low, high, x, x0)
