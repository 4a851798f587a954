"""How well MIND and FID order sets of digits of rising noise, of few images of each.

    python tests/benchmarks/mind_ranking.py REAL TEST [--classifier FILE] [--images 100 200]
        [--draws 12]

REAL and TEST are archives of MNIST's training and test images; noise is added to the latter. The
features are a classifier's of `ddpm train-classifier`, or 2048 random ones. Printed is the mean of
Kendall's tau with the true order, of FID against 8000 real images, and of FID and MIND of as many
real images as fakes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.networks.extraction import load_local_extractor
from ddpm_cli.core.metrics.scores.frechet import RootGaussian
from ddpm_cli.core.metrics.scores.mind import mind
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import SILENT

NOISE = (0, 6, 10, 14, 18, 22)  # standard deviations in grey levels: near enough to be confused
REALS, WIDTH = 8000, 2048


def pixels(archive: str) -> Tensor:
    """uint8 (N, C, H, W), all of them."""
    images = open_input(archive)
    assert not isinstance(images, Statistics), f"{archive} holds no images"
    return torch.cat(list(images.batches(slice(0, len(images)))))


def extractor(classifier: Path | None) -> Callable[[Tensor], Tensor]:
    """Features (N, d) of uint8 images."""
    if classifier is not None:
        network = load_local_extractor(classifier, torch.device("cpu"), 64)
        return lambda x: torch.cat([f.pool for f in network.features(torch.split(x, 256))])
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(28 * 28, WIDTH, generator=generator) / 28
    bias = 0.3 * torch.randn(WIDTH, generator=generator)
    return lambda x: torch.relu((x[:, 0].float().flatten(1) / 127.5 - 1) @ matrix + bias)


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(round(deviation)))
    return (images + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def some(rows: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    return rows[torch.from_numpy(rng.choice(len(rows), n, replace=False))]


def stored(rows: Tensor) -> FeatureStore:
    store = FeatureStore(rows.shape[1])
    store.append(rows)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real")
    parser.add_argument("test")
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--draws", type=int, default=12)
    arguments = parser.parse_args()
    features, rng = extractor(arguments.classifier), np.random.default_rng(0)
    real, test = features(some(pixels(arguments.real), REALS, rng)), pixels(arguments.test)
    fakes = [features(noisy(test, deviation)) for deviation in NOISE]
    everything = RootGaussian.of_rows(real)
    for n in arguments.images:
        taus = []
        for _ in range(arguments.draws):
            reals = some(real, n, rng)
            few, values = RootGaussian.of_rows(reals), []
            for fake in fakes:
                chosen = some(fake, n, rng)
                of_fakes, value = (
                    RootGaussian.of_rows(chosen),
                    mind(stored(reals), stored(chosen), SILENT),
                )
                values.append((everything.distance(of_fakes), few.distance(of_fakes), value.value))
            taus.append([kendalltau(column, NOISE)[0] for column in np.transpose(values)])
        means = dict(zip(("FID against all", "FID", "MIND"), np.mean(taus, axis=0), strict=True))
        print(n, *(f"{name} {tau:.2f}" for name, tau in means.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
