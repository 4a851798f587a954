"""Streaming moments against numpy, and statistics files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics import statistics
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Moments, Statistics, read_statistics


def features(n: int = 300, d: int = 24, offset: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + offset


def moments(x: torch.Tensor, *sizes: int) -> Moments:
    result = Moments()
    for part in x.split(sizes or len(x)):
        result.update(part)
    return result


def agree(got: Moments, x: torch.Tensor, tolerance: float = 1e-10) -> bool:
    gap = np.abs(got.covariance - np.cov(x.numpy(), rowvar=False)).max()
    return bool(np.abs(got.mean - x.numpy().mean(axis=0)).max() < tolerance and gap < tolerance)


@pytest.mark.parametrize("sizes", [(300,), (1,) * 300, (7, 200, 93), (299, 1)])
def test_moments_equal_numpy_however_the_features_are_batched(sizes: tuple[int, ...]) -> None:
    x = features()
    got = moments(x, *sizes)
    assert got.count == 300
    assert agree(got, x)


def test_order_changes_nothing() -> None:
    x = features()
    assert agree(moments(x.flip(0), 100, 200), x)


def test_merged_shards_equal_the_whole_and_keep_their_own() -> None:
    x = features()
    shards = [moments(part) for part in x.split([10, 1, 150, 139])]
    before = [shard.covariance.copy() for shard in shards if shard.count > 1]
    whole = Moments()
    for shard in [*shards, Moments()]:
        whole.merge(shard)
    assert whole.count == 300
    assert agree(whole, x)
    after = [shard.covariance for shard in shards if shard.count > 1]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert shards[0].count == 10


def test_a_part_can_be_taken_out_again() -> None:
    x = features()
    rest = moments(x, 90, 210).without(moments(x[40:140]))
    assert rest.count == 200
    assert agree(rest, torch.cat([x[:40], x[140:]]))


def test_what_may_not_be_compared() -> None:
    one = FeatureOrigin("pytorch-fid", "ab", "fp32")
    assert one.conflict(one) is None
    assert (
        one.conflict(FeatureOrigin("pytorch-fid")) is None
    )  # does not say: not certainly different
    other = FeatureOrigin("pytorch-fid", "ab", features="dinov2-l")
    assert one.conflict(other) == ("--features", "inception", "dinov2-l")
    assert one.conflict(FeatureOrigin("local-features")) == ("--features", "inception", "local")
    assert one.conflict(FeatureOrigin("clean-fid", "ab")) == (
        "--protocol",
        "pytorch-fid",
        "clean-fid",
    )
    assert one.conflict(FeatureOrigin("pytorch-fid", "cd")) == ("--weights", "ab", "cd")
    assert one.conflict(FeatureOrigin("pytorch-fid", "ab", "bf16")) == (
        "--precision",
        "fp32",
        "bf16",
    )


def test_a_large_mean_costs_no_digits() -> None:
    """Plain sums of squares would keep about 16 - 2 * 7 digits here."""
    got = moments(features(offset=1e7), 50, 250)
    expected = np.cov(features().numpy(), rowvar=False)
    assert np.allclose(got.covariance, expected, rtol=1e-7, atol=1e-6)


def test_float32_features_are_summed_in_float64() -> None:
    x = features().float()
    assert agree(moments(x, 100, 200), x.double())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_must_be_finite(bad: float) -> None:
    x = features()
    x[17, 3] = bad
    with pytest.raises(DdpmError, match="NaN or infinity"):
        moments(x)


def test_a_covariance_needs_two() -> None:
    with pytest.raises(DdpmError, match="at least 2 images, not 1"):
        _ = moments(features(1)).covariance
    with pytest.raises(DdpmError, match="at least 2 images, not 0"):
        _ = Moments().covariance


def test_files_are_read_as_written_and_by_pytorch_fid(tmp_path: Path) -> None:
    got = moments(features())
    written = Statistics(
        got.mean,
        got.covariance,
        300,
        FeatureOrigin("pytorch-fid", "ab" * 32, "fp32", "bilinear"),
        "png",
    )
    written.write(tmp_path / "s.npz")
    read = read_statistics(tmp_path / "s.npz")
    assert (read.n, read.images) == (300, "png")
    assert read.origin == written.origin
    assert np.array_equal(read.mean, got.mean)
    assert np.array_equal(read.covariance, got.covariance)
    with np.load(tmp_path / "s.npz") as peer:  # as pytorch-fid does
        mu, sigma = peer["mu"][:], peer["sigma"][:]
    assert np.array_equal(mu, got.mean)
    assert np.array_equal(sigma, got.covariance)


def test_files_of_pytorch_fid_have_no_origin(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    read = read_statistics(tmp_path / "s.npz")
    assert (read.n, read.origin) == (None, FeatureOrigin())
    read.write(tmp_path / "again.npz")
    assert read_statistics(tmp_path / "again.npz").origin == FeatureOrigin()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "need mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu \(3,\) and sigma \(4, 4\)"),
        ({"mu": np.zeros((1, 3)), "sigma": np.eye(3)}, r"mu \(1, 3\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN or infinity"),
        ({"mu": np.zeros(2), "sigma": np.diag([1, np.inf])}, "NaN or infinity"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) + 0j}, "sigma is complex128, not real"),
        ({"mu": np.zeros(3) + 0j, "sigma": np.eye(3)}, "mu is complex128, not real"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) > 0}, "sigma is bool, not real"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "no features"),
        ({"mu": np.zeros(()), "sigma": np.zeros(())}, r"mu \(\) and sigma \(\)"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": np.diag([1, -2e-6])}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.4, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "n": np.int64(1)}, "n is 1"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "n": np.int64(-9)}, "n is -9"),
        ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "no readable statistics"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "no readable statistics"),  # a pickle
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DdpmError, match=message):
        read_statistics(tmp_path / "s.npz")


@pytest.mark.parametrize(
    "x",
    [
        features(2),
        features(5, offset=1e4),
        features(200),
        features(3).expand(3, 24) * 0 + 0.1,  # equal images
        torch.cat([features(4), features(4) * (1 + 1e-9)]) + 100,
        features(20) * 1e-12,
    ],
)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_statistics_of_images_pass(
    tmp_path: Path, x: torch.Tensor, kind: type[np.floating]
) -> None:
    """However few the images, or alike; in parts, without a part, and in single precision."""
    rest = moments(x, 1, len(x) - 1).without(moments(x[:1])) if len(x) > 2 else moments(x)
    for got in (moments(x, 1, len(x) - 1), rest):
        np.savez(tmp_path / "s.npz", mu=got.mean.astype(kind), sigma=got.covariance.astype(kind))
        assert np.array_equal(
            read_statistics(tmp_path / "s.npz").covariance, got.covariance.astype(kind)
        )


def test_rounding_is_no_fault(tmp_path: Path) -> None:
    """Asymmetry and negative eigenvalues within 1e-6 of the largest value."""
    sigma = np.diag([1.0, -5e-7, 2.0])
    sigma[0, 1] = 1e-7
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=sigma)
    assert np.array_equal(read_statistics(tmp_path / "s.npz").covariance, sigma)


def test_damaged_and_oversized_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, mu=np.ones(3), sigma=np.eye(3))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DdpmError, match=r"not an \.npz file"):
        read_statistics(path)
    at = data.index(np.eye(3).tobytes())
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    with pytest.raises(DdpmError, match="Bad CRC"):
        read_statistics(path)
    path.write_bytes(data)
    monkeypatch.setattr(statistics, "NPZ_LIMIT", 100)
    with pytest.raises(DdpmError, match="at most 100"):
        read_statistics(path)
    with pytest.raises(DdpmError, match="cannot open"):
        read_statistics(tmp_path / "gone.npz")
