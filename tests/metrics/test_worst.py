"""The worst images: planted ones are found, named and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics import feature_store
from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.inputs.opening import ArrayImages
from ddpm_cli.core.metrics.scores import prdc as prdc_module
from ddpm_cli.core.metrics.scores.prdc import prdc, squared_radii
from ddpm_cli.core.metrics.worst import finding, pictures
from ddpm_cli.core.metrics.worst.finding import Worst, find_worst
from ddpm_cli.core.metrics.worst.pictures import FAKES, LIST, REALS, write_worst
from ddpm_cli.core.runtime.reporting import Silent


def normal(n: int, seed: int, d: int = 8) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def stored(features: Tensor) -> FeatureStore:
    store = FeatureStore(features.shape[1])
    store.append(features)
    return store


def found(real: Tensor, fake: Tensor, count: int) -> Worst:
    stores = stored(real), stored(fake)
    return find_worst(*stores, squared_radii(stores[0], Silent()), count, Silent())


def test_planted_garbage_comes_first() -> None:
    """Also beside a real image that lies alone, in whose large radius it is."""
    real, fake = normal(200, 0), normal(150, 1) * 0.8
    real[7] = 40.0
    for row, value in ((20, 9.0), (90, 25.0), (149, -30.0)):
        fake[row] = value
    worst = found(real, fake, 3)
    assert {image.row for image in worst.fakes} == {20, 90, 149}
    assert worst.fakes[0].row == 149
    assert all(image.radii > 3 for image in worst.fakes)
    assert worst.looked_at == (200, 150)


def test_a_lost_mode_is_listed_and_nothing_else() -> None:
    real, fake = normal(300, 0), normal(400, 1)
    mode = range(40, 52)
    real[list(mode)] = 6 + 0.1 * normal(12, 2)
    worst = found(real, fake, 12)
    assert {image.row for image in worst.reals} == set(mode)
    assert worst.uncovered == round(300 * (1 - prdc(stored(real), stored(fake), Silent()).coverage))
    (nearest_row, *_) = worst.reals[0].neighbours
    distances = (real[worst.reals[0].row] - fake).square().sum(1).sqrt()
    assert nearest_row == int(distances.argmin())
    assert worst.reals[0].distances == pytest.approx(distances.sort().values[:3].tolist())


def test_the_distance_by_its_definition() -> None:
    real, fake = normal(60, 0), 1.5 * normal(50, 1)
    own = torch.cdist(real.double(), real.double()).sort(dim=1).values
    d = torch.cdist(fake.double(), real.double())
    small = own[:, 3] <= own[:, 3].median()
    of_fakes = (d / own[:, 3])[:, small].amin(1)
    of_reals = d.amin(0) / own[:, 5]
    worst = found(real, fake, 1000)
    order = of_fakes.sort(descending=True)
    assert [image.row for image in worst.fakes] == order.indices.tolist()
    assert [image.radii for image in worst.fakes] == pytest.approx(order.values.tolist(), 1e-4)
    uncovered = of_reals.sort(descending=True).values
    uncovered = uncovered[uncovered >= 1]
    assert [image.radii for image in worst.reals] == pytest.approx(uncovered.tolist(), 1e-4)
    assert worst.uncovered == len(uncovered) > 0


def test_equal_images_have_no_infinite_distance() -> None:
    real = normal(20, 0).repeat(6, 1)
    worst = found(real, torch.cat([real[:10], normal(10, 1) + 5]), 4)
    values = [image.radii for image in (*worst.fakes, *worst.reals)]
    assert np.isfinite(values).all()
    assert all(image.row >= 10 for image in worst.fakes)
    constant = found(torch.ones(8, 4), torch.ones(9, 4), 4)
    assert constant.uncovered == 0 and found(torch.ones(8, 4), torch.zeros(9, 4), 4).uncovered == 8
    assert [image.radii for image in constant.fakes] == [0, 0, 0, 0]
    assert constant.fakes[0].neighbours == (0, 1, 2)


@pytest.mark.parametrize("moved", [0.0, 1e-4])
def test_equal_images_are_covered_by_a_fake_that_equals_them(moved: float) -> None:
    """Also where another batch has rounded its features otherwise."""
    alone = 1 + normal(1, 1)
    real = torch.cat([normal(1, 0).repeat(8, 1), alone])
    assert found(real, real + moved, 4).uncovered == 0
    assert found(real, real, 4).reals == ()
    assert found(real, alone, 9).uncovered == 8


def test_rows_of_a_subsample_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (finding, prdc_module):
        monkeypatch.setattr(module, "MAX_IMAGES", 60)
    real, fake = normal(200, 0), normal(150, 1)
    (planted,) = feature_store.chosen(150, 60)[40:41]
    fake[planted] = 50.0
    worst = found(real, fake, 1)
    (image,) = worst.fakes
    assert image.row == planted
    assert set(image.neighbours) <= set(feature_store.chosen(200, 60).tolist())
    distance = (fake[planted] - real[image.neighbours[0]]).square().sum().sqrt()
    assert image.distances[0] == pytest.approx(float(distance))


def flat(colours: list[int], side: int = 8) -> ImageSet:
    return ArrayImages(np.stack([np.full((side, side, 3), c, dtype=np.uint8) for c in colours]))


@pytest.mark.parametrize("count", [1, 4, 40])
def test_grids_and_list(tmp_path: Path, count: int) -> None:
    real, fake = normal(50, 0), normal(40, 1)
    fake[5] = 30.0
    real[8] = -30 + 0.0 * real[8]
    real[9:14] = -30 + 0.01 * normal(5, 3)
    images = flat([60] * 50), flat([200] * 40)
    for image_set in images:
        assert sum(map(len, image_set.batches(slice(None)))) == len(image_set)
    worst = found(real, fake, count)
    write_worst(tmp_path, worst, *images)
    document = json.loads((tmp_path / LIST).read_text())
    assert document["fakes"][0]["index"] == 5
    assert document["fakes"][0]["name"] == "image 5"
    assert len(document["fakes"]) == count
    assert len(document["fakes"][0]["nearest"]) == 3
    assert 8 <= document["reals"][0]["index"] < 14
    assert document["uncovered"] >= 6
    for name, own in ((FAKES, 200), (REALS, 60)):
        with Image.open(tmp_path / name) as picture:
            assert picture.width >= 768
            shown = np.asarray(picture.convert("L"))
        both = (shown == own).sum(), (shown == 260 - own).sum()
        assert both[1] == pytest.approx(3 * both[0], rel=0.01)  # words have some pixels of each


def test_what_fails_half_way_leaves_no_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = flat([60] * 9), flat([200] * 9)
    for image_set in images:
        assert sum(map(len, image_set.batches(slice(None)))) == len(image_set)
    worst = found(normal(9, 0), normal(9, 1) + 9, 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").touch()
    write_worst(out, worst, *images)
    before = (out / FAKES).read_bytes()

    def full(*_: object) -> None:
        raise DdpmError("disk full")

    draw = pictures.files.write_png
    monkeypatch.setattr(
        pictures.files, "write_png", lambda path, x: (draw if path.name == FAKES else full)(path, x)
    )
    with pytest.raises(DdpmError, match="disk full"):
        write_worst(out, worst._replace(fakes=worst.fakes[:1]), *images)
    assert {path.name for path in out.iterdir()} == {"notes.txt", FAKES}
    assert (out / FAKES).read_bytes() != before
