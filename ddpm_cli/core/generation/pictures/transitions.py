"""Films of one sample turning into another: between two seeds, or between two conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.interpolation import NoiseBetween, Towards
from ddpm_cli.core.diffusion.samplers import final_state
from ddpm_cli.core.diffusion.sampling import sample
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import batching, generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.pictures.animation import Film
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter

_FIRST = 4  # a quarter of the states is evenly apart, the others lie where most changes
_FINEST = 8  # states are no nearer to each other than an eighth of the even distance


@dataclass(frozen=True)
class Transition:
    """From the images of one request to those of another, of the same count and settings.

    Image i goes from the noise of seed `start.seed + i` to that of `end.seed + i` on a sphere, in
    each draw of noise, and from the one's condition to the other's by mixing D. Known pixels of
    images that are given with a mask stay.
    """

    model: Model
    start: GenerationRequest
    end: GenerationRequest

    def film(self, count: int, reporter: Reporter) -> Film:
        """`count` states from the start to the end, near to each other where much changes."""
        first = min(count, max(2, count // _FIRST))
        where = np.linspace(0, 1, first)
        with reporter.bar("sampling", count, "frames") as bar:
            images = self.images(where)
            bar.update(len(images))
            while len(where) < count:
                more = _between(where, films.changes(images), count)
                order = np.argsort(np.concatenate([where, more]))
                where = np.concatenate([where, more])[order]
                images = np.concatenate([images, self.images(more)])[order]
                bar.update(len(images))
        return Film(images, tuple(f"{share:.2f}" for share in where), loops=True)

    def images(self, where: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The images at shares (S,) of the way: (S, N, C, H, W)."""
        rows = [(share, i) for share in where.tolist() for i in range(self.start.count)]
        drawn = []
        with devices.enough_memory("use a smaller -n"):
            for begin in range(0, len(rows), batching.DEFAULT):
                shares, indices = zip(*rows[begin : begin + batching.DEFAULT], strict=True)
                drawn.append(self._sampled(torch.tensor(shares, dtype=torch.float64), indices))
        images = np.concatenate(drawn)
        return images.reshape(len(where), self.start.count, *images.shape[1:])

    def _sampled(self, t: torch.Tensor, indices: tuple[int, ...]) -> NDArray[np.uint8]:
        """The image of each index at its share t of the way: (B, C, H, W)."""
        model, start, end = self.model, self.start, self.end
        noises = [generate.image_noise(model, request, indices) for request in (start, end)]
        noise = NoiseBetween(noises[0], noises[1], t)
        condition = generate.condition_of(model, start, indices)
        towards = None
        if any(self._changes(index) for index in indices):
            towards = Towards(generate.condition_of(model, end, indices), t)
        edit = generate.edit_of(model, start, indices)
        guide = model.guide_denoiser
        with devices.autocast(model.device, model.precision):
            steps = sample(model.denoiser, noise, condition, start.sampling, edit, towards, guide)
            x = final_state(steps)
        return to_uint8(x).cpu().numpy()

    def _changes(self, index: int) -> bool:
        """Whether the condition of an image changes on the way."""
        return self.start.label_and_prompt(index) != self.end.label_and_prompt(index)


def between_classes(model: Model, request: GenerationRequest) -> Transition:
    """From the first class of a request for two to the second, with the same noise.

    Raises UsageError where there are not two.
    """
    labels = request.conditions.labels
    if len(labels) != 2 or request.conditions.count is not None:
        raise UsageError("--morph takes two classes, each by its name or number")
    ends = [
        replace(request, conditions=replace(request.conditions, labels=(label,)))
        for label in labels
    ]
    return Transition(model, *ends)


def _between(
    where: NDArray[np.float64], differences: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The middles of the gaps in which most changes, so many at a time as even out the changes."""
    gaps = np.diff(where)
    wide = gaps > 1 / (_FINEST * count)
    widest = np.argsort(-np.where(wide, differences, -1), kind="stable")
    taken = min(count - len(where), max(1, int(wide.sum()) // 2))
    chosen = widest[:taken]
    middles: NDArray[np.float64] = where[chosen] + gaps[chosen] / 2
    return middles
