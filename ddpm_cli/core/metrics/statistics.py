"""Mean and covariance of features: accumulated online, merged across shards, stored in .npz."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.config.choices import (
    INCEPTION,
    LOCAL,
    LOCAL_PROTOCOL,
    METRICS,
    score_name,
)
from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import write_bytes

NPZ_LIMIT = 2**30  # bytes of a statistics file, uncompressed: 2048 features need 34 million
_MEAN, _SPATIAL = ("mu", "sigma"), ("mu_s", "sigma_s")  # names of arrays
ROUNDING = 1e-6  # what rounding explains, of the largest value: float32 files have about 1e-7
_GROUPS = 8  # of features, in a fingerprint


class Moments:
    """Count, mean and scatter matrix of features, in float64, with memory constant in n.

    The scatter is about the running mean and merged by the pairwise formula of Chan, Golub and
    LeVeque (1983): plain sums of x x^T lose digits where the mean is large against the deviation.
    The result does not depend on how the features are batched, up to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)  # (d,) after the first update
        self._scatter = torch.empty(0, 0)  # (d, d)

    def update(self, features: Tensor) -> None:
        """Add features (n, d). Raises DdpmError where they are not finite."""
        if not bool(torch.isfinite(features).all()):
            raise DdpmError("features hold NaN or infinity: are the weights damaged?")
        x = (features.cpu() if features.device.type == "mps" else features).double()
        mean = x.mean(dim=0)
        x = x - mean
        self._merge(len(x), mean, x.T @ x)

    def merge(self, other: Moments) -> None:
        """Add another shard's moments."""
        if other.count:
            self._merge(other.count, other._mean.clone(), other._scatter.clone())

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        total = self.count + count
        gap = mean.to(self._mean.device) - self._mean
        self._scatter += scatter.to(gap.device)
        self._scatter += torch.outer(gap, gap) * (self.count * count / total)
        self._mean += gap * (count / total)
        self.count = total

    def without(self, subset: Moments) -> Moments:
        """Remove a subset of the features (the inverse of the pairwise formula)."""
        rest = Moments()
        rest.count = self.count - subset.count
        share = subset.count / rest.count
        gap = subset._mean - self._mean
        rest._mean = self._mean - gap * share
        rest._scatter = self._scatter - subset._scatter
        rest._scatter -= torch.outer(gap, gap) * (share * self.count)
        return rest

    def all_reduce(self, width: int) -> Moments:
        """Merge the moments of all ranks, of which some may have no features."""
        mean = self._mean if self.count else torch.zeros(width, dtype=torch.float64)
        scatter = self._scatter if self.count else torch.zeros(width, width, dtype=torch.float64)
        merged = Moments()
        merged.count = int(distributed.all_reduce_sum(torch.tensor(self.count)))
        merged._mean = distributed.all_reduce_sum(mean * self.count) / max(merged.count, 1)
        gap = mean.cpu() - merged._mean
        merged._scatter = distributed.all_reduce_sum(
            scatter.cpu() + self.count * torch.outer(gap, gap)
        )
        return merged

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
class FeatureOrigin:
    """How features were computed. Only features of the same origin are comparable."""

    protocol: str | None = None  # None: unknown, a file of another tool
    weights_sha256: str | None = None
    arithmetic: str | None = None  # "fp32" or "bf16"
    resize: str | None = None  # the protocol's description
    weights: str | None = None  # the weights file's name
    features: str | None = None  # the network's name; None: unknown, or a file from before names

    @property
    def network(self) -> str | None:
        """The network's name: files without it are of the Inception or of a local classifier."""
        if self.features or self.protocol is None:
            return self.features
        return LOCAL if self.protocol == LOCAL_PROTOCOL else INCEPTION

    @property
    def name(self) -> str | None:
        """The protocol's name in reports: bf16 has one of its own, "pytorch-fid-bf16"."""
        bf16 = self.protocol and self.arithmetic == "bf16"
        return f"{self.protocol}-bf16" if bf16 else self.protocol

    @property
    def local(self) -> bool:
        """Whether the features are a classifier's: its scores are labelled local, and no FID."""
        return self.network == LOCAL

    def label(self, score: str) -> str:
        """A score's name in these features: one that papers use for no other's."""
        return score_name(score, self.network)

    def conflict(self, other: FeatureOrigin) -> tuple[str, str, str] | None:
        """Find (option, own value, other value) where both are known and differ."""
        pairs = (
            ("--features", self.network, other.network),
            ("--protocol", self.protocol, other.protocol),
            (
                "--features" if self.local else "--weights",
                self.weights_sha256,
                other.weights_sha256,
            ),
            ("--precision", self.arithmetic, other.arithmetic),
        )
        differing = [(option, a, b) for option, a, b in pairs if a and b and a != b]
        return differing[0] if differing else None

    def describe(self) -> str:
        """Describe protocol, weights and arithmetic, for the line printed with a score."""
        protocol = f"{self.name}: {self.resize}" if self.resize else self.name
        if protocol and self.network not in (None, INCEPTION, LOCAL):
            protocol = f"{self.network}, {protocol}"
        sha256 = f"{self.weights_sha256[:8]}…" if self.weights_sha256 else "unknown"
        file = f"weights {self.weights} sha256:{sha256}" if self.weights else f"sha256:{sha256}"
        return (
            f"{protocol or 'unknown protocol'} | {file} | {self.arithmetic or 'unknown precision'}"
        )


class SpatialStatistics(NamedTuple):
    """Mean and covariance of one input's spatial features."""

    mean: NDArray[np.float64]  # (2023,), in the order of places, then channels
    covariance: NDArray[np.float64]  # (2023, 2023)


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of one input's features, with their origin."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int | None  # None: unknown, a file of another tool
    origin: FeatureOrigin = FeatureOrigin()
    images: str = "statistics"  # formats and sizes of the images: "png 32x32"
    spatial: SpatialStatistics | None = None  # for sFID

    @property
    def fingerprint(self) -> tuple[float, ...]:
        """Means of up to 8 groups of features, which tell images apart.

        Of the same images they agree to about 1e-5, whatever the device and the order, so a hash
        of the statistics would not do.
        """
        groups = np.array_split(self.mean, min(_GROUPS, len(self.mean)))
        return tuple(float(group.mean()) for group in groups)

    def write(self, path: Path) -> None:
        """Write pytorch-fid's .npz (mu, sigma), with n, origin and images as further arrays.

        Spatial statistics, where there are any, are ADM's mu_s and sigma_s.
        """
        origin: dict[str, Any] = {k: np.str_(v or "") for k, v in asdict(self.origin).items()}
        arrays: dict[str, Any] = {}
        if self.spatial is not None:
            arrays = dict(zip(_SPATIAL, self.spatial, strict=True))
        content = io.BytesIO()
        np.savez(
            content,
            mu=self.mean,
            sigma=self.covariance,
            n=np.int64(self.n or 0),
            images=np.str_(self.images),
            **origin,
            **arrays,
        )
        write_bytes(path, content.getvalue(), durable=True)


def npz_members(path: Path) -> frozenset[str]:
    """Names of the arrays in an .npz. Raises DdpmError where it is no .npz file."""
    return frozenset(name.removesuffix(".npy") for name in _sizes(path))


def read_statistics(path: Path) -> Statistics:
    """Read statistics written by `Statistics.write`, by pytorch-fid or for ADM's evaluator.

    The images that a file of the latter holds as well are not read. Raises DdpmError for a file
    that does not hold a mean and its covariance, which is real, symmetric and without negative
    eigenvalues: of other matrices a distance can be computed, but it means nothing.
    """
    names = [field.name for field in fields(FeatureOrigin)]
    known = {*_MEAN, *_SPATIAL, "n", "images", *names}
    size = sum(size for name, size in _sizes(path).items() if name.removesuffix(".npy") in known)
    if size > NPZ_LIMIT:
        raise DdpmError(
            f"{path} holds {size:,} bytes uncompressed; statistics have at most {NPZ_LIMIT:,}"
        )
    spatial = None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (_real(arrays[name], name, path) for name in _MEAN)
            if any(name in arrays for name in _SPATIAL):
                spatial = SpatialStatistics(*(_real(arrays[name], name, path) for name in _SPATIAL))
            n = int(arrays["n"]) if "n" in arrays else 0
            origin = {name: str(arrays[name]) or None for name in names if name in arrays}
            images = str(arrays["images"]) if "images" in arrays else "statistics"
    except KeyError as error:
        raise DdpmError(
            f"{path} lacks an array: statistics need mu and sigma, and of mu_s and sigma_s both"
        ) from error
    except (OSError, *DAMAGED_FILE) as error:
        raise DdpmError(f"{path} holds no readable statistics: {error}") from error
    if origin.get("features") not in (None, *METRICS):
        raise DdpmError(
            f"{path} holds statistics of the network {shortened(origin['features'])}, which is "
            f"none of {', '.join(METRICS)}"
        )
    fault = _fault(mean, covariance, n, _MEAN)
    if fault := fault or (spatial and _fault(*spatial, n, _SPATIAL)) or "":
        raise DdpmError(f"{path} holds no statistics: {fault}; make it again from the images")
    return Statistics(mean, covariance, n or None, FeatureOrigin(**origin), images, spatial)


def _real(array: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise DdpmError(f"{path} holds no readable statistics: {name} is {array.dtype}, not real")
    return array.astype(np.float64)


def _fault(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], n: int, names: tuple[str, str]
) -> str:
    """Why these are not the mean and the covariance of n images (0: unknown); "" if they are."""
    mu, sigma = names
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        return f"{mu} {mean.shape} and {sigma} {covariance.shape} are not a mean and its covariance"
    if len(mean) == 0:
        return "there are no features"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "there are NaN or infinity"
    if n < 0 or n == 1:
        return f"n is {n}, and a covariance needs at least 2 images"
    gap = np.abs(covariance - covariance.T).max()
    if gap > ROUNDING * np.abs(covariance).max():
        return f"{sigma} is not symmetric (its halves differ by up to {gap:.3g})"
    if _indefinite(covariance):
        return f"{sigma} has negative eigenvalues, which no covariance has"
    return ""


def _indefinite(covariance: NDArray[np.float64]) -> bool:
    """Whether an eigenvalue is further below 0 than rounding explains.

    Mostly a Cholesky factor answers, in a tenth of the time: of the matrix shifted by a part of the
    mean eigenvalue, which is at most that part of the largest.
    """
    matrix = torch.from_numpy(covariance)
    shift = ROUNDING * matrix.trace() / len(matrix)
    shifted = matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype)
    if shift > 0 and not torch.linalg.cholesky_ex(shifted).info:
        return False
    values = torch.linalg.eigvalsh(matrix)
    return bool(values[0] < -ROUNDING * values.abs().max())


def _sizes(path: Path) -> dict[str, int]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}
    except DAMAGED_FILE as error:
        raise DdpmError(f"{path} is not an .npz file, or is truncated") from error
    except OSError as error:
        raise DdpmError(f"cannot open {path}: {error.strerror or error}") from error
