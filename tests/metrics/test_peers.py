"""The same numbers as the commonly cited tools, each under its own protocol.

Ours and theirs have the same stand-in weights. The images are shapes, and noisy ones of mixed
sizes; with DDPM_TEST_PICTURES=FOLDER also those of FOLDER/cifar10-test.zip and mnist-test.zip.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.metrics.evaluate import evaluate_inception_score
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, load_extractor
from ddpm_cli.core.metrics.networks.inception import FidInception
from ddpm_cli.core.metrics.networks.protocols import (
    CLEAN_FID,
    PYTORCH_FID,
    TORCH_FIDELITY,
    Protocol,
)
from ddpm_cli.core.metrics.scores.frechet import frechet_distance
from ddpm_cli.core.metrics.scores.kid import squared_mmd
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.inception_standin import standin_weights

CPU = torch.device("cpu")
N = 9  # images in each input
WIDTH = 8  # features compared as distances: the peers' roots of 2048 x 2048 take half a minute each

Floats = np.ndarray[Any, np.dtype[np.float64]]
Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "standin.pth"
    torch.save(standin_weights(), path)
    return path


@pytest.fixture(scope="module", params=["shapes", "cifar10", "mnist"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two folders of images as (real, fake)."""
    root = tmp_path_factory.mktemp(request.param)
    real, fake = root / "real", root / "fake"
    if request.param == "shapes":
        return draw_shapes(real, 0), draw_shapes(fake, 40)
    archive = Path(os.environ.get("DDPM_TEST_PICTURES", "")) / f"{request.param}-test.zip"
    if not archive.is_file():
        pytest.skip(f"DDPM_TEST_PICTURES names no folder with {archive.name}")
    listing = open_image_files(archive)
    for i in range(2 * N):  # of all classes: names come sorted by class
        data = listing.read(i * (len(listing.names) // (2 * N)))
        folder = (real, fake)[i % 2]
        folder.mkdir(exist_ok=True)
        # grey digits as RGB, as the peers' own loaders convert them
        Image.open(BytesIO(data)).convert("RGB").save(folder / f"{i:02}.png")
    return real, fake


def draw_shapes(folder: Path, noise: float) -> Path:
    """Shapes of 32x32, or noisy ones of mixed sizes."""
    source, rng = Shapes(), np.random.default_rng(0)
    folder.mkdir()
    for i in range(N):
        size = (24 + 7 * i, 40) if noise else (32, 32)
        pixels = source.image(i, Transform(3, size)) + noise * rng.standard_normal((3, *size))
        image = pixels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder


def ours(weights: Path, protocol: Protocol) -> Extractor:
    return load_extractor(weights, protocol, CPU, 8, Silent())


def features(extractor: Extractor, folder: Path) -> tuple[Floats, Floats]:
    image_set = open_input(folder)
    assert not isinstance(image_set, Statistics)
    batches = list(extractor.features(image_set.batches(slice(None))))
    logits = [batch.logits for batch in batches if batch.logits is not None]
    pool = torch.cat([batch.pool for batch in batches])
    return pool.double().numpy(), torch.cat(logits).double().numpy()


def read_images(folder: Path) -> list[Floats]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def their_pytorch_fid(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], Tensor]:
    module = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: torch.load(weights))
    network = module.InceptionV3().eval()
    return lambda x: network(x)[0].flatten(1)


def check(ours: Floats, theirs: list[Tensor]) -> Floats:
    them = torch.cat(theirs).double().numpy()
    assert np.abs(ours - them).max() < 1e-4 * max(1, np.abs(them).max())
    return them


def moments(x: Floats) -> tuple[Floats, Floats]:
    return x[:, :WIDTH].mean(axis=0), np.cov(x[:, :WIDTH], rowvar=False)


def their_distance(distance: Any, one: Floats, other: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(distance(*moments(one), *moments(other)))


def our_distance(pools: list[Floats]) -> float:
    one, other = map(moments, pools)
    return frechet_distance(*one, *other)


@torch.no_grad()
def test_pytorch_fid(weights: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    score = pytest.importorskip("pytorch_fid.fid_score")
    network, extractor = their_pytorch_fid(weights, monkeypatch), ours(weights, PYTORCH_FID)
    pools, theirs = [features(extractor, folder)[0] for folder in folders], []
    for folder, pool in zip(folders, pools, strict=True):
        tensors = [
            torch.from_numpy(p.copy()).permute(2, 0, 1)[None] / 255 for p in read_images(folder)
        ]
        theirs.append(check(pool, [network(x) for x in tensors]))
    expected = their_distance(score.calculate_frechet_distance, *theirs)
    assert our_distance(pools) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_torch_fidelity(weights: Path, folders: Folders) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    distances = pytest.importorskip("torch_fidelity.metric_fid")
    scores = pytest.importorskip("torch_fidelity.metric_isc")
    network = peer.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    )
    extractor = ours(weights, TORCH_FIDELITY)
    pools, their_pools, logits = [], [], []
    for folder in folders:
        tensors = [torch.from_numpy(p.copy()).permute(2, 0, 1)[None] for p in read_images(folder)]
        outputs = [network(x) for x in tensors]
        pool, unbiased = features(extractor, folder)
        check(pool, [each[0] for each in outputs])
        check(unbiased, [each[1] for each in outputs])
        pools.append(pool)
        their_pools.append(torch.cat([each[0] for each in outputs]))
        logits.append(torch.cat([each[1] for each in outputs]))
    statistics = [distances.fid_features_to_statistics(x[:, :WIDTH]) for x in their_pools]
    theirs = distances.fid_statistics_to_metric(*statistics, verbose=False)
    expected = theirs[distances.KEY_METRIC_FID]
    assert our_distance(pools) == pytest.approx(expected, rel=1e-3)
    theirs = scores.isc_features_to_metric(logits[1], splits=3)
    image_set = open_input(folders[1])
    result = evaluate_inception_score(image_set, extractor, 3, Silent())  # type: ignore[arg-type]
    assert result.mean == pytest.approx(theirs[scores.KEY_METRIC_ISC_MEAN], rel=1e-4)
    assert result.std == pytest.approx(theirs[scores.KEY_METRIC_ISC_STD], abs=1e-4)


@torch.no_grad()
def test_clean_fid(weights: Path, folders: Folders) -> None:
    peer = pytest.importorskip("cleanfid.fid")
    extractor = ours(weights, CLEAN_FID)
    network = extractor.network
    assert isinstance(network, FidInception)
    theirs = [
        peer.get_folder_features(
            str(folder),
            model=lambda x: network((x - 128) / 128).pool,
            num_workers=0,
            batch_size=4,
            device=CPU,
            mode="clean",
            verbose=False,
        )
        for folder in folders
    ]
    pools = [features(extractor, folder)[0] for folder in folders]
    for pool, them in zip(pools, theirs, strict=True):
        check(pool, [torch.from_numpy(them)])
    doubles = [them.astype(np.float64) for them in theirs]
    expected = their_distance(peer.frechet_distance, *doubles)
    assert our_distance(pools) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_torchmetrics(weights: Path, folders: Folders) -> None:
    """It takes features of any network, so only its scores are compared, not its resize."""
    image = pytest.importorskip("torchmetrics.image.fid")
    kernel = pytest.importorskip("torchmetrics.image.kid")
    extractor = ours(weights, PYTORCH_FID)

    class Identity(torch.nn.Module):
        """Features as they are."""

        num_features = WIDTH

        def forward(self, x: Tensor) -> Tensor:
            return x

    both = [features(extractor, folder)[0] for folder in folders]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = image.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
        kid = kernel.KernelInceptionDistance(feature=Identity(), subsets=2, subset_size=N)
        for x, real in zip(both, (True, False), strict=True):
            fid.update(torch.from_numpy(x[:, :WIDTH]), real=real)
            kid.update(torch.from_numpy(x), real=real)
        expected, (expected_kid, _) = float(fid.compute()), kid.compute()
    assert our_distance(both) == pytest.approx(expected, rel=1e-3)
    outputs = squared_mmd(*(torch.from_numpy(x) for x in both))
    assert outputs == pytest.approx(float(expected_kid), rel=1e-3, abs=1e-5)
