"""FID and IS from images to the printed line, with a network that can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.evaluate import evaluate, evaluate_inception_score
from ddpm_cli.core.metrics.inputs.opening import DatasetImages, ScoreInput, open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, load_extractor
from ddpm_cli.core.metrics.networks.inception import PUBLISHED, FidInception
from ddpm_cli.core.metrics.networks.network import Features
from ddpm_cli.core.metrics.networks.protocols import PYTORCH_FID, TORCH_FIDELITY, Protocol
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.scores.frechet import frechet_distance
from ddpm_cli.core.metrics.scores.inception_score import inception_score
from ddpm_cli.core.metrics.statistics import FeatureOrigin, Statistics
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.reporting import Reporter, Silent
from tests.support.inception_standin import standin_weights

CPU = torch.device("cpu")


class Pooled(FidInception):
    """Stand-in network: 12 features, the means of the image's quarters."""

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


def extractor(protocol: Protocol = PYTORCH_FID, batch: int = 64) -> Extractor:
    return Extractor(Pooled(), "ab" * 32, protocol, CPU, batch)


class Recorder(Silent):
    """Records messages and the progress of bars."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.done: list[float] = []

    def say(self, message: str) -> None:
        self.messages.append(message)

    def update(self, done: float, note: str = "", status: object = None) -> None:
        self.done.append(done)


def evaluate_fid(
    real: ScoreInput, fake: ScoreInput, extractor: Extractor | None, reporter: Reporter
) -> tuple[Report, Statistics]:
    requested = RequestedMetrics(frozenset({"fid"}), spread=False, cache=False)
    report, statistics = evaluate(real, fake, extractor, requested, reporter)
    assert statistics is not None
    assert report.fid is not None
    return report, statistics


def write(path: Path, n: int, seed: int, size: int = 299, bright: int = 256) -> Path:
    """An .npz of n images, by default at the network's size, which the resize does not change."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, bright, (n, 4, 4, 3), dtype=np.uint8)
    pixels = np.arange(size) * 4 // size
    np.savez(path, arr_0=coarse[:, pixels][:, :, pixels])
    return path


def images(path: Path) -> DatasetImages:
    opened = open_input(path)
    assert isinstance(opened, DatasetImages)
    return opened


def features_by_hand(path: Path) -> np.ndarray:
    x = torch.from_numpy(np.load(path)["arr_0"]).permute(0, 3, 1, 2).double() / 127.5 - 1
    return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1).numpy()


def test_fid_of_arrays(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0), write(tmp_path / "f.npz", 40, 1, bright=200)
    recorder = Recorder()
    result, statistics = evaluate_fid(images(real), images(fake), extractor(), recorder)
    a, b = features_by_hand(real), features_by_hand(fake)
    expected = frechet_distance(
        a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
    )
    assert result.fid == pytest.approx(expected, rel=1e-4)
    assert result.fid > 0.01
    assert np.abs(statistics.covariance - np.cov(a, rowvar=False)).max() < 3e-5
    assert (result.n_real, result.n_fake) == (30, 40)
    assert recorder.done == [30, 40]
    for part in (
        f"FID {expected:.3f}",
        "pytorch-fid",
        "abababab…",
        "n_real=30 n_fake=40",
        "299x299",
    ):
        assert part in result.lines()
    assert json.loads(json.dumps(result.document()))["weights_sha256"] == "ab" * 32


def test_fid_of_a_set_with_itself_is_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "r.npz", 30, 0, size=32)
    result, _ = evaluate_fid(images(path), images(path), extractor(), Silent())
    assert 0 <= result.fid < 1e-6


def folder_of(path: Path, archive: Path, order: list[int]) -> Path:
    path.mkdir()
    for place, i in enumerate(order):
        Image.fromarray(np.load(archive)["arr_0"][i]).save(path / f"{place:03}.png")
    return path


@pytest.mark.parametrize("protocol", [PYTORCH_FID, TORCH_FIDELITY])
def test_batch_size_order_and_container_change_nothing(tmp_path: Path, protocol: Protocol) -> None:
    real, fake = write(tmp_path / "r.npz", 20, 0, 32), write(tmp_path / "f.npz", 20, 1, 32)
    one, _ = evaluate_fid(images(real), images(fake), extractor(protocol), Silent())
    for batch in (1, 7):
        rebatched = extractor(protocol, batch)
        other, _ = evaluate_fid(images(real), images(fake), rebatched, Silent())
        assert other.fid == pytest.approx(one.fid, rel=1e-6)
        assert set(rebatched.network.batches) == {batch, 20 % batch} - {0}
    shuffled = folder_of(tmp_path / "f", fake, list(np.random.default_rng(0).permutation(20)))
    other, _ = evaluate_fid(images(real), open_input(shuffled), extractor(protocol), Silent())
    assert other.fid == pytest.approx(one.fid, rel=1e-6)


def test_protocols_are_not_the_same(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 20, 0, 32), write(tmp_path / "f.npz", 20, 1, 32)
    scores = {
        evaluate_fid(images(real), images(fake), extractor(protocol), Silent())[0].fid
        for protocol in (PYTORCH_FID, TORCH_FIDELITY)
    }
    assert len({round(score, 4) for score in scores}) == 2


def test_mixed_sizes_are_resized_individually_in_full_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        shape = (8 + i % 3, 20, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    in_fives = extractor(batch=5)
    got = torch.cat(
        [batch.pool for batch in in_fives.features(open_input(tmp_path).batches(slice(None)))]
    )
    assert in_fives.network.batches == [5, 5, 2]
    alone = [
        in_fives.network(PYTORCH_FID.prepare(image[None])).pool
        for batch in open_input(tmp_path).batches(slice(None))
        for image in batch
    ]
    assert (got - torch.cat(alone)).abs().max() < 1e-5


def test_saved_statistics_replace_the_images(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 30, 1, 32)
    direct, statistics = evaluate_fid(images(real), images(fake), extractor(), Silent())
    statistics.write(tmp_path / "s.npz")
    saved = open_input(tmp_path / "s.npz")
    again, _ = evaluate_fid(saved, images(fake), extractor(), Silent())
    assert again.fid == pytest.approx(direct.fid, rel=1e-12)
    assert (again.n_real, again.real) == (30, "npz 32x32")
    both, _ = evaluate_fid(saved, saved, None, Silent())
    assert both.fid < 1e-6
    assert both.origin.weights_sha256 == "ab" * 32


def test_unlike_statistics_are_not_compared(tmp_path: Path) -> None:
    fake = write(tmp_path / "f.npz", 5, 1, 32)
    zero = (np.zeros(12), np.eye(12), 5)
    resized = Statistics(*zero, FeatureOrigin("torch-fidelity", "ab" * 32))
    with pytest.raises(DdpmError, match="--protocol of REAL is torch-fidelity, of FAKE pytorch"):
        evaluate_fid(resized, images(fake), extractor(), Silent())
    retrained = Statistics(*zero, FeatureOrigin("pytorch-fid", "cd" * 32))
    with pytest.raises(DdpmError, match=r"--weights of REAL is cdcd.*, of FAKE abab"):
        evaluate_fid(retrained, images(fake), extractor(), Silent())
    narrow = Statistics(np.zeros(3), np.eye(3), 5)
    unused = extractor()
    with pytest.raises(DdpmError, match="as FAKE have 3 features, this network 12"):
        evaluate_fid(images(fake), narrow, unused, Silent())
    assert unused.network.batches == [], "the features were extracted in vain"
    with pytest.raises(DdpmError, match="3 and 12 features"):
        evaluate_fid(narrow, resized, None, Silent())
    unknown = Statistics(np.zeros(12), np.eye(12), None)
    result, _ = evaluate_fid(unknown, images(fake), extractor(), Silent())
    assert "n_real=unknown" in result.lines()
    assert "statistics given as REAL do not say which protocol" in result.notices()[0]
    assert result.document()["unknown_origin"] == ["REAL"]


def test_fid_below_its_floor_says_why(tmp_path: Path) -> None:
    real, new = write(tmp_path / "r.npz", 80, 0, 32), write(tmp_path / "n.npz", 40, 1, 32)

    def notices(fake: Path) -> list[str]:
        requested = RequestedMetrics(frozenset({"fid"}), spread=False, floor=True, cache=False)
        report, _ = evaluate(images(real), images(fake), extractor(), requested, Silent())
        assert report.fid is not None
        floor = report.document()["fid_floor"]
        assert isinstance(floor, float)
        assert (report.fid < floor) == any("below its floor" in n for n in report.notices())
        return report.notices()

    (notice,) = notices(new)  # as good as real, against twice as many as the floor
    assert "below its floor, which is of 40 real images against 40 others" in notice
    assert "where FID is of 40 against 80" in notice
    assert "copies" not in notice
    (notice,) = notices(real)
    assert "of 80 against 80" in notice
    assert "FAKE may hold images of REAL, or copies" in notice
    assert notices(write(tmp_path / "dark.npz", 40, 1, 32, bright=40)) == []
    (notice,) = notices(write(tmp_path / "more.npz", 60, 1, 32, bright=40))
    assert "the floor is of 40 images, half of REAL, and FID of 60" in notice


def test_a_floor_needs_two_halves_of_two(tmp_path: Path) -> None:
    real, unused = write(tmp_path / "r.npz", 3, 0, 32), extractor()
    requested = RequestedMetrics(frozenset({"fid"}), spread=False, floor=True, cache=False)
    with pytest.raises(DdpmError, match="--floor needs at least 4 images in REAL, which holds 3"):
        evaluate(images(real), images(real), unused, requested, Silent())
    assert unused.network.batches == []


def test_few_images_bring_a_notice(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 11, 1, 32)
    recorder = Recorder()
    result, _ = evaluate_fid(images(real), images(fake), extractor(), recorder)
    assert recorder.messages == []
    (notice,) = result.notices()
    assert notice.startswith("n_fake=11 is below 12: the covariance is rank-deficient")
    assert "feature_dim" not in result.document()
    assert result.document()["unknown_origin"] == []


def test_one_image_is_too_few(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "r.npz", 30, 0, 32), write(tmp_path / "f.npz", 1, 1, 32)
    unused = extractor()
    with pytest.raises(DdpmError, match=r"f\.npz holds 1 image; FID needs"):
        evaluate_fid(images(real), images(fake), unused, Silent())
    assert unused.network.batches == [], "the features were extracted in vain"
    folder = folder_of(tmp_path / "f", real, [0, 1])
    (folder / "000.png").write_bytes(b"")
    with pytest.raises(DdpmError, match=r"only 1 images of .* are readable"):
        evaluate_fid(images(real), open_input(folder, skip_bad=True), extractor(), Silent())


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    class Broken(Pooled):
        """Damaged weights."""

        def forward(self, x: Tensor) -> Features:
            return Features(torch.full((len(x), 12), float("nan")), torch.zeros(len(x), 12))

    path = write(tmp_path / "r.npz", 3, 0, 32)
    with pytest.raises(DdpmError, match="features hold NaN"):
        broken = Extractor(Broken(), "", PYTORCH_FID, CPU)
        evaluate_fid(images(path), images(path), broken, Silent())


def test_inception_score_of_images(tmp_path: Path) -> None:
    path = write(tmp_path / "r.npz", 50, 0)
    expected = inception_score((features_by_hand(path) * 5).__getitem__, 50, splits=5)
    recorder = Recorder()
    for batch in (64, 7):
        result = evaluate_inception_score(images(path), extractor(batch=batch), 5, recorder)
        assert (result.mean, result.std) == pytest.approx(expected, rel=1e-3)
        assert (result.n, result.splits) == (50, 5)
    assert recorder.done[-1] == 50
    assert f"Inception Score {expected[0]:.2f}" in result.line()
    assert "n=50 splits=5 shuffled | npz 299x299" in result.line()
    with pytest.raises(DdpmError, match=r"r\.npz holds 50 images, too few for 51 splits"):
        evaluate_inception_score(images(path), extractor(), 51, Silent())


def test_float_images_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        list(extractor().features([torch.rand(2, 3, 8, 8)]))


def test_unpublished_weights_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(standin_weights(), path)
    recorder = Recorder()
    loaded = load_extractor(path, PYTORCH_FID, CPU, 4, recorder)
    assert loaded.weights_sha256 == sha256_of(path) != PUBLISHED.sha256
    assert "is not the published weights file" in recorder.messages[0]
    batch = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    found = next(loaded.features([batch]))
    assert found.pool.shape == (2, 2048)
    assert found.logits.shape == (2, 1008)
    assert not found.pool.requires_grad


def test_grey_images_bring_a_notice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "g.npz", arr_0=pixels)
    recorder = Recorder()
    evaluate_inception_score(images(tmp_path / "g.npz"), extractor(), 2, recorder)
    assert any("all images are grey" in message for message in recorder.messages)
    recorder = Recorder()
    evaluate_inception_score(images(write(tmp_path / "c.npz", 12, 0, 8)), extractor(), 1, recorder)
    assert recorder.messages == []


def test_splits_of_few_images_bring_a_notice_and_of_one_are_refused(tmp_path: Path) -> None:
    few, recorder, unused = images(write(tmp_path / "c.npz", 12, 0, 8)), Recorder(), extractor()
    with pytest.raises(DdpmError, match="12 images, too few for 7 splits: a split of 1 scores 1"):
        evaluate_inception_score(few, unused, 7, recorder)
    assert unused.network.batches == []
    evaluate_inception_score(few, extractor(), 6, recorder)
    assert recorder.messages[0].startswith("the Inception Score of splits of 2 images is at most 2")
    requested = RequestedMetrics(frozenset({"fid", "is"}), cache=False)
    report, _ = evaluate(few, few, extractor(), requested, recorder)
    assert report.document()["splits"] == report.splits == 6
    assert report.inception_score == report.document()["inception_score"] > 1
    assert report.kid is None
    with pytest.raises(AttributeError, match="no 'kids'"):
        _ = report.kids


def test_copies_and_too_few_images_for_neighbours(tmp_path: Path) -> None:
    real, new = write(tmp_path / "r.npz", 20, 0, 32), write(tmp_path / "n.npz", 9, 1, 32)
    arrays = [np.load(path)["arr_0"] for path in (new, real)]
    np.savez(tmp_path / "f.npz", arr_0=np.concatenate([arrays[0], arrays[1][:3]]))
    requested, recorder = RequestedMetrics(cache=False), Recorder()
    report, _ = evaluate(images(real), images(tmp_path / "f.npz"), extractor(), requested, recorder)
    assert any("3 of FAKE equal an image of REAL" in notice for notice in report.notices())
    report, _ = evaluate(images(real), images(new), extractor(), requested, recorder)
    assert report.document()["copies"] == 0
    few = images(write(tmp_path / "few.npz", 5, 2, 32))
    report, _ = evaluate(images(real), few, extractor(), requested, recorder)
    assert report.document()["precision"] is None
    assert "precision and recall need 6 images" in recorder.messages[-1]
