"""The noise that sampling starts from, where it is not that of seeds: from a file, or between two.

It is standard normal; the sampler scales it to its first noise level.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.diffusion.interpolation import slerp
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line
from ddpm_cli.core.runtime.files import write_bytes


@dataclass(frozen=True)
class StartingNoise:
    """Noise of images, image i of a request starting from row i, in turn."""

    path: str  # where it is from, for the record
    values: NDArray[np.float32]  # (N, C, H, W)

    @classmethod
    def read(cls, path: Path, network: NetworkConfig) -> StartingNoise:
        """Noise from a .npy. Raises DdpmError for what is none, or of another network's size."""
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, *DAMAGED_FILE) as error:
            raise DdpmError(f"--noise {path} cannot be read: {first_line(error)}") from error
        return cls.of(values, network, str(path))

    @classmethod
    def of(cls, values: object, network: NetworkConfig, path: str) -> StartingNoise:
        """Noise as an array. Raises DdpmError for what is none, or of another network's size."""
        shape = network.channels, *network.size
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            raise DdpmError(f"--noise {path} is no .npy of floating point numbers")
        if values.ndim != 4 or values.shape[1:] != shape or not len(values):
            raise DdpmError(
                f"--noise {path} is {values.shape}, and the model starts from (N, "
                f"{', '.join(map(str, shape))})"
            )
        if not np.isfinite(values).all():
            raise DdpmError(f"--noise {path} has values that are not finite")
        return cls(path, values.astype(np.float32))

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def document(self) -> dict[str, str]:
        """What is recorded of it."""
        digest = hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()
        return {"noise": self.path, "noise_sha256": digest}

    def rows(self, indices: Sequence[int]) -> Tensor:
        """That of these images, (B, C, H, W)."""
        return torch.from_numpy(self.values[[index % len(self) for index in indices]])


def write(path: Path, values: NDArray[np.float32]) -> None:
    """Write noise (N, C, H, W) as .npy, float32, whole or not at all."""
    content = io.BytesIO()
    np.save(content, values)
    write_bytes(path, content.getvalue(), durable=False)


def between(one: Tensor, other: Tensor, count: int) -> Tensor:
    """`count` states from one noise (C, H, W) to another, both included, along a great circle.

    Such a path keeps the length that noise has, which a straight one does not.
    """
    path = slerp(
        one.expand(count, *one.shape), other.expand(count, *one.shape), torch.linspace(0, 1, count)
    ).to(one.dtype)
    path[0], path[-1] = one, other  # to the last bit
    return path
