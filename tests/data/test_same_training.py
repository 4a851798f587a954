"""The same images in every container that is read train the same network, bit for bit."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from tests.support.cli import Result, config_of

Run = Callable[..., Result]

LABELS = [0] * 12 + [1] * 12  # in the order of the names: a folder's images are sorted
NAMED, NUMBERED = ("dark", "light"), ("0", "1")


def pictures() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-20, 20, (24, 8, 8, 3))
    bases = np.where(np.array(LABELS) == 0, 40, 200)
    return (bases[:, None, None, None] + noise).astype(np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()


PNGS = [png(image) for image in pictures()]


def members(classes: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return [(f"{classes[LABELS[i]]}/{i:02d}.png", PNGS[i]) for i in range(24)]


def folder(path: Path, classes: tuple[str, ...] = NAMED) -> Path:
    for name, data in members(classes):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(path: Path, contents: Iterable[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents:
            archive.writestr(name, data)
    return path


def tarred(path: Path, contents: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in contents:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of_folders(root: Path) -> Path:
    return zipped(root / "pictures.zip", members(NAMED))


def tar_gz(root: Path) -> Path:
    return tarred(root / "pictures.tar.gz", members(NAMED), "w:gz")


def webdataset(root: Path) -> Path:
    """Two shards of samples; their classes are numbers, which classes.txt names."""
    shards = root / "webdataset"
    shards.mkdir()
    for shard, rows in enumerate((range(0, 10), range(10, 24))):
        labels = {i: [(f"{i:06d}.cls", str(LABELS[i]).encode())] for i in rows}
        samples = (pair for i in rows for pair in [(f"{i:06d}.png", PNGS[i]), *labels[i]])
        tarred(shards / f"pictures-{shard:06d}.tar", samples)
    (shards / "classes.txt").write_text("\n".join(NAMED) + "\n")
    return shards


def parquet(root: Path) -> Path:
    """Two shards as the library `datasets` writes them, with a ClassLabel."""
    (root / "hub" / "data").mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = {"names": list(NAMED), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    for shard, rows in enumerate((range(0, 10), range(10, 24))):
        cells = [{"bytes": PNGS[i], "path": None} for i in rows]
        labels = pa.array([LABELS[i] for i in rows], pa.int64())
        table = pa.table({"image": pa.array(cells, image), "label": labels})
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        name = f"train-{shard:05d}-of-00002.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), root / "hub" / "data" / name)
    return root / "hub"


def edm(root: Path) -> Path:
    names = [f"00000/img{i:08d}.png" for i in range(24)]
    labels = json.dumps({"labels": list(zip(names, LABELS, strict=True))}).encode()
    return zipped(root / "edm.zip", [*zip(names, PNGS, strict=True), ("dataset.json", labels)])


def npy(root: Path) -> Path:
    np.save(root / "images.npy", pictures())
    np.save(root / "labels.npy", np.array(LABELS))
    return root / "images.npy"


def npz(root: Path) -> Path:
    np.savez(root / "pictures.npz", images=pictures(), labels=np.array(LABELS))
    return root / "pictures.npz"


def assert_same_run(run: str, expected: str) -> None:
    """The same weights, and the same names of their classes."""
    ours, theirs = (load_file(f"{name}/model.safetensors") for name in (run, expected))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    classes, names = (config_of(name)["network"]["classes"] for name in (run, expected))
    assert classes == names


@pytest.fixture
def train(ddpm: Run, tiny: Path) -> Callable[..., None]:
    def call(data: Path, run: str, *arguments: object) -> None:
        options = ("--images", 8, "--preview", 1, "--out", run, *arguments)
        result = ddpm("train", "--data", data, "--config", tiny, *options)
        assert result.code == 0, result.err

    return call


def test_containers_with_named_classes(train: Callable[..., None], tmp_path: Path) -> None:
    train(folder(tmp_path / "folder"), "folder")
    assert config_of("folder")["network"]["classes"] == list(NAMED)
    for write in (zip_of_folders, tar_gz, webdataset, parquet):
        train(write(tmp_path), write.__name__)
        assert_same_run(write.__name__, "folder")


def test_containers_with_numbered_classes(train: Callable[..., None], tmp_path: Path) -> None:
    train(folder(tmp_path / "folder", NUMBERED), "folder")
    for write in (edm, npy, npz):
        train(write(tmp_path), write.__name__)
        assert_same_run(write.__name__, "folder")


def test_caches(train: Callable[..., None], tmp_path: Path) -> None:
    """Without a cache, a table is read block by block unless the order says otherwise."""
    data = parquet(tmp_path)
    for cache in ("disk", "ram", "none"):
        train(data, cache, "--cache", cache, "--shuffle", "images")
        assert_same_run(cache, "disk")
