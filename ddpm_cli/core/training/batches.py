"""The batches of a training: functions of the seed and of the images seen before them."""

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
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.order import order_of
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.diffusion.noising import Noised, stratified_uniform, training_sigmas
from ddpm_cli.core.diffusion.schedules import Schedule
from ddpm_cli.core.runtime import distributed, seeds
from ddpm_cli.core.training.prefetch import Prefetch


class Taken(NamedTuple):
    """One rank's shard of a batch as it comes from the data set, in main memory."""

    rows: NDArray[np.int64]  # (B,), indices of the images
    images: Tensor  # (B, C, H, W) uint8
    condition: Condition


class Batch(NamedTuple):
    """One rank's shard of a batch: B noised images and their conditions."""

    noised: Noised
    condition: Condition
    rows: NDArray[np.int64]  # (B,), indices of the images
    importance: Tensor | None  # (B,), importance weights of the losses; None: all are 1

    def __len__(self) -> int:
        return len(self.rows)

    def microbatches(self, size: int | None) -> list[Batch]:
        """Parts of at most `size` images, in order; the whole for None."""
        size = size or max(1, len(self))
        return [self.select(slice(i, i + size)) for i in range(0, len(self), size)]

    def select(self, rows: slice) -> Batch:
        """Some of its images."""
        x0, noise, sigma = self.noised
        importance = None if self.importance is None else self.importance[rows]
        noised = Noised(x0[rows], noise[rows], sigma[rows])
        return Batch(noised, self.condition.select(rows), self.rows[rows], importance)


class Batches:
    """Every rank draws the random numbers of the global batch and takes its shard of the images.

    So neither a resume nor the number of processes changes what a step trains on. The images of the
    next batch are taken in a thread: until `close`.
    """

    def __init__(
        self, config: RunConfig, schedule: Schedule, images: DecodedImages, device: torch.device
    ) -> None:
        self._config, self._schedule, self._device = config, schedule, device
        self._images = images
        self._order = order_of(config.data, config.optimiser.seed, images)
        self._ahead = Prefetch(self._load, config.optimiser.batch)

    @property
    def waited(self) -> float:
        """Seconds that `draw` waited for images, in all."""
        return self._ahead.waited

    def close(self) -> None:
        """Take no more images ahead."""
        self._ahead.close()

    def draw(self, seen: int, history: LossHistory | None) -> Batch:
        """This rank's shard of the batch after `seen` images.

        history: past losses, where timesteps are drawn by importance.
        """
        optimiser = self._config.optimiser
        shard = distributed.shard(optimiser.batch)
        random = seeds.generator(optimiser.seed, "batch", seen)
        flips = torch.rand(optimiser.batch, generator=random) < 0.5
        drops = torch.rand(optimiser.batch, generator=random) < optimiser.class_drop
        u = stratified_uniform(optimiser.batch, random)
        if history is None:
            sigma = training_sigmas(self._schedule, self._config.objective, u)
            importance = None
        else:
            sigma, weights = history.sample_sigmas(u)
            importance = weights[shard].to(self._device, torch.float32)

        rows, images, condition = self._ahead.get(seen)
        x0 = to_unit(images.to(self._device, non_blocking=True))
        if self._config.data.augment:
            parameters = self._augmentation(seen)[shard]
            x0 = augmentation.augment(x0, parameters)
            condition = condition._replace(augmented=augmentation.labels(parameters))
        elif self._config.data.flip:
            x0 = augmentation.flip(x0, flips[shard])
        noised = Noised(x0, self._noise(optimiser.batch, seen)[shard], sigma[shard])
        return Batch(noised, condition.drop(drops[shard]).to(self._device), rows, importance)

    def _load(self, seen: int) -> Taken:
        """The images of this rank's shard of the batch after `seen` images."""
        optimiser = self._config.optimiser
        shard = distributed.shard(optimiser.batch)
        rows = self._order.indices(seen, optimiser.batch)[shard]
        random = seeds.generator(optimiser.seed, "captions", seen)
        draws = torch.rand(optimiser.batch, generator=random, dtype=torch.float64)[shard]
        images, condition = self._take(self._images, rows, draws)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):  # a thread begins with the first GPU
                images = images.pin_memory()  # so that copying it does not wait
        return Taken(rows, images, condition)

    def held_out(self, held_out: DecodedImages) -> Iterator[Batch]:
        """This rank's shards of the held-out images, with the same noise every time."""
        count, optimiser = len(held_out), self._config.optimiser
        random = seeds.generator(optimiser.seed, "holdout")
        u = stratified_uniform(count, random)
        sigma = training_sigmas(self._schedule, self._config.objective, u)
        for start in range(0, count, optimiser.batch):
            rows = np.arange(start, min(start + optimiser.batch, count))
            images, condition = self._take(held_out, rows, torch.zeros(len(rows)))
            noise = torch.randn(images.shape, generator=random).to(self._device)
            noised = Noised(to_unit(images.to(self._device)), noise, sigma[rows])
            batch = Batch(noised, condition.to(self._device), rows, None)
            yield batch.select(distributed.shard(len(rows)))

    def _take(
        self, dataset: DecodedImages, rows: NDArray[np.int64], draws: Tensor
    ) -> tuple[Tensor, Condition]:
        """Images (B, C, H, W) uint8 and their conditions; `draws`, (B,) in [0, 1): of captions."""
        images, labels = dataset.take(rows)
        classes = labels if self._config.network.classes else None
        return images, Condition(classes, dataset.caption_tokens(rows, draws.numpy()))

    def _augmentation(self, seen: int) -> Tensor:
        """Parameters (B, 8) of the augmentation of the batch after `seen` images."""
        optimiser, data = self._config.optimiser, self._config.data
        mirroring = 1.0 if data.flip else data.augment
        random = seeds.generator(optimiser.seed, "augmentation", seen)
        return augmentation.sample_parameters(optimiser.batch, data.augment, mirroring, random)

    def _noise(self, count: int, seen: int) -> Tensor:
        random = seeds.generator(self._config.optimiser.seed, "noise", seen, device=self._device)
        shape = (count, self._config.network.channels, *self._config.network.size)
        return torch.randn(shape, generator=random, device=self._device)
