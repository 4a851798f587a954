"""Random generators derived from keys.

A key is a tuple such as (seed, "noise", images seen). The same key gives the same numbers after a
resume, on any number of processes and in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive(*key: int | str) -> int:
    """A 63-bit seed: a hash of the key (BLAKE2b)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator seeded by the key."""
    return torch.Generator(device).manual_seed(derive(*key))


class ImageNoise:
    """Standard normal noise for a batch, image i from its own seed.

    Sampled on the CPU with one generator per image, so that batch size, number of processes and
    device do not change an image. A GPU does not wait for it: while it computes a step, the noise
    of the next is drawn.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device,
        key: str = "image",
        first: Tensor | None = None,
    ) -> None:
        """`key`: of numbers that are independent of those of another key. `first`: in place of the
        first draw."""
        self._first = first
        self._generators = [generator(seed, key) for seed in seeds]
        self._shape = shape
        self._device = device

    def __call__(self) -> Tensor:
        """The next noise: float32 (B, C, H, W)."""
        pinned = self._device.type == "cuda"  # which a copy that does not wait needs
        noise = torch.empty(len(self._generators), *self._shape, pin_memory=pinned)
        for row, source in zip(noise, self._generators, strict=True):
            row.normal_(generator=source)
        if self._first is not None:
            noise.copy_(self._first)
            self._first = None
        return noise.to(self._device, non_blocking=pinned)
