"""Data sets of photographs by name, in the layouts that torchvision unpacks."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import flowers102, utils

from ddpm_cli.core.data import sources
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.inputs.opening import open_input
from tests.support.cli import Result, config_of, refused

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, without network."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(utils, "_urlretrieve", unreachable)
    monkeypatch.setattr(utils, "_get_redirect_url", unreachable)
    folder = tmp_path / "sets"
    monkeypatch.setenv("DDPM_DATA", str(folder))
    return folder


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (level, level, level)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(file: Path, level: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(level))


def levels(spec: str) -> list[int]:
    """What grey each image is, to the nearest ten."""
    source = sources.open_source(spec)
    pixels = [source.image(i, Transform(1)) for i in range(len(source))]
    assert all(image.shape == (1, 10, 12) for image in pixels)
    return [round(image.mean() / 10) * 10 for image in pixels]


def test_flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes the splits train and val together."""
    for i in range(1, 7):
        write(root / "flowers-102" / "jpg" / f"image_{i:05d}.jpg", 10 * i)
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": [[1, 2, 1, 3, 1, 2]]})
    ids = {"trnid": [[5, 1]], "valid": [[2, 3]], "tstid": [[4, 6]]}
    savemat(root / "flowers-102" / "setid.mat", ids)
    monkeypatch.setattr(flowers102, "check_integrity", lambda *args: True)
    source = sources.open_source("flowers102")
    assert source.labels.tolist() == [0, 1, 0, 0]
    assert (source.classes[0], len(source.classes)) == ("pink primrose", 102)
    assert levels("flowers102") == [10, 20, 30, 50]
    assert levels("flowers102:test") == [40, 60]
    assert sources.open_source("flowers102:test").labels.tolist() == [2, 1]


def test_pets(root: Path) -> None:
    names = ["Abyssinian_1", "great_pyrenees_7", "Abyssinian_2", "great_pyrenees_8"]
    for i, name in enumerate(names):
        write(root / "oxford-iiit-pet" / "images" / f"{name}.jpg", 10 * i)
    tables = root / "oxford-iiit-pet" / "annotations"
    tables.mkdir()
    (tables / "trainval.txt").write_text("Abyssinian_1 1 1 1\ngreat_pyrenees_7 2 2 1\n")
    (tables / "test.txt").write_text("Abyssinian_2 1 1 1\ngreat_pyrenees_8 2 2 1\n")
    source = sources.open_source("pets")
    assert (source.name, source.classes) == ("pets", ("Abyssinian", "Great Pyrenees"))
    assert (source.labels.tolist(), levels("pets")) == ([0, 1], [0, 10])
    assert (sources.open_source("pets:test").name, levels("pets:test")) == ("pets-test", [20, 30])
    (batch,) = open_input("pets:test").batches(slice(None))
    assert batch.shape == (2, 3, 10, 12)  # scored at their own size


def test_food_through_a_training(ddpm: Run, tiny: Path, root: Path, tmp_path: Path) -> None:
    elsewhere = root.rename(tmp_path / "there") if root.exists() else tmp_path / "there"
    for i, name in enumerate(("apple_pie/1", "apple_pie/2", "waffles/3", "waffles/4")):
        write(elsewhere / "food-101" / "images" / f"{name}.jpg", 10 * i)
    meta = elsewhere / "food-101" / "meta"
    meta.mkdir()
    (meta / "train.json").write_text(
        json.dumps({"waffles": ["waffles/3"], "apple_pie": ["apple_pie/2", "apple_pie/1"]})
    )
    (meta / "test.json").write_text(json.dumps({"waffles": ["waffles/4"], "apple_pie": []}))
    given = ("train", "--data", "food101", "--config", tiny, "--images", 8, "--size", 8)
    assert ddpm(*given, "--data-root", elsewhere, "--out", "run").code == 0
    config = config_of("run")
    assert config["network"]["classes"] == ["apple_pie", "waffles"]
    assert config["data"]["source"] == "food101"
    refused(ddpm(*given), "cannot get the data set food101", "put food-101.tar.gz there")


def test_eurosat_is_unpacked_where_it_was_put(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its archive, which torchvision unpacks, without network; it has one split."""
    (root / "eurosat").mkdir(parents=True)
    with zipfile.ZipFile(root / "eurosat" / "EuroSAT.zip", "w") as archive:
        for i, name in enumerate(("River/River_1", "Forest/Forest_1", "River/River_2")):
            archive.writestr(f"2750/{name}.jpg", jpeg(10 * i))
    monkeypatch.setattr(utils, "check_integrity", lambda path, md5=None: Path(path).is_file())
    source = sources.open_source("eurosat")
    assert (source.classes, source.labels.tolist()) == (("Forest", "River"), [0, 1, 1])
    assert levels("eurosat") == [10, 0, 20]
    assert source.notices[0].startswith("eurosat: 3 of its 27,000 images are in ")
    with pytest.raises(UsageError, match="--holdout N keeps some out"):
        sources.open_source("eurosat:test")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flowers102", "102flowers.tgz, imagelabels.mat and setid.mat into flowers-102/ there"),
        ("pets", "images.tar.gz and annotations.tar.gz into oxford-iiit-pet/ there"),
        ("food101", "food-101.tar.gz there"),
        ("eurosat", "EuroSAT.zip into eurosat/ there"),
        ("kmnist", "its four .gz files into KMNIST/raw/ there"),
    ],
)
def test_without_network_it_is_said_what_to_put_where(name: str, what: str, root: Path) -> None:
    with pytest.raises(DdpmError) as raised:
        sources.open_source(name)
    assert f"into {root}: " in str(raised.value)
    assert f"put {what} (--data-root or DDPM_DATA names another)" in str(raised.value)


def test_animals_10_keeps_its_italian_names(tmp_path: Path) -> None:
    for i, name in enumerate(("cane", "cavallo", "farfalla", "ragno")):
        write(tmp_path / "animals" / "raw-img" / name / "OIP-1.jpeg", 10 * i)
    (tmp_path / "animals" / "translate.py").write_text('translate = {"cane": "dog"}\n')
    source = sources.open_source(str(tmp_path / "animals"))
    assert source.classes == ("cane", "cavallo", "farfalla", "ragno")
    assert source.labels.tolist() == [0, 1, 2, 3]
