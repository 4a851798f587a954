"""MIND: closed forms, and the formula of the paper written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores import mind as module
from ddpm_cli.core.metrics.scores.mind import mind
from ddpm_cli.core.runtime.reporting import Silent


def store(rows: Tensor) -> FeatureStore:
    result = FeatureStore(rows.shape[1])
    result.append(rows)
    return result


def features(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_shift_has_its_closed_form() -> None:
    """Each projection is shifted by u.v alone: its mean square is |v|^2 / d, so MIND is 3 |v|^2."""
    x, v = features(40, 8, 0), features(1, 8, 1)
    value = mind(store(x), store(x + v), Silent()).value
    # The mean of (u.v)^2 over 1000 directions has the relative deviation sqrt(2/1000) or less.
    assert value == pytest.approx(3 * float(v.square().sum()), rel=0.15)
    directions = torch.randn(1000, 8, generator=torch.Generator().manual_seed(2020)).double()
    directions /= directions.norm(dim=1, keepdim=True)
    assert value == pytest.approx(24 * float((directions @ v[0].double()).square().mean()), 1e-5)


@pytest.mark.parametrize(("n_real", "n_fake"), [(50, 50), (70, 50), (50, 70)])
def test_mind_is_the_formula_of_the_paper_with_torch_fidelitys_draws(
    n_real: int, n_fake: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = features(n_real, 12, 0), 1.3 * features(n_fake, 12, 1)
    generator = torch.Generator().manual_seed(2020)
    n = min(n_real, n_fake)
    expected_x = x[torch.randperm(n_fake, generator=generator)[:n]] if n_fake > n else x
    expected_y = y[torch.randperm(n_real, generator=generator)[:n]] if n_real > n else y
    u = torch.randn(1000, 12, generator=generator)
    u = u / u.norm(dim=1, keepdim=True)
    total = 0.0
    for direction in u.numpy().astype(np.float64):
        a = np.sort(expected_x.numpy() @ direction)
        b = np.sort(expected_y.numpy() @ direction)
        total += float(np.square(a - b).mean())
    result = mind(store(y), store(x), Silent())
    assert result.value == pytest.approx(3 * 12 * total / 1000, rel=1e-6)
    assert result.n == n
    monkeypatch.setattr(module, "_VALUES", 7 * n)  # projected in many parts, the last smaller
    assert mind(store(y), store(x), Silent()).value == pytest.approx(result.value, rel=1e-12)


def test_of_equal_or_constant_features_it_is_zero() -> None:
    x = features(30, 5, 0)
    assert mind(store(x), store(x), Silent()).value == 0
    assert mind(store(x), store(x.flip(0)), Silent()).value < 1e-12
    assert mind(store(torch.ones(4, 5)), store(torch.ones(9, 5)), Silent()).value == 0


def test_one_image_is_too_few() -> None:
    with pytest.raises(DdpmError, match="MIND needs at least 2 images in each input, not 1"):
        mind(store(features(1, 5, 0)), store(features(9, 5, 1)), Silent())


def test_it_needs_fewer_images_than_the_frechet_distance() -> None:
    """The bias against real images at n = 100, as a part of the distance of unlike ones."""
    from ddpm_cli.core.metrics.scores.frechet import RootGaussian

    def frechet(a: Tensor, b: Tensor) -> float:
        return RootGaussian.of_rows(a).distance(RootGaussian.of_rows(b))

    real, same, unlike = features(100, 64, 0), features(100, 64, 1), 1.5 * features(100, 64, 2)
    bias = {
        "mind": mind(store(real), store(same), Silent()).value
        / mind(store(real), store(unlike), Silent()).value,
        "frechet": frechet(real, same) / frechet(real, unlike),
    }
    assert bias["mind"] < 0.5 * bias["frechet"]
