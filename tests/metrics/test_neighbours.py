"""KID, precision, recall, density, coverage, FID's standard error and floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics import feature_store
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores import kid as kid_module
from ddpm_cli.core.metrics.scores import neighbours
from ddpm_cli.core.metrics.scores import prdc as prdc_module
from ddpm_cli.core.metrics.scores.fid import fid_floor, fid_spread
from ddpm_cli.core.metrics.scores.frechet import Gaussian, frechet_distance
from ddpm_cli.core.metrics.scores.kid import kid, squared_mmd
from ddpm_cli.core.metrics.scores.neighbours import nearest
from ddpm_cli.core.metrics.scores.prdc import prdc
from ddpm_cli.core.runtime.reporting import Silent


def normal(n: int, d: int = 16, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def stored(features: Tensor) -> FeatureStore:
    store = FeatureStore(features.shape[1])
    for part in features.split(7):
        store.append(part)
    return store


def test_stored_rows_are_read_unchanged(tmp_path: Path) -> None:
    x = normal(100)
    store = stored(x)
    assert len(store) == 100
    assert torch.equal(torch.cat(list(store.blocks(33))), x)
    chosen = np.array([99, 0, 5, 5, 98])
    assert torch.equal(store.take(chosen), x[torch.from_numpy(chosen)])
    store.save(tmp_path / "f32")
    again = FeatureStore.open(tmp_path / "f32", 16)
    assert torch.equal(again.block(0, 1000), x)
    assert len(stored(torch.empty(0, 3))) == 0
    with pytest.raises(DdpmError, match="nowhere"):
        FeatureStore.open(tmp_path / "nowhere", 16)


def test_mmd_by_the_definition() -> None:
    x, y = normal(9).double(), normal(9, seed=1, shift=0.3).double()
    k = lambda a, b: (float(a @ b) / 16 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(9) for j in range(9)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (9 * 8)
    across = sum(k(x[i], y[j]) for i, j in pairs) / 81
    assert squared_mmd(x, y) == pytest.approx(within - 2 * across, rel=1e-10)


def test_mmd_is_unbiased() -> None:
    """Of equal distributions it is 0 on average, so sometimes negative."""
    values = [squared_mmd(normal(20, seed=i), normal(20, seed=1000 + i)) for i in range(300)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / 300**0.5


def test_kid_of_fewer_images_than_a_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(30), normal(40, seed=1, shift=0.5)
    result = kid(stored(real), stored(fake), Silent())
    assert result.size == 30
    assert result.mean > 3 * result.std > 0
    same = kid(stored(real), stored(fake[:30]), Silent())
    assert same == (pytest.approx(squared_mmd(real, fake[:30])), 0.0, 30)
    monkeypatch.setattr(kid_module, "SUBSET_SIZE", 10)
    assert kid(stored(real), stored(fake), Silent()).std > result.std
    with pytest.raises(DdpmError, match="at least 2 images"):
        kid(stored(real[:1]), stored(fake), Silent())


def test_kid_equals_torch_fidelity() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_kid")
    real, fake = normal(60, 2048).abs(), normal(70, 2048, 1, 0.05).abs()
    theirs = peer.kid_features_to_metric(fake, real, kid_subset_size=60, verbose=False)
    ours = kid(stored(real), stored(fake), Silent())
    assert ours.mean == pytest.approx(theirs[peer.KEY_METRIC_KID_MEAN], abs=1e-5)
    assert ours.std == pytest.approx(theirs[peer.KEY_METRIC_KID_STD], abs=1e-5)


def by_hand(real: Tensor, fake: Tensor) -> tuple[float, ...]:
    """The four scores and the copies, from matrices of differences in float64."""
    real, fake = real.double(), fake.double()
    pairs = ((fake, real), (real, real), (fake, fake))
    direct = "donot_use_mm_for_euclid_dist"
    d, own_real, own_fake = (torch.cdist(x, y, compute_mode=direct) for x, y in pairs)
    three = own_real.kthvalue(4).values, own_fake.kthvalue(4).values
    five = own_real.kthvalue(6).values
    return (
        float((d <= three[0]).any(1).double().mean()),
        float((d <= three[1][:, None]).any(0).double().mean()),
        float((d < five).double().sum() / (5 * len(fake))),
        float((d < five).any(0).double().mean()),
        int((d <= 0.01 * three[0]).any(1).sum()),
    )


@pytest.mark.parametrize("block", [5, 2048])
def test_prdc_by_the_definition_in_any_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setitem(neighbours.BLOCKS, "cpu", (block, 2 * block // 3))
    real, fake = normal(53, 4, shift=9.0), normal(67, 4, 1, 9.5)
    result = prdc(stored(real), stored(fake), Silent())
    assert result == pytest.approx(by_hand(real, fake), rel=1e-12)
    assert 0.2 < result.precision < 1
    assert 0.2 < result.recall < 1


def nearest_by_hand(queries: Tensor, points: Tensor, k: int, itself: bool) -> Tensor:
    """Rows by differences in float64, of equally near ones the lower first."""
    mode = "donot_use_mm_for_euclid_dist"
    d = torch.cdist(queries.double(), points.double(), compute_mode=mode)
    if itself:
        d.fill_diagonal_(torch.inf)
    return d.sort(dim=1, stable=True).indices[:, :k]


@pytest.mark.parametrize("blocks", [(2048, 1024), (16, 16), (9, 5), (5, 9), (1, 1)])
@pytest.mark.parametrize("itself", [False, True])
def test_the_nearest_by_the_definition(
    monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int], itself: bool
) -> None:
    """Of whole numbers, many of which are equally near, in any blocks."""
    monkeypatch.setitem(neighbours.BLOCKS, "cpu", blocks)
    points = normal(47, 3).mul(2).round()
    queries = points if itself else normal(31, 3, 1).mul(2).round()
    found = nearest(stored(queries), stored(points), 6, Silent(), itself=itself)
    rows = nearest_by_hand(queries, points, 6, itself)
    assert torch.equal(found.rows, rows)
    assert torch.equal(found.squared, (queries[:, None] - points[rows]).square().sum(2))
    assert found.squared.dtype == torch.float32


def test_the_nearest_among_near_duplicates() -> None:
    real, fake = crowds(150, 1e-4, 100, 0), crowds(170, 1e-4, 100, 1)
    for queries, itself in ((fake, False), (real, True)):
        found = nearest(stored(queries), stored(real), 5, Silent(), itself=itself)
        assert torch.equal(found.rows, nearest_by_hand(queries, real, 5, itself))


def test_an_equal_image_in_another_row_is_a_neighbour() -> None:
    points = normal(5, 8).repeat(2, 1)
    found = nearest(stored(points), stored(points), 9, Silent(), itself=True)
    assert found.rows[:, 0].tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert not found.squared[:, 0].any()
    assert found.rows.sort(dim=1).values.tolist() == [
        [row for row in range(10) if row != own] for own in range(10)
    ]
    with pytest.raises(ValueError, match="10 neighbours of 9 points"):
        nearest(stored(points), stored(points), 10, Silent(), itself=True)


def crowds(n: int, spread: float, offset: float, seed: int, groups: int = 8) -> Tensor:
    """Images that are nearly equal within each of a few groups, far from the origin."""
    centres = normal(groups, 48, seed=99) + offset
    return centres.repeat(-(-n // groups), 1)[:n] + spread * normal(n, 48, seed)


@pytest.mark.parametrize(("spread", "offset"), [(1.0, 0), (1e-2, 0), (1e-4, 0), (1e-2, 500)])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("block", [50, 2048])
def test_prdc_of_near_duplicates(
    monkeypatch: pytest.MonkeyPatch, spread: float, offset: float, groups: int, block: int
) -> None:
    monkeypatch.setitem(neighbours.BLOCKS, "cpu", (block, 2 * block // 3))
    real = crowds(150, spread, offset, 0, groups)
    fake = crowds(170, 0.9 * spread, offset, 1, groups)
    result = prdc(stored(real), stored(fake), Silent())
    assert result == pytest.approx(by_hand(real, fake), rel=1e-12)
    assert 0.1 < result.precision < 1


def test_prdc_of_duplicates() -> None:
    """Equal images are at a distance of 0 from each other, neither more nor less."""
    few, others = normal(9, 48) + 30, normal(40, 48, 1) + 30
    real, fake = torch.cat([few.repeat(5, 1), others]), torch.cat([few, others[:20]]).repeat(2, 1)
    assert prdc(stored(real), stored(fake), Silent()) == pytest.approx(by_hand(real, fake))


def test_kid_of_features_far_from_the_origin() -> None:
    """Of 1,000 in each dimension, a cube in float32 would be off by more than the distance."""
    real, fake = normal(200, 48) + 1000, normal(200, 48, 1) + 1000
    expected = squared_mmd(real.double(), fake.double())
    assert squared_mmd(real, fake) == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_equal_torch_fidelity() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(200, 6), normal(150, 6, 1, 0.6)
    result = prdc(stored(real), stored(fake), Silent())
    precision, recall = peer.calculate_precision_recall_part(fake, real)
    assert (result.precision, result.recall) == (pytest.approx(precision), pytest.approx(recall))
    assert result.precision != result.recall


def test_a_collapsed_generator_has_high_precision_and_low_recall() -> None:
    real = normal(400, 8)
    fake = real[7] + 0.05 * normal(400, 8, 1)
    result = prdc(stored(real), stored(fake), Silent())
    assert result.precision > 0.95
    assert result.recall < 0.05
    assert result.coverage < 0.2
    swapped = prdc(stored(fake), stored(real), Silent())
    assert swapped.precision < 0.05 < 0.95 < swapped.recall


def test_equal_distributions_and_copies() -> None:
    real = normal(500, 4)
    result = prdc(stored(real), stored(normal(500, 4, 1)), Silent())
    assert result.density == pytest.approx(1, abs=0.1)
    assert result.coverage > 0.9
    copies = prdc(stored(real), stored(real), Silent())
    assert (copies.precision, copies.recall, copies.coverage) == (1, 1, 1)
    assert (copies.copies, result.copies) == (500, 0)
    with pytest.raises(DdpmError, match="at least 6 images"):
        prdc(stored(real[:5]), stored(real), Silent())


def gaussian(x: Tensor) -> Gaussian:
    return Gaussian(x.double().mean(0).numpy(), np.cov(x.double().numpy(), rowvar=False))


def fid(real: Gaussian, x: Tensor) -> float:
    other = gaussian(x)
    return real.distance(other.mean, other.covariance)


def test_the_standard_error_is_that_of_new_samples() -> None:
    real = gaussian(normal(5000, 6))
    draws = [normal(400, 6, seed, 0.3) for seed in range(1, 41)]
    expected = np.std([fid(real, x) for x in draws])
    result = [fid_spread(real, stored(x), Silent()) for x in draws[:8]]
    assert 0.6 * expected < np.mean([s for s in result if s is not None]) < 1.6 * expected
    assert fid_spread(real, stored(draws[0][:3]), Silent()) is None


def test_the_floor_is_real_against_other_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "BLOCK", 16)
    real = normal(1000, 6)
    value, n = fid_floor(stored(real), 50)
    assert n == 50
    many, half = fid_floor(stored(real), 5000)
    assert half == 500
    assert 0 < many < value / 3
    order = np.random.RandomState(2020).permutation(1000)
    one, other = (
        gaussian(real[torch.from_numpy(part.copy())]) for part in (order[:50], order[50:100])
    )
    expected = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    assert value == pytest.approx(expected, rel=1e-6)


def test_very_many_images_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(300, 4, 0), normal(200, 4, 1)
    rows = stored(real).subsample(40)
    chosen = np.sort(np.random.RandomState(2020).permutation(300)[:40])
    assert torch.equal(rows.take(np.arange(40)), real[chosen].float())
    monkeypatch.setattr(prdc_module, "MAX_IMAGES", 40)
    result = prdc(stored(real), stored(fake), Silent())
    fewer = prdc(rows, stored(fake).subsample(40), Silent())
    assert result == fewer
