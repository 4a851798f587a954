"""Nearest neighbours of features, against torch's product of the same shapes, and their memory.

    python tests/benchmarks/neighbours.py [--points 50000] [--queries 4096] [--rounds 2]
        [--threads 1] [--device cpu]

Queries are a share of as many images as there are points, for which the time is extrapolated.
Seconds are of the processor on a CPU, of the clock on a GPU; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.neighbours import BLOCKS, nearest
from ddpm_cli.core.runtime.devices import synchronise
from ddpm_cli.core.runtime.reporting import SILENT

WIDTH, K = 2048, 5


def stored(count: int, seed: int) -> FeatureStore:
    """Random features, on disk."""
    store, generator = FeatureStore(WIDTH), torch.Generator().manual_seed(seed)
    for start in range(0, count, 1000):
        store.append(torch.randn(min(1000, count - start), WIDTH, generator=generator).abs())
    return store


def seconds(work: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    work()
    synchronise(device)
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("points", 50_000), ("queries", 4096), ("rounds", 2), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    points, queries = stored(options.points, 0), stored(options.queries, 1)
    rows, columns = BLOCKS["cuda" if device.type == "cuda" else "cpu"]
    rows, columns = min(rows, options.queries), min(columns, options.points)
    x, y = torch.rand(rows, WIDTH, device=device), torch.rand(columns, WIDTH, device=device)
    norms = torch.rand(rows, columns, device=device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, products = [], []
    for _ in range(options.rounds):
        ours.append(seconds(lambda: nearest(queries, points, K, SILENT, device), device))
        once = [seconds(lambda: torch.addmm(norms, x, y.T, alpha=-2), device) for _ in range(5)]
        products.append(min(once) * options.queries * options.points / (rows * columns))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    operations = 2 * options.queries * options.points * WIDTH
    for name, taken in (("nearest", min(ours)), ("torch.addmm", min(products))):
        whole = taken * options.points / options.queries
        print(
            f"{name}: {taken:.1f} s, {operations / taken / 1e9:,.0f} GFLOP/s; of "
            f"{options.points:,} x {options.points:,}: {whole:,.0f} s (extrapolated)"
        )
    print(f"ratio {min(ours) / min(products):.2f}; peak memory {more:.0f} MiB more than before")


if __name__ == "__main__":
    main()
