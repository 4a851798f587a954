"""Mean and covariance of features: gathered in a stream, merged across shards, kept in .npz."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.atomic import replacing

NPZ_LIMIT = 2**30  # bytes of a statistics file, unpacked: 2048 features need 34 million


class Moments:
    """Count, mean and scatter matrix of features, in float64 and in memory constant in n.

    The scatter is kept about the running mean and joined by the pairwise formula of Chan, Golub and
    LeVeque (1983): plain sums of x x^T lose digits where the mean is large against the spread. How
    the features are cut up does not matter, to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)  # (d,), once there are features
        self._scatter = torch.empty(0, 0)  # (d, d)

    def update(self, features: Tensor) -> None:
        """Take in features (n, d). Raises DdpmError where they are not finite."""
        if not bool(torch.isfinite(features).all()):
            raise DdpmError("features hold NaN or infinity: are the weights damaged?")
        x = (features.cpu() if features.device.type == "mps" else features).double()
        mean = x.mean(dim=0)
        x = x - mean
        self._join(len(x), mean, x.T @ x)

    def merge(self, other: Moments) -> None:
        """Take in another shard's moments."""
        if other.count:
            self._join(other.count, other._mean.clone(), other._scatter.clone())

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        total = self.count + count
        gap = mean.to(self._mean.device) - self._mean
        self._scatter += scatter.to(gap.device)
        self._scatter += torch.outer(gap, gap) * (self.count * count / total)
        self._mean += gap * (count / total)
        self.count = total

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean (d,)."""
        return np.asarray(self._mean.cpu().numpy())

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance (d, d), over n - 1. Raises DdpmError below 2 samples."""
        if self.count < 2:
            raise DdpmError(f"a covariance needs at least 2 images, not {self.count}")
        return np.asarray((self._scatter / (self.count - 1)).cpu().numpy())


@dataclass(frozen=True)
class Statistics:
    """What FID needs of one side, and how it was got."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int | None  # None: a file of another tool, which does not say
    protocol: str | None
    weights_sha256: str | None

    def write(self, path: Path) -> None:
        """Write pytorch-fid's .npz (mu, sigma) with n, protocol and weights_sha256 beside them."""
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                mu=self.mean,
                sigma=self.covariance,
                n=np.int64(self.n or 0),
                protocol=np.str_(self.protocol or ""),
                weights_sha256=np.str_(self.weights_sha256 or ""),
            )


def npz_members(path: Path) -> frozenset[str]:
    """List the arrays of an .npz without reading them. Raises DdpmError where it is none."""
    return frozenset(name.removesuffix(".npy") for name in _sizes(path))


def read_statistics(path: Path) -> Statistics:
    """Read statistics of ours or of pytorch-fid. Raises DdpmError, naming what is wrong."""
    size = sum(_sizes(path).values())
    if size > NPZ_LIMIT:
        raise DdpmError(f"{path} unpacks to {size:,} bytes; statistics have at most {NPZ_LIMIT:,}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean = np.asarray(arrays["mu"], dtype=np.float64)
            covariance = np.asarray(arrays["sigma"], dtype=np.float64)
            n = int(arrays["n"]) if "n" in arrays else 0
            protocol = str(arrays["protocol"]) if "protocol" in arrays else ""
            sha256 = str(arrays["weights_sha256"]) if "weights_sha256" in arrays else ""
    except KeyError as error:
        raise DdpmError(f"{path} lacks an array: statistics need mu and sigma") from error
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DdpmError(f"{path} holds no readable statistics: {error}") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu {mean.shape}, sigma {covariance.shape}"
        raise DdpmError(f"{path} does not hold a mean and its covariance: {shapes}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DdpmError(f"{path} holds NaN or infinity; make it again from the images")
    return Statistics(mean, covariance, n or None, protocol or None, sha256 or None)


def _sizes(path: Path) -> dict[str, int]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise DdpmError(f"{path} is not an .npz file, or cut short in copying") from error
    except OSError as error:
        raise DdpmError(f"cannot open {path}: {error.strerror or error}") from error
