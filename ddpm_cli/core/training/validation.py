"""The loss of the averaged weights on images held out, and on as many of those trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime import distributed, seeds
from ddpm_cli.core.runtime.run_directory import Row
from ddpm_cli.core.training.batches import Batches
from ddpm_cli.core.training.noise_quarters import COUNT, NoiseQuarters
from ddpm_cli.core.training.step import Step

_LEAST = 8  # pairs of images that a quarter needs to be judged by
LEAST_TO_JUDGE = COUNT * _LEAST  # images held out

_QUARTERS = range(COUNT)
COLUMNS = (  # of a row of metrics
    *("loss_holdout", *(f"loss_holdout_q{q}" for q in _QUARTERS)),
    *("loss_trained", *(f"loss_trained_q{q}" for q in _QUARTERS)),
    "loss_gap",
)


class Quarter(NamedTuple):
    """Sums over the pairs of images whose noise level is in a quarter, or in all of them."""

    held_out: float
    trained: float
    squares: float  # of the differences of a pair's losses
    pairs: float

    @property
    def losses(self) -> tuple[float, float]:
        """The mean losses on images held out and on those trained on; NaN without any."""
        if not self.pairs:
            return math.nan, math.nan
        return self.held_out / self.pairs, self.trained / self.pairs

    @property
    def least_gap(self) -> float:
        """The gap less two standard errors, as a share of the loss on images trained on.

        NaN with too few pairs.
        """
        if self.pairs < _LEAST or not self.trained > 0:
            return math.nan
        held_out, trained = self.losses
        variance = max(0.0, self.squares / self.pairs - (held_out - trained) ** 2)
        error = math.sqrt(variance / (self.pairs - 1))
        return (held_out - trained - 2 * error) / trained


class Validation(NamedTuple):
    """What a validation found, of the averaged weights without dropout or augmentation."""

    quarters: tuple[Quarter, ...]  # from the least noise to the most

    @property
    def losses(self) -> tuple[float, float]:
        """The mean losses on images held out and on those trained on, over all noise levels."""
        return Quarter(*map(sum, zip(*self.quarters, strict=True))).losses

    @property
    def gap(self) -> float:
        """The largest gap of a quarter that is certain (`Quarter.least_gap`); NaN without one."""
        known = [gap for gap in (q.least_gap for q in self.quarters) if not math.isnan(gap)]
        return max(known, default=math.nan)

    @property
    def row(self) -> Row:
        """As the COLUMNS of a row of metrics."""
        pairs = [self.losses, *(quarter.losses for quarter in self.quarters)]
        held_out, trained = zip(*pairs, strict=True)
        return dict(zip(COLUMNS, (*held_out, *trained, self.gap), strict=True))


class Validator:
    """Measures both losses: of each image held out, and of an image trained on in its place.

    Noise levels and noise are the same for both and every time, so that the difference of the two
    is due to the images alone. Where there are fewer images to train on, they take turns.
    """

    def __init__(
        self,
        config: RunConfig,
        batches: Batches,
        training: DecodedImages,
        held_out: DecodedImages,
        step: Step,
        averaged: Denoiser,
        device: torch.device,
    ) -> None:
        self._batches, self._step, self._averaged = batches, step, averaged
        self._training, self._held_out = training, held_out
        self._quarters, self._device = NoiseQuarters(config, device), device
        self._seed = config.optimiser.seed

    def __call__(self) -> Validation | None:
        """Measure; all ranks call this. None without held-out images."""
        count = len(self._held_out)
        if not count:
            return None
        random = np.random.default_rng(seeds.derive(self._seed, "holdout trained"))
        chosen = np.resize(random.permutation(len(self._training)), count)
        sigma, held_out = self._losses(self._held_out, np.arange(count))
        _, trained = self._losses(self._training, chosen)
        squares, ones = (held_out - trained) ** 2, torch.ones_like(held_out)
        sums = torch.zeros(COUNT, len(Quarter._fields), device=self._device)
        self._quarters.add(sums, sigma, torch.stack([held_out, trained, squares, ones], dim=-1))
        totals: list[list[float]] = distributed.all_reduce_sum(sums).tolist()
        return Validation(tuple(Quarter(*each) for each in totals))

    @torch.no_grad()
    def _losses(self, images: DecodedImages, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Noise levels and losses (B,) of this rank's share of images."""
        none = torch.zeros(0, device=self._device)
        sigma, losses = [none], [none]  # a rank may have none of a few images
        for shard in self._batches.fixed(images, indices):
            for batch in shard.microbatches(self._step.microbatch):
                sigma.append(batch.scalars.sigma)
                losses.append(self._step.losses(self._averaged, batch).float())
        return torch.cat(sigma), torch.cat(losses)
