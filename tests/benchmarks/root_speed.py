"""Seconds for Tr (S1 S2)^(1/2) at 2048 dimensions, compared with scipy's sqrtm.

python tests/benchmarks/root_speed.py [--pairs 3] [--dimensions 2048]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import scipy.linalg

from ddpm_cli.core.metrics.scores.frechet import trace_of_root


def covariance(dimensions: int, seed: int) -> np.ndarray:
    """Covariance of features with a decaying spectrum, as those of images have."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * dimensions, dimensions)) / np.sqrt(np.arange(1, dimensions + 1))
    return np.cov(x @ np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0], rowvar=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--dimensions", type=int, default=2048)
    options = parser.parse_args()
    s1, s2 = (covariance(options.dimensions, seed) for seed in (0, 1))
    ratios = []
    for pair in range(options.pairs):
        started = time.perf_counter()
        value = trace_of_root(s1, s2)
        middle = time.perf_counter()
        reference = float(np.trace(scipy.linalg.sqrtm(s1 @ s2)).real)
        ended = time.perf_counter()
        ratios.append((ended - middle) / (middle - started))
        print(
            f"pair {pair + 1}: trace_of_root {middle - started:.2f} s, "
            f"sqrtm {ended - middle:.2f} s, "
            f"ratio {ratios[-1]:.1f}, relative difference {abs(value / reference - 1):.1e}"
        )
    print(f"median ratio {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
