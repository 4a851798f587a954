"""What every feature network is: a function from prepared images to features."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Features(NamedTuple):
    """A network's outputs for N images, float32."""

    pool: Tensor  # (N, width): a vector of each image, for distances
    logits: Tensor | None = None  # (N, classes); None: the network knows no classes
    spatial: Tensor | None = None  # (N, 2023): of the Inception network where asked for, for sFID


class FeatureNetwork(Protocol):
    """A network from prepared images to features."""

    @property
    def width(self) -> int:
        """The dimension of Features.pool."""

    @property
    def classes(self) -> int | None:
        """The dimension of Features.logits; None: there are none."""

    def __call__(self, x: Tensor) -> Features:
        """Run on prepared images (N, C, H, W)."""
