"""CMMD against its definition, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ddpm_cli.core.metrics import scoring
from ddpm_cli.core.metrics.collect import InputFeatures
from ddpm_cli.core.metrics.feature_store import BLOCK, FeatureStore
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.scores import cmmd as cmmd_module
from ddpm_cli.core.metrics.scores.cmmd import cmmd, kernel_mean
from ddpm_cli.core.metrics.scoring import RealSide
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics
from ddpm_cli.core.runtime.reporting import Silent


def embeddings(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Rows of length 1, as CLIP's (n, 48), not all in one direction."""
    x = torch.randn(n, 48, generator=torch.Generator().manual_seed(seed))
    return normalize(x + shift, dim=1)


def stored(rows: Tensor) -> FeatureStore:
    store = FeatureStore(rows.shape[1])
    store.append(rows)
    return store


def by_definition(x: Tensor, y: Tensor) -> float:
    """1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), diagonals included."""
    x, y = x.double(), y.double()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.exp(-squared / (2 * 10.0**2)).mean()

    return float(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)))


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("n, m", [(2, 2), (300, 170), (BLOCK + 30, BLOCK + 1)])
def test_the_definition(n: int, m: int, shift: float) -> None:
    real, fake = embeddings(n, 1), embeddings(m, 2, shift)
    value = cmmd(stored(real), stored(fake), Silent()).value
    # products in float32: 1e-6 is a thousandth of the last digit that papers print
    assert value == pytest.approx(by_definition(real, fake), rel=1e-5, abs=1e-6)


def test_the_mean_of_real_pairs_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fakes = stored(embeddings(30, 1)), [stored(embeddings(20, seed)) for seed in (2, 3)]
    expected = [cmmd(real, fake, Silent()).value for fake in fakes]
    pairs = []

    def counted(x: FeatureStore, y: FeatureStore, *rest: Any) -> float:
        pairs.append((x, y))
        return kernel_mean(x, y, *rest)

    for module in (scoring, cmmd_module):
        monkeypatch.setattr(module, "kernel_mean", counted)
    statistics = Statistics(np.zeros(48), np.eye(48), 30, FeatureOrigin("cmmd"))
    side = RealSide(InputFeatures(statistics, real), None)
    only = RequestedMetrics(frozenset({"cmmd"}))
    reports = [side.score(InputFeatures(statistics, fake), only, Silent()) for fake in fakes]
    assert [report.document()["cmmd"] for report in reports] == pytest.approx(expected, rel=1e-12)
    assert pairs.count((real, real)) == 1
    assert len(pairs) == 5


def test_equal_and_near_inputs() -> None:
    real = embeddings(400, 1)
    assert cmmd(stored(real), stored(real), Silent()).value == pytest.approx(0, abs=1e-9)
    near = normalize(real + 1e-3, dim=1)
    value = cmmd(stored(real), stored(near), Silent()).value
    assert value == pytest.approx(by_definition(real, near), abs=1e-6)


def test_the_farthest_embeddings() -> None:
    one = torch.zeros(5, 48)
    one[:, 0] = 1
    value = cmmd(stored(one), stored(-one), Silent()).value
    assert value == pytest.approx(2000 * (1 - torch.tensor(-4 / 200.0).exp().item()), rel=1e-6)
