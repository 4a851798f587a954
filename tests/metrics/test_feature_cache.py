"""The cache of features: damage, what an entry keeps, what is too large, and what goes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddpm_cli.core.metrics import feature_cache
from ddpm_cli.core.metrics.collect import InputFeatures, Keep
from ddpm_cli.core.metrics.evaluate import Evaluation, Fake
from ddpm_cli.core.metrics.feature_cache import collect_cached
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.metrics.networks.inception import FidInception
from ddpm_cli.core.metrics.networks.network import Features
from ddpm_cli.core.metrics.networks.protocols import TORCH_FIDELITY
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.local_standin import shapes

CPU = torch.device("cpu")
ALL = Keep(features=True, logits=True, spatial=True)


class Stand(FidInception):
    """A stand-in network: 12 features and 9 spatial ones, means of parts of the images."""

    width, classes = 12, 4

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x: Tensor, *, spatial: bool = False) -> Features:
        pool = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        places = functional.adaptive_avg_pool2d(x[:, :1], 3).flatten(1)
        return Features(pool, pool[:, :4], places if spatial else None)


class Noted(Silent):
    """What was said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm_cli.core.metrics.collect.SPATIAL", 9)


def collected(folder: Path, keep: Keep, weights: str = "w.pth") -> tuple[InputFeatures, list[str]]:
    """What is collected, and what is said."""
    noted, extractor = Noted(), Extractor(Stand(), "ab" * 32, TORCH_FIDELITY, CPU, weights=weights)
    images = open_input(folder)
    return collect_cached(images, extractor, keep, "real", noted), noted.messages  # type: ignore[arg-type]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def overwrite(path: Path) -> None:
    path.write_bytes(b"not what was written")


def alter(path: Path) -> None:
    """One bit of the same number of bytes."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, overwrite, alter, replace_by_folder])
@pytest.mark.parametrize("name", ["statistics.npz", "features.f32", "logits.f32"])
def test_a_damaged_entry_is_said_and_computed_again(
    name: str, damage: Callable[[Path], None], entries: Path, tmp_path: Path
) -> None:
    images = shapes(tmp_path / "r", 0, 6)
    first, said = collected(images, ALL)
    assert said == []
    (entry,) = entries.iterdir()
    damage(entry / name)
    again, said = collected(images, ALL)
    assert said[0].startswith("the cache is damaged, so features are computed again: ")
    assert str(entry / name) in said[0]
    assert again.features is not None
    assert len(again.features) == 6
    assert np.array_equal(again.statistics.covariance, first.statistics.covariance)
    _, said = collected(images, ALL)
    if damage is replace_by_folder:  # no file can take its place
        assert "not kept for the next call" in collected(images, ALL)[1][1]
    else:
        assert [message.split(" is in ")[1][:9] for message in said] == ["the cache"]


def test_an_entry_keeps_what_it_had(entries: Path, tmp_path: Path) -> None:
    images = shapes(tmp_path / "r", 0, 6)
    requests = (Keep(spatial=True), Keep(features=True), Keep(logits=True))
    for keep in requests:
        assert collected(images, keep)[1] == [], "computed"
    found, said = collected(images, ALL)
    assert "is in the cache" in said[0]
    assert found.statistics.spatial is not None
    assert found.statistics.spatial.mean.shape == (9,)


def test_the_origin_is_the_weights_file_of_this_call(entries: Path, tmp_path: Path) -> None:
    images = shapes(tmp_path / "r", 0, 6)
    collected(images, Keep(), "one.pth")
    found, said = collected(images, Keep(), "copy-of-one.pth")
    assert "is in the cache" in said[0]
    assert found.statistics.origin.weights == "copy-of-one.pth"


def test_of_an_input_too_large_the_statistics_alone_are_kept(
    entries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = shapes(tmp_path / "s", 0, 2), shapes(tmp_path / "l", 100, 120)
    monkeypatch.setattr(feature_cache, "LIMIT", 2 * 120 * 12 * 4 - 1)
    collected(small, Keep())
    found, said = collected(large, Keep(features=True))
    assert found.features is not None
    assert "features of 6 kB are not kept for the next call" in said[0]
    assert len(list(entries.iterdir())) == 2, "the other entry has gone"
    assert "is in the cache" in collected(large, Keep())[1][0]


def test_many_fakes_do_not_push_real_out(
    entries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [shapes(tmp_path / str(i), 200 * i, 8) for i in range(4)]
    requested = RequestedMetrics(frozenset({"fid"}), spread=False)
    collected(paths[0], Keep())
    (entry,) = entries.iterdir()
    size = sum(file.stat().st_size for file in entry.iterdir())
    monkeypatch.setattr(feature_cache, "LIMIT", int(2.5 * size))
    real, *fakes = (open_input(path) for path in paths)
    named = [Fake(str(i), lambda _, fake=fake: fake) for i, fake in enumerate(fakes)]  # type: ignore[misc]
    evaluation = Evaluation(real, named, requested, Silent())
    evaluation.collect_real(Extractor(Stand(), "ab" * 32, TORCH_FIDELITY, CPU))
    assert len(list(evaluation.outcomes())) == 3
    assert len(list(entries.iterdir())) == 2
    assert "is in the cache" in collected(paths[0], Keep())[1][0]
