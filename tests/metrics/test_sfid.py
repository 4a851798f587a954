"""sFID: which tensor of the network it is of, its distance, and ADM's statistics files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import inception as blocks

from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.evaluate import evaluate
from ddpm_cli.core.metrics.inputs.opening import ArrayImages
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.networks.inception import SPATIAL, Features, FidInception
from ddpm_cli.core.metrics.networks.protocols import TORCH_FIDELITY
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.statistics import SpatialStatistics, Statistics, read_statistics
from ddpm_cli.core.runtime.reporting import SILENT
from tests.support.inception_standin import standin_weights

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), dtype=np.uint8)


class Stand(FidInception):
    """A stand-in network: 12 features and 9 spatial ones, means of parts of the images."""

    width, classes = 12, 4

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.asked: list[bool] = []

    def forward(self, x: Tensor, *, spatial: bool = False) -> Features:
        self.asked.append(spatial)
        pool = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        places = functional.adaptive_avg_pool2d(x[:, :1], 3).flatten(1)
        return Features(pool, pool[:, :4], places if spatial else None)


def stand() -> Extractor:
    return Extractor(Stand(), "ab" * 32, TORCH_FIDELITY, CPU)


def folded(network: FidInception) -> FidInception:
    """As `load_inception` folds it, which the reference below does not."""
    for module in network.modules():
        if isinstance(module, blocks.BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
    return network


def test_it_is_of_the_first_7_channels_of_mixed_6_conv() -> None:
    """Mixed_6d's 1x1 branch by its own weights: convolution, batch norm, ReLU, channels last.

    In the graph of 2015 the blocks are mixed, mixed_1, … mixed_10, and Mixed_5b, 5c, 5d, 6a, 6b,
    6c, 6d, … here, so that mixed_6 is Mixed_6d; a node "conv" in it is its 1x1 branch after ReLU.
    """
    order = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    assert order[6] == "6d"
    weights = standin_weights()
    network = FidInception()
    network.load_state_dict(weights, strict=False)
    network.eval()
    inputs: list[Tensor] = []
    handle = network.Mixed_6d.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    x = 2 * torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        network(x)
        handle.remove()
        result = folded(network)(x, spatial=True)
        assert network(x).spatial is None
    name = "Mixed_6d.branch1x1"
    y = functional.conv2d(inputs[0], weights[f"{name}.conv.weight"])
    mean, var = weights[f"{name}.bn.running_mean"], weights[f"{name}.bn.running_var"]
    scale, shift = weights[f"{name}.bn.weight"], weights[f"{name}.bn.bias"]
    y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-3).sqrt()
    y = (y * scale[:, None, None] + shift[:, None, None]).clamp(min=0).numpy()
    expected = y.transpose(0, 2, 3, 1)[..., :7].reshape(2, -1)  # as ADM's evaluator flattens it
    assert result.spatial is not None
    assert result.spatial.shape == (2, SPATIAL) == (2, 2023)
    assert (expected > 0).mean() > 0.2
    # folded batch norms are the same in other roundings: 1e-4 of the largest, as other features
    assert np.abs(result.spatial.numpy() - expected).max() < 1e-4 * expected.max()


def moments_by_hand(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = TORCH_FIDELITY.prepare(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    places = functional.adaptive_avg_pool2d(x[:, :1], 3).flatten(1).double().numpy()
    return places.mean(axis=0), np.cov(places, rowvar=False)


def requested(*names: str, **settings: Any) -> RequestedMetrics:
    return RequestedMetrics.parse(",".join(names), spread=False, cache=False, **settings)


def test_sfid_is_the_frechet_distance_of_spatial_features(tmp_path: Path) -> None:
    real, fake = ArrayImages(IMAGES), ArrayImages(IMAGES[:5] // 2)
    extractor = stand()
    report, statistics = evaluate(real, fake, extractor, requested("fid", "sfid"), SILENT)
    (m1, s1), (m2, s2) = moments_by_hand(IMAGES), moments_by_hand(IMAGES[:5] // 2)
    values = linalg.eigvals(s1 @ s2).real.clip(min=0)
    expected = (m1 - m2) @ (m1 - m2) + np.trace(s1 + s2) - 2 * np.sqrt(values).sum()
    assert report.document()["sfid"] == pytest.approx(expected, rel=1e-4)
    assert report.lines().splitlines()[1].startswith("sFID ")
    assert extractor.network.asked == [True, True]
    # from a file the same; a file without spatial features says how to make one with them
    assert statistics is not None
    statistics.write(tmp_path / "real.npz")
    saved = read_statistics(tmp_path / "real.npz")
    again, _ = evaluate(saved, fake, stand(), requested("sfid"), SILENT)
    assert again.document()["sfid"] == pytest.approx(report.document()["sfid"], rel=1e-9)
    assert again.document()["fid"] is None
    assert again.notices()[0].startswith("n_real=6 and n_fake=5 are below 9: the covariance")
    without = stand()
    plain, statistics = evaluate(real, fake, without, requested("fid"), SILENT)
    assert (plain.document()["sfid"], without.network.asked) == (None, [False, False])
    assert statistics is not None
    with pytest.raises(DdpmError, match=r"given as REAL have no spatial features .*--save-real"):
        evaluate(statistics, fake, stand(), requested("sfid"), SILENT)


def test_identical_sets_and_constant_images_score_0() -> None:
    constant = ArrayImages(np.full((3, 8, 8, 3), 77, np.uint8))
    for images in (ArrayImages(IMAGES), constant):
        report, _ = evaluate(images, images, stand(), requested("fid", "sfid"), SILENT)
        assert report.document()["sfid"] == pytest.approx(0, abs=1e-6)


def test_adms_statistics_hold_images_that_are_not_read(tmp_path: Path, rng_arrays: Any) -> None:
    arrays = rng_arrays()
    path = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    np.savez(path, **arrays, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    read = read_statistics(path)
    assert read.spatial is not None
    assert np.array_equal(read.spatial.mean, arrays["mu_s"])
    assert np.array_equal(read.spatial.covariance, arrays["sigma_s"])
    assert read.origin.protocol is None


@pytest.fixture
def rng_arrays() -> Callable[..., dict[str, np.ndarray]]:
    """Arrays of a statistics file of 3 features and 5 spatial ones, with others in their place."""

    def arrays(**other: np.ndarray) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((3, 9)), rng.standard_normal((5, 9))
        known = {"mu": a.mean(axis=1), "sigma": np.cov(a), "mu_s": b.mean(axis=1)}
        return known | {"sigma_s": np.cov(b)} | other

    return arrays


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"sigma_s": np.eye(4)}, r"mu_s \(5,\) and sigma_s \(4, 4\) are not a mean"),
        ({"sigma_s": -np.eye(5)}, "sigma_s has negative eigenvalues"),
        ({"sigma_s": np.full((5, 5), np.nan)}, "NaN or infinity"),
        ({"mu_s": np.array(["a"] * 5)}, "mu_s is <U1, not real"),
        ({"mu_s": np.array([None] * 5)}, "holds no readable statistics"),
    ],
)
def test_damaged_spatial_statistics_are_refused(
    tmp_path: Path, rng_arrays: Any, other: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "s.npz", **rng_arrays(**other))
    with pytest.raises(DdpmError, match=message):
        read_statistics(tmp_path / "s.npz")


def test_half_of_the_spatial_statistics_are_refused(tmp_path: Path, rng_arrays: Any) -> None:
    arrays = rng_arrays()
    del arrays["sigma_s"]
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DdpmError, match="of mu_s and sigma_s both"):
        read_statistics(tmp_path / "s.npz")


def test_statistics_of_different_lengths_are_refused() -> None:
    def statistics(d: int) -> Statistics:
        spatial = SpatialStatistics(np.zeros(d), np.eye(d))
        return Statistics(np.zeros(2), np.eye(2), 9, spatial=spatial)

    with pytest.raises(DdpmError, match="5 and 6 features"):
        evaluate(statistics(5), statistics(6), None, requested("sfid"), SILENT)


def test_another_network_is_refused_before_it_runs() -> None:
    for network in ("local", "dinov2-l", "clip-l336"):
        said = "a classifier" if network == "local" else network
        with pytest.raises(UsageError, match=f"sfid is no score of the features of {said}"):
            RequestedMetrics.parse("fid,sfid" if network == "local" else "sfid", network=network)
