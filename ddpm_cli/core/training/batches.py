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
from ddpm_cli.core.data.augmentation import Augmentation
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.given import GivenParts, GivenRecipe
from ddpm_cli.core.data.order import order_of
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.diffusion.consistency import ConsistencyScalars
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.importance import LossHistory
from ddpm_cli.core.diffusion.losses import LossScalars
from ddpm_cli.core.diffusion.noising import Noised, stratified_uniform, training_sigmas
from ddpm_cli.core.diffusion.step_distillation import StepScalars
from ddpm_cli.core.runtime import devices, distributed, seeds
from ddpm_cli.core.training.prefetch import Prefetch

Scalars = LossScalars | ConsistencyScalars | StepScalars
"""What the loss needs of the noise levels of B images."""

_NOISE_BLOCK = 64  # images whose noise is drawn by one generator
_BLOCK = 4096  # images copied to a GPU at once
RESIDENT = 0.25  # all images are kept on a GPU where they fill at most this much of what is free


class Loaded(NamedTuple):
    """What one rank's shard of a batch is made of, on the device: from data set and seed alone."""

    rows: NDArray[np.int64]  # (B,), indices of the images
    images: Tensor  # (B, C, H, W) uint8, or where the device has all images (B,) int64, their rows
    condition: Condition
    flips: Tensor  # (B,) bool
    augmentation: Augmentation | None
    given: GivenParts | None
    u: Tensor  # float64, of the global batch, on the CPU: noise levels are drawn by these
    levels: tuple[Tensor, Scalars] | None  # (B,) on the CPU; None: they depend on past losses


class Batch(NamedTuple):
    """One rank's shard of a batch: B noised images and their conditions."""

    noised: Noised
    condition: Condition
    rows: NDArray[np.int64]  # (B,), indices of the images
    scalars: Scalars  # of the noise levels, on the device
    importance: Tensor | None  # (B,), importance weights of the losses; None: all are 1

    def __len__(self) -> int:
        return len(self.rows)

    def microbatches(self, size: int | None) -> list[Batch]:
        """Parts of at most `size` images, in order; the whole for None."""
        size = size or max(1, len(self))
        if 0 < len(self) <= size:
            return [self]
        return [self.select(slice(i, i + size)) for i in range(0, len(self), size)]

    def select(self, rows: slice) -> Batch:
        """Some of its images."""
        x0, noise, sigma = self.noised
        importance = None if self.importance is None else self.importance[rows]
        noised = Noised(x0[rows], noise[rows], sigma[rows])
        condition, scalars = self.condition.select(rows), self.scalars.select(rows)
        return Batch(noised, condition, self.rows[rows], scalars, importance)


class Batches:
    """Every rank draws the few random numbers of the global batch, and the images of its shard.

    So neither a resume nor the number of processes changes what a step trains on. What does not
    depend on the weights is brought to the device for the next batch in a thread: until `close`.
    """

    def __init__(
        self,
        config: RunConfig,
        denoiser: Denoiser,
        images: DecodedImages,
        device: torch.device,
        teacher: Denoiser | None = None,
    ) -> None:
        """teacher: of a student that learns its steps."""
        self._config, self._denoiser, self._device = config, denoiser, device
        self._teacher = teacher
        self._images, self._resident = images, _resident(images, device)
        self._order = order_of(config.data, config.optimiser.seed, images)
        self._given, self._consistency = GivenRecipe.of(config), config.objective.consistency
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
        loaded, importance = self._ahead.get(seen), None
        if loaded.levels is not None:
            sigma, scalars = loaded.levels
        else:
            assert history is not None
            sigma, weights = (values[self._shard] for values in history.sample_sigmas(loaded.u))
            scalars = self._scalars(sigma, seen)
            importance = devices.to_device(weights.float(), self._device)
        images = loaded.images if self._resident is None else self._resident[loaded.images]
        x0, condition = to_unit(images), loaded.condition
        if loaded.given is not None:
            x0 = loaded.given.beside(x0)
        if loaded.augmentation is not None:
            x0 = augmentation.apply(x0, loaded.augmentation)
        elif self._config.data.flip:
            x0 = augmentation.flip(x0, loaded.flips)
        if self._given is not None and loaded.given is not None:
            size = self._given.noisy
            noise = None if size is None else self._noise(seen, "given noise", size)
            x0, condition = self._given.condition(x0, condition, loaded.given, noise)
        noised = Noised(x0, self._noise(seen), sigma)
        return Batch(noised, condition, loaded.rows, scalars, importance)

    @property
    def _shard(self) -> slice:
        """This rank's part of the global batch."""
        return distributed.shard(self._config.optimiser.batch)

    def _load(self, seen: int) -> Loaded:
        """Bring this rank's shard of the batch after `seen` images to the device."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread begins with the first GPU
        optimiser, shard = self._config.optimiser, self._shard
        random = seeds.generator(optimiser.seed, "batch", seen)
        flips = torch.rand(optimiser.batch, generator=random) < 0.5
        drops = torch.rand(optimiser.batch, generator=random) < optimiser.class_drop
        u = stratified_uniform(optimiser.batch, random)
        levels = None
        if self._config.objective.noise_levels != "importance":
            sigma = training_sigmas(self._denoiser.schedule, self._config.objective, u)[shard]
            levels = sigma, self._scalars(sigma, seen)

        rows = self._order.indices(seen, optimiser.batch)[shard]
        random = seeds.generator(optimiser.seed, "captions", seen)
        draws = torch.rand(optimiser.batch, generator=random, dtype=torch.float64)[shard]
        if self._resident is None:
            images = self._images.pixels_of(rows)
        else:
            images = torch.from_numpy(self._images.rows[rows])
        condition = self._condition(self._images, rows, draws).drop(drops[shard])
        augmented = None
        if self._config.data.augment:
            parameters = self._augmentation(seen)[shard]
            condition = condition._replace(augmented=augmentation.labels(parameters))
            augmented = augmentation.planned(parameters, self._config.network.size)
            augmented = augmented.to(self._device)
        condition = self._guided(condition, optimiser.batch, "guidance", seen, shard)
        given = None
        if self._given is not None:
            random = seeds.generator(optimiser.seed, "given", seen)
            drawn = self._given.draw(optimiser.batch, random).select(shard)
            given = drawn.paired_with(self._images, rows).to(self._device)
        return Loaded(
            rows,
            devices.to_device(images, self._device),
            condition.to(self._device),
            devices.to_device(flips[shard], self._device),
            augmented,
            given,
            u,
            levels,
        )

    def _scalars(self, sigma: Tensor, seen: int | None) -> Scalars:
        """What the loss needs of noise levels (B,), on the device; seen: None at a validation.

        A validation is of the last stage of consistency tuning, always: so that all compare.
        """
        config, settings = self._config, self._consistency
        if settings is not None and settings.calls:
            assert self._teacher is not None
            steps = StepScalars.at(self._denoiser, sigma, config.objective, self._teacher)
            return steps.to(self._device, torch.float32)
        if settings is not None:
            stage = settings.stages - 1 if seen is None else settings.stage(seen)
            levels = ConsistencyScalars.at(
                self._denoiser, sigma, config.objective, stage, self._teacher
            )
            return levels.to(self._device, torch.float32)
        bound = config.network.learned_variance
        scalars = LossScalars.at(self._denoiser, sigma, config.objective, bound=bound)
        return scalars.to(self._device, torch.float32)

    def fixed(self, images: DecodedImages, indices: NDArray[np.int64]) -> Iterator[Batch]:
        """This rank's shards of images, in this order, for a validation.

        The i-th has the same noise every time, whatever the images.
        """
        count, optimiser = len(indices), self._config.optimiser
        random = seeds.generator(optimiser.seed, "holdout")
        u = stratified_uniform(count, random)
        sigma = training_sigmas(self._denoiser.schedule, self._config.objective, u)
        given = None
        if self._given is not None:
            random_given = seeds.generator(optimiser.seed, "holdout given")
            given = self._given.draw(count, random_given)
        for start in range(0, count, optimiser.batch):
            part = slice(start, min(start + optimiser.batch, count))
            rows = indices[part]
            pixels = images.pixels_of(rows)
            condition = self._condition(images, rows, torch.zeros(len(rows)))
            condition = self._guided(condition, len(rows), "holdout guidance", start)
            noise = torch.randn(pixels.shape, generator=random).to(self._device)
            x0, condition = to_unit(pixels.to(self._device)), condition.to(self._device)
            if self._given is not None and given is not None:
                parts = given.select(part).paired_with(images, rows)
                parts = parts.to(self._device)
                low = self._low_noise(start, len(rows))
                x0, condition = self._given.condition(parts.beside(x0), condition, parts, low)
            noised = Noised(x0, noise, sigma[part])
            batch = Batch(noised, condition, rows, self._scalars(sigma[part], None), None)
            yield batch.select(distributed.shard(len(rows)))

    def _condition(
        self, images: DecodedImages, rows: NDArray[np.int64], draws: Tensor
    ) -> Condition:
        """The conditions of images; `draws`, (B,) in [0, 1): of captions."""
        classes = images.labels_of(rows) if self._config.network.classes else None
        return Condition(classes, images.caption_tokens(rows, draws.numpy()))

    def _guided(
        self, condition: Condition, count: int, key: str, at: int, part: slice = slice(None)
    ) -> Condition:
        """The condition with the guidance of its images, where that is learned: uniform, a `part`.

        A function of the key and of what was seen before, as all that is drawn.
        """
        if self._consistency is None or not self._consistency.guidance:
            return condition
        low, high = self._consistency.guidance
        random = seeds.generator(self._config.optimiser.seed, key, at)
        guidance = low + (high - low) * torch.rand(count, generator=random)
        return condition._replace(guidance=guidance[part])

    def _augmentation(self, seen: int) -> Tensor:
        """Parameters (B, 8) of the augmentation of the batch after `seen` images."""
        optimiser, data = self._config.optimiser, self._config.data
        mirroring = 1.0 if data.flip else data.augment
        random = seeds.generator(optimiser.seed, "augmentation", seen)
        return augmentation.sample_parameters(optimiser.batch, data.augment, mirroring, random)

    def _low_noise(self, start: int, count: int) -> Tensor | None:
        """Noise for `count` low-resolution images of a validation, the same every time."""
        if self._given is None or (size := self._given.noisy) is None:
            return None
        random = seeds.generator(self._config.optimiser.seed, "holdout given noise", start)
        shape = (count, self._config.network.channels, *size)
        return torch.randn(shape, generator=random).to(self._device)

    def _noise(self, seen: int, key: str = "noise", size: tuple[int, int] | None = None) -> Tensor:
        """The noise of this rank's shard of the batch after `seen` images, or of another size.

        Each block of images has a generator of its own, so that a rank draws those of its shard
        alone, and the noise of an image does not depend on the number of ranks.
        """
        network, seed, shard = self._config.network, self._config.optimiser.seed, self._shard
        shape = (network.channels, *(size or network.size))
        blocks = []
        for block in range(shard.start // _NOISE_BLOCK, -(-shard.stop // _NOISE_BLOCK)):
            start = block * _NOISE_BLOCK
            count = min(_NOISE_BLOCK, self._config.optimiser.batch - start)
            # The first block has the key that it had when there were no others.
            others = [block] if block else []
            random = seeds.generator(seed, key, seen, *others, device=self._device)
            noise = torch.randn((count, *shape), generator=random, device=self._device)
            blocks.append(noise[max(0, shard.start - start) : shard.stop - start])
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _resident(images: DecodedImages, device: torch.device) -> Tensor | None:
    """All images in a GPU's memory, (rows, C, H, W) uint8; None where they are not kept there."""
    pixels = images.pixels
    if device.type != "cuda" or not isinstance(pixels, np.ndarray):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if pixels.nbytes > RESIDENT * free:
        return None
    resident = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), _BLOCK):
        block = np.array(pixels[start : start + _BLOCK])  # which is mapped from a file
        resident[start : start + _BLOCK] = torch.from_numpy(block)
    return resident
