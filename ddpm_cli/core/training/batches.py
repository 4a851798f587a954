"""What a training step learns from: functions of the seed and of the images seen before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import augmentation
from ddpm_cli.core.data.loader import DecodedImages, SampleOrder
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.diffusion.noising import Noised, stratified_uniform, training_sigmas
from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.runtime import distributed, seeds


class Batch(NamedTuple):
    """One process's share of a batch: B pictures under noise, and what they show."""

    noised: Noised
    condition: Condition
    rows: NDArray[np.int64]  # (B,), which of the pictures they are
    importance: Tensor | None  # (B,), weights of the losses where timesteps are drawn by importance

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, size: int | None) -> list[Batch]:
        """Parts of at most so many pictures, in order; itself alone for None."""
        size = size or max(1, len(self))
        return [self.part(slice(i, i + size)) for i in range(0, len(self), size)]

    def part(self, rows: slice) -> Batch:
        """Some of its pictures."""
        x0, noise, sigma = self.noised
        importance = None if self.importance is None else self.importance[rows]
        noised = Noised(x0[rows], noise[rows], sigma[rows])
        return Batch(noised, self.condition.select(rows), self.rows[rows], importance)


class Batches:
    """Every process draws the numbers of the whole batch and takes its share of the pictures.

    So neither a resume nor the number of processes changes what a step learns from.
    """

    def __init__(
        self, config: RunConfig, schedule: Schedule, pictures: DecodedImages, device: torch.device
    ) -> None:
        self._config, self._schedule, self._device = config, schedule, device
        self._pictures = pictures
        self._order = SampleOrder(len(pictures), config.optimiser.seed)

    def draw(self, seen: int, history: LossHistory | None) -> Batch:
        """This process's share of the batch after `seen` images.

        history: the losses so far, where timesteps are drawn by importance.
        """
        learn = self._config.optimiser
        mine = distributed.shard(learn.batch)
        random = seeds.generator(learn.seed, "batch", seen)
        flips = torch.rand(learn.batch, generator=random) < 0.5
        drops = torch.rand(learn.batch, generator=random) < learn.class_drop
        u = stratified_uniform(learn.batch, random)
        if history is None:
            sigma = training_sigmas(self._schedule, self._config.objective, u)
            importance = None
        else:
            sigma, weights = history.draw(u)
            importance = weights[mine].to(self._device, torch.float32)

        rows = self._order.indices(seen, learn.batch)[mine]
        told = seeds.generator(learn.seed, "captions", seen)
        which = torch.rand(learn.batch, generator=told, dtype=torch.float64)[mine]
        images, condition = self._shown(self._pictures, rows, which)
        x0 = to_unit(images.to(self._device))
        if self._config.data.augment:
            moves = self._moves(seen)[mine]
            x0 = augmentation.augment(x0, moves)
            condition = condition._replace(augmented=augmentation.labels(moves))
        elif self._config.data.flip:
            x0 = augmentation.flip(x0, flips[mine])
        noised = Noised(x0, self._noise(learn.batch, seen)[mine], sigma[mine])
        return Batch(noised, condition.drop(drops[mine]).to(self._device), rows, importance)

    def held_out(self, held_out: DecodedImages) -> Iterator[Batch]:
        """This process's shares of the held-out pictures, under the same noise every time."""
        count, learn = len(held_out), self._config.optimiser
        random = seeds.generator(learn.seed, "holdout")
        sigma = training_sigmas(
            self._schedule, self._config.objective, stratified_uniform(count, random)
        )
        for start in range(0, count, learn.batch):
            whole = np.arange(start, min(start + learn.batch, count))
            first = torch.zeros(len(whole))  # of their captions
            images, condition = self._shown(held_out, whole, first)
            noise = torch.randn(images.shape, generator=random).to(self._device)
            noised = Noised(to_unit(images.to(self._device)), noise, sigma[whole])
            share = Batch(noised, condition.to(self._device), whole, None)
            yield share.part(distributed.shard(len(whole)))

    def _shown(
        self, pictures: DecodedImages, rows: NDArray[np.int64], which: Tensor
    ) -> tuple[Tensor, Condition]:
        """Pictures (B, C, H, W) uint8, and what they show; `which`, (B,) in [0, 1): by caption."""
        images, labels = pictures.take(rows)
        classes = labels if self._config.network.classes else None
        return images, Condition(classes, pictures.caption_tokens(rows, which.numpy()))

    def _moves(self, seen: int) -> Tensor:
        """How augmentation moves the batch after `seen` images, (B, 8)."""
        learn, data = self._config.optimiser, self._config.data
        mirroring = 1.0 if data.flip else data.augment
        random = seeds.generator(learn.seed, "augmentation", seen)
        return augmentation.sample_parameters(learn.batch, data.augment, mirroring, random)

    def _noise(self, count: int, seen: int) -> Tensor:
        source = seeds.generator(self._config.optimiser.seed, "noise", seen, device=self._device)
        shape = (count, self._config.network.channels, *self._config.network.size)
        return torch.randn(shape, generator=source, device=self._device)
