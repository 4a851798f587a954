"""FID and IS from pictures to the printed line, with a network that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.evaluate import RequestedMetrics, evaluate, evaluate_inception_score
from ddpm_cli.core.metrics.extraction import Extractor, load_extractor
from ddpm_cli.core.metrics.images import NpzImages
from ddpm_cli.core.metrics.inception import PUBLISHED, Features, FidInception
from ddpm_cli.core.metrics.inputs import ScoreInput, open_input
from ddpm_cli.core.metrics.protocols import PYTORCH_FID, TORCH_FIDELITY, Protocol
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.scores import frechet_distance, inception_score
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.reporting import Reporter, Silent
from tests.support.inception_standin import standin_weights

CPU = torch.device("cpu")


class Pooled(FidInception):
    """In the network's place: 12 features that are averages of quarters of the picture."""

    width = 12
    classes = 12

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Features:
        assert x.shape[1:] == (3, 299, 299)
        self.batches.append(len(x))
        pool = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return Features(pool, pool * 5)


def extractor(how: Protocol = PYTORCH_FID, batch: int = 64) -> Extractor:
    return Extractor(Pooled(), "ab" * 32, how, CPU, batch)


class Ear(Silent):
    """Keeps what is said and how far the bar went."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.done: list[float] = []

    def say(self, message: str) -> None:
        self.heard.append(message)

    def update(self, done: float, note: str = "") -> None:
        self.done.append(done)


def judge_fid(
    real: ScoreInput, fake: ScoreInput, how: Extractor | None, reporter: Reporter
) -> tuple[Report, Statistics]:
    wanted = RequestedMetrics(frozenset({"fid"}), spread=False, cache=False)
    report, statistics = evaluate(real, fake, how, wanted, reporter)
    assert statistics is not None
    assert report.fid is not None
    return report, statistics


def write(path: Path, n: int, seed: int, side: int = 299, bright: int = 256) -> Path:
    """An .npz of n pictures, at the network's own size unless told: resizing leaves them alone."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, bright, (n, 4, 4, 3), dtype=np.uint8)
    pixels = np.arange(side) * 4 // side
    np.savez(path, arr_0=coarse[:, pixels][:, :, pixels])
    return path


def images(path: Path) -> NpzImages:
    side = open_input(path)
    assert isinstance(side, NpzImages)
    return side


def features_by_hand(path: Path) -> np.ndarray:
    x = torch.from_numpy(np.load(path)["arr_0"]).permute(0, 3, 1, 2).double() / 127.5 - 1
    return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1).numpy()


def test_fid_of_arrays(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0), write(tmp_path / "f.npz", 40, 1, bright=200)
    ear = Ear()
    result, statistics = judge_fid(images(real), images(fake), extractor(), ear)
    a, b = features_by_hand(real), features_by_hand(fake)
    wanted = frechet_distance(
        a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
    )
    assert result.fid == pytest.approx(wanted, rel=1e-4)
    assert result.fid > 0.01
    assert np.abs(statistics.covariance - np.cov(a, rowvar=False)).max() < 3e-5
    assert (result.n_real, result.n_fake) == (30, 40)
    assert ear.done == [30, 40]
    for part in (f"FID {wanted:.3f}", "pytorch-fid", "abababab…", "n_real=30 n_fake=40", "299x299"):
        assert part in result.lines()
    assert json.loads(json.dumps(result.document()))["weights_sha256"] == "ab" * 32


def test_fid_of_a_set_with_itself_is_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "r.npz", 30, 0, side=32)
    result, _ = judge_fid(images(path), images(path), extractor(), Silent())
    assert 0 <= result.fid < 1e-6


def folder_of(path: Path, archive: Path, order: list[int]) -> Path:
    path.mkdir()
    for place, i in enumerate(order):
        Image.fromarray(np.load(archive)["arr_0"][i]).save(path / f"{place:03}.png")
    return path


@pytest.mark.parametrize("how", [PYTORCH_FID, TORCH_FIDELITY])
def test_batch_size_order_and_container_change_nothing(tmp_path: Path, how: Protocol) -> None:
    real, fake = write(tmp_path / "r.npz", 20, 0, 32), write(tmp_path / "f.npz", 20, 1, 32)
    one, _ = judge_fid(images(real), images(fake), extractor(how), Silent())
    for batch in (1, 7):
        with_other = extractor(how, batch)
        other, _ = judge_fid(images(real), images(fake), with_other, Silent())
        assert other.fid == pytest.approx(one.fid, rel=1e-6)
        assert set(with_other.network.batches) == {batch, 20 % batch} - {0}
    shuffled = folder_of(tmp_path / "f", fake, list(np.random.default_rng(0).permutation(20)))
    other, _ = judge_fid(images(real), open_input(shuffled), extractor(how), Silent())
    assert other.fid == pytest.approx(one.fid, rel=1e-6)


def test_protocols_are_not_the_same(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 20, 0, 32), write(tmp_path / "f.npz", 20, 1, 32)
    scores = {
        judge_fid(images(real), images(fake), extractor(how), Silent())[0].fid
        for how in (PYTORCH_FID, TORCH_FIDELITY)
    }
    assert len({round(score, 4) for score in scores}) == 2


def test_mixed_sizes_are_resized_each_by_itself_in_full_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        shape = (8 + i % 3, 20, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    with_it = extractor(batch=5)
    got = torch.cat(
        [found.pool for found in with_it.features(open_input(tmp_path).walk(slice(None)))]
    )
    assert with_it.network.batches == [5, 5, 2]
    alone = [
        with_it.network(PYTORCH_FID.prepare(picture[None])).pool
        for batch in open_input(tmp_path).walk(slice(None))
        for picture in batch
    ]
    assert (got - torch.cat(alone)).abs().max() < 1e-5


def test_saved_statistics_stand_for_the_pictures(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 30, 1, 32)
    direct, statistics = judge_fid(images(real), images(fake), extractor(), Silent())
    statistics.write(tmp_path / "s.npz")
    saved = open_input(tmp_path / "s.npz")
    again, _ = judge_fid(saved, images(fake), extractor(), Silent())
    assert again.fid == pytest.approx(direct.fid, rel=1e-12)
    assert (again.n_real, again.real) == (30, "npz 32x32")
    both, _ = judge_fid(saved, saved, None, Silent())
    assert both.fid < 1e-6
    assert both.origin.weights_sha256 == "ab" * 32


def test_unlike_statistics_are_not_compared(tmp_path: Path) -> None:
    fake = write(tmp_path / "f.npz", 5, 1, 32)
    zero = (np.zeros(12), np.eye(12), 5)
    resized = Statistics(*zero, FeatureOrigin("torch-fidelity", "ab" * 32))
    with pytest.raises(DdpmError, match="--protocol of REAL is torch-fidelity, of FAKE pytorch"):
        judge_fid(resized, images(fake), extractor(), Silent())
    retrained = Statistics(*zero, FeatureOrigin("pytorch-fid", "cd" * 32))
    with pytest.raises(DdpmError, match=r"--weights of REAL is cdcd.*, of FAKE abab"):
        judge_fid(retrained, images(fake), extractor(), Silent())
    narrow = Statistics(np.zeros(3), np.eye(3), 5)
    unused = extractor()
    with pytest.raises(DdpmError, match="as FAKE have 3 features, this network 12"):
        judge_fid(images(fake), narrow, unused, Silent())
    assert unused.network.batches == [], "the features were extracted in vain"
    with pytest.raises(DdpmError, match="3 and 12 features"):
        judge_fid(narrow, resized, None, Silent())
    ear = Ear()
    unknown = Statistics(np.zeros(12), np.eye(12), None)
    result, _ = judge_fid(unknown, images(fake), extractor(), ear)
    assert "n_real=unknown" in result.lines()
    assert "statistics given as REAL do not say which protocol" in ear.heard[0]


def test_few_pictures_are_said_to_be_few(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 11, 1, 32)
    ear = Ear()
    judge_fid(images(real), images(fake), extractor(), ear)
    assert len(ear.heard) == 1
    assert ear.heard[0].startswith("n_fake=11 is below 12: the covariance is rank-deficient")


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 1, 1, 32)
    unused = extractor()
    with pytest.raises(DdpmError, match=r"f\.npz holds 1 image; FID needs"):
        judge_fid(images(real), images(fake), unused, Silent())
    assert unused.network.batches == [], "the features were extracted in vain"
    folder = folder_of(tmp_path / "f", real, [0, 1])
    (folder / "000.png").write_bytes(b"")
    with pytest.raises(DdpmError, match=r"only 1 images of .* are readable"):
        judge_fid(images(real), open_input(folder, skip_bad=True), extractor(), Silent())


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    class Broken(Pooled):
        """Damaged weights."""

        def forward(self, x: Tensor) -> Features:
            return Features(torch.full((len(x), 12), float("nan")), torch.zeros(len(x), 12))

    path = write(tmp_path / "r.npz", 3, 0, 32)
    with pytest.raises(DdpmError, match="features hold NaN"):
        broken = Extractor(Broken(), "", PYTORCH_FID, CPU)
        judge_fid(images(path), images(path), broken, Silent())


def test_inception_score_of_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "r.npz", 50, 0)
    wanted = inception_score((features_by_hand(path) * 5).__getitem__, 50, splits=5)
    ear = Ear()
    for batch in (64, 7):
        result = evaluate_inception_score(images(path), extractor(batch=batch), 5, ear)
        assert (result.mean, result.std) == pytest.approx(wanted, rel=1e-3)
        assert (result.n, result.splits) == (50, 5)
    assert ear.done[-1] == 50
    assert f"Inception Score {wanted[0]:.2f}" in result.line()
    assert "n=50 splits=5 shuffled | npz 299x299" in result.line()
    with pytest.raises(DdpmError, match=r"r\.npz holds 50 images, too few for 51 splits"):
        evaluate_inception_score(images(path), extractor(), 51, Silent())


def test_floats_are_no_pictures() -> None:
    with pytest.raises(TypeError, match="uint8"):
        list(extractor().features([torch.rand(2, 3, 8, 8)]))


def test_other_weights_are_said_to_be_other(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(standin_weights(), path)
    ear = Ear()
    loaded = load_extractor(path, PYTORCH_FID, CPU, 4, ear)
    assert loaded.weights_sha256 == sha256_of(path) != PUBLISHED.sha256
    assert "is not the published weights file" in ear.heard[0]
    pictures = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    found = next(loaded.features([pictures]))
    assert found.pool.shape == (2, 2048)
    assert found.logits.shape == (2, 1008)
    assert not found.pool.requires_grad


def test_grey_pictures_bring_a_caveat(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "g.npz", arr_0=pixels)
    ear = Ear()
    evaluate_inception_score(images(tmp_path / "g.npz"), extractor(), 2, ear)
    assert any("all pictures are grey" in heard for heard in ear.heard)
    ear = Ear()
    evaluate_inception_score(images(write(tmp_path / "c.npz", 12, 0, 8)), extractor(), 2, ear)
    assert ear.heard == []
