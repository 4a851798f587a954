"""The images that a network is given: made of those it learns, or paired with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning import images as given_images
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.given import Degradation
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.devices import to_device


class GivenParts(NamedTuple):
    """What the given images of B images are made of, beside the images themselves."""

    masks: Tensor | None = None  # (B, 1, H, W): 1 where pixels are cut out
    deviation: Tensor | None = None  # (B,), of the noise
    paired: Tensor | None = None  # (B, C', H, W) uint8

    def select(self, rows: slice) -> GivenParts:
        """Those of some of the images."""
        return GivenParts(*(None if field is None else field[rows] for field in self))

    def paired_with(self, images: DecodedImages, rows: NDArray[np.int64]) -> GivenParts:
        """With the pairs of these images, where they have some."""
        return self._replace(paired=images.pairs_of(rows))

    def to(self, device: torch.device) -> GivenParts:
        """Copy all tensors to a device, without waiting for it."""
        return GivenParts(*(field if field is None else to_device(field, device) for field in self))

    def beside(self, x0: Tensor) -> Tensor:
        """Images x0 (B, C, H, W), and their pairs as further channels: so both are augmented."""
        return x0 if self.paired is None else torch.cat([x0, to_unit(self.paired)], dim=1)


@dataclass(frozen=True)
class GivenRecipe:
    """How the given images of a run are made."""

    degradation: Degradation | None  # None: they are paired
    channels: int  # of the images trained on
    size: tuple[int, int]
    level: float  # deviation of the noise, at most

    @classmethod
    def of(cls, config: RunConfig) -> GivenRecipe | None:
        """That of a run; None for a network that is given none."""
        network, data = config.network, config.data
        if not network.given_channels:
            return None
        return cls(data.degradation, network.channels, network.size, data.given_level)

    @property
    def cuts(self) -> bool:
        """Whether masks are cut out of them."""
        return self.degradation is not None and self.degradation.kind == "mask"

    @property
    def noisy(self) -> tuple[int, int] | None:
        """(height, width) of the images to which noise is added; None where it is to none."""
        return self.degradation.size(self.size) if self.degradation and self.level else None

    def draw(self, count: int, generator: torch.Generator) -> GivenParts:
        """The random numbers of the given images of `count` images."""
        masks = deviation = None
        if self.cuts:
            draws = given_images.box_draws(count, generator)
            masks = given_images.box_masks(draws, self.size)
        if self.noisy is not None:
            deviation = self.level * torch.rand(count, generator=generator)
        return GivenParts(masks, deviation)

    def draw_each(self, image_seeds: Sequence[int]) -> GivenParts:
        """The same for single images, from the seed of each, without noise."""
        drawn = [self.draw(1, seeds.generator(seed, "given")) for seed in image_seeds]
        masks = [parts.masks for parts in drawn if parts.masks is not None]
        return GivenParts(torch.cat(masks) if masks else None)

    def condition(
        self, x0: Tensor, condition: Condition, parts: GivenParts, noise: Tensor | None
    ) -> tuple[Tensor, Condition]:
        """Images x0 (B, C, H, W), pairs beside them, as they are, and the condition of the network.

        noise: standard normal, of the size that `noisy` says.
        """
        if self.degradation is None:
            return x0[:, : self.channels], condition._replace(given=x0[:, self.channels :])
        left = given_images.degraded(x0, self.degradation, parts.masks)
        given = given_images.as_input(left, self.size, parts.deviation, noise)
        return x0, condition._replace(given=given, given_noise=parts.deviation)


def with_settings(config: RunConfig, pairs: Source | None) -> RunConfig:
    """The config with what follows from --given, or from the images of --given-data."""
    data, channels = config.data, config.network.channels
    if data.degradation is not None:
        given = data.degradation.channels(channels)
    else:
        given = 0 if pairs is None else pairs.native_channels
    network: dict[str, Any] = {"given_channels": given, "given_noise": data.given_level > 0}
    fingerprint = "" if pairs is None else pairs.fingerprint
    return updated(config, {"network": network, "data": {"given_fingerprint": fingerprint}})
