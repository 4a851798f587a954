"""How far FID-infinity is from the true distance, and whether its error says so.

    python tests/benchmarks/infinity_error.py [--draws 200] [--images 5000] [--features 32]

Fakes are drawn from a Gaussian whose distance to the real one is known. A right error is as large
as the values' deviation over the draws, and 95 % of them lie within two of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.fid import fid_spread
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.infinity import fid_infinity
from ddpm_cli.core.runtime.reporting import SILENT


def drawn(draws: int, n: int, width: int) -> tuple[float, NDArray[np.float64]]:
    """The true distance, and (draws, 5): FID, its error, FID-infinity, its error, the fit's."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((width, width)) / width**0.5
    other = mixing + 0.15 * rng.standard_normal((width, width)) / width**0.5
    covariances = [m @ m.T + 0.1 * np.eye(width) for m in (mixing, other)]
    shift = 0.05 * rng.standard_normal(width)
    real, factor = Gaussian(np.zeros(width), covariances[0]), np.linalg.cholesky(covariances[1])
    rows = []
    for _ in range(draws):
        fake = FeatureStore(width)
        fake.append(torch.from_numpy(rng.standard_normal((n, width)) @ factor.T + shift))
        spread = fid_spread(real, fake, SILENT) or 0.0
        line = fid_infinity(real, fake, SILENT, spread)
        rows.append((line.fids[-1], spread, line.value, line.std, line.fit_std))
    return real.distance(shift, covariances[1]), np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--features", type=int, default=32)
    arguments = parser.parse_args()
    truth, rows = drawn(arguments.draws, arguments.images, arguments.features)
    fid, spread, value, std, fit_std = rows.T
    print(f"true distance {truth:.4f}; {arguments.draws} draws of {arguments.images} fakes")
    kinds = [
        ("FID", fid, spread),
        ("FID-infinity", value, std),
        ("the fit's alone", value, fit_std),
    ]
    for name, values, errors in kinds:
        within = np.mean(np.abs(values - truth) < 2 * errors)
        ratio = np.mean(errors**2) ** 0.5 / values.std(ddof=1)
        print(
            f"{name:16} off by {values.mean() - truth:+.4f}, deviation {values.std(ddof=1):.4f}, "
            f"error over deviation {ratio:.2f}, within two errors {within:.0%}"
        )


if __name__ == "__main__":
    main()
