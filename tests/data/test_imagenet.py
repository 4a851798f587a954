"""Down-sampled ImageNet in its published layouts, and pickles that want more than data."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data import loader
from ddpm_cli.core.data.readers import restricted_pickle
from ddpm_cli.core.data.readers.restricted_pickle import RefusedError
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.runtime.reporting import SILENT

IMAGES = 3  # in a batch
SIDE = 16
FORM = Transform(3, (SIDE, SIDE))


def batch(number: int, side: int = SIDE) -> dict[str, Any]:
    """As published: planar rows, and labels from 1."""
    random = np.random.default_rng(number)
    data = random.integers(0, 256, (IMAGES, 3 * side * side), np.uint8)
    labels = [(7 * number + i) % 1000 + 1 for i in range(IMAGES)]
    return {"data": data, "labels": labels, "mean": data.mean(axis=0)}


def pickled(content: dict[str, Any]) -> bytes:
    return pickle.dumps(content, protocol=2)


def python2(content: dict[str, Any]) -> bytes:
    """The same as Python 2 wrote it: keys and the bytes of arrays are its `str`."""
    out = io.BytesIO()

    def text(value: bytes) -> None:
        out.write(b"T" + len(value).to_bytes(4, "little") + value)  # BINSTRING

    def array(value: np.ndarray[Any, Any]) -> None:
        out.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(")
        out.write(b"".join(b"I%d\n" % n for n in value.shape) + b"tcnumpy\ndtype\n(")
        text(value.dtype.str[1:].encode())
        out.write(b"I0\nI1\ntR(I3\n")
        text(value.dtype.str[:1].encode())
        out.write(b"NNNI-1\nI-1\nI0\ntbI00\n")
        text(value.tobytes())
        out.write(b"tb")

    out.write(b"\x80\x02}(")
    for key, value in content.items():
        text(key.encode())
        if isinstance(value, np.ndarray):
            array(value)
        else:
            out.write(b"](" + b"".join(b"I%d\n" % n for n in value) + b"e")
    out.write(b"u.")
    return out.getvalue()


def npz(content: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, data=content["data"], labels=np.asarray(content["labels"]))
    return out.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)


def expected(batches: range) -> np.ndarray[Any, Any]:
    rows = np.concatenate([batch(number)["data"] for number in batches])
    return rows.reshape(-1, 3, SIDE, SIDE)


def check(source: Source, batches: range = range(1, 11)) -> None:
    images = loader.prepare(source, FORM, SILENT)
    assert (np.asarray(images.pixels) == expected(batches)).all()
    labels = [label - 1 for number in batches for label in batch(number)["labels"]]
    assert images.labels.tolist() == labels
    assert source.blocks == tuple(range(3 * i, 3 * i + 3) for i in range(len(batches)))
    assert (len(source.classes), source.image_size) == (1000, (SIDE, SIDE))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Both parts, as the 64x64 images are published."""
    (tmp_path / "in").mkdir()
    for part, numbers in ((1, range(1, 6)), (2, range(6, 11))):
        members = {f"train_data_batch_{n}": pickled(batch(n)) for n in numbers}
        archive(tmp_path / "in" / f"Imagenet64_train_part{part}.zip", members)
    return tmp_path / "in"


def test_both_parts_are_one_set(parts: Path) -> None:
    folder, one = open_source(str(parts)), open_source(str(parts / "Imagenet64_train_part2.zip"))
    check(folder)
    assert folder.notices == ()
    assert one.fingerprint == folder.fingerprint
    assert folder.name == "imagenet16"
    again = open_source(str(parts))  # its labels from the cache
    assert again.labels.tolist() == folder.labels.tolist()


def test_a_missing_part_is_said(parts: Path) -> None:
    (parts / "Imagenet64_train_part2.zip").unlink()
    source = open_source(str(parts))
    check(source, range(1, 6))
    assert "5 of 10 batches are there; missing: train_data_batch_6" in source.notices[0]


@pytest.mark.parametrize("write", [pickled, python2, npz])
def test_unpacked_batches(tmp_path: Path, write: Any) -> None:
    folder = tmp_path / "in" / ("Imagenet16_train_npz" if write is npz else ".")
    folder.mkdir(parents=True)
    for number in range(1, 11):
        suffix = ".npz" if write is npz else ""
        (folder / f"train_data_batch_{number}{suffix}").write_bytes(write(batch(number)))
    check(open_source(str(tmp_path / "in")))


def test_archives_of_npz(tmp_path: Path) -> None:
    name = "Imagenet32_train_npz"
    members = {f"{name}/train_data_batch_{n}.npz": npz(batch(n)) for n in range(1, 11)}
    archive(tmp_path / f"{name}.zip", members)
    check(open_source(str(tmp_path / f"{name}.zip")))


def test_other_sizes_beside_them_are_not_mixed_in(parts: Path) -> None:
    archive(parts / "Imagenet32_train.zip", {"train_data_batch_1": pickled(batch(99))})
    check(open_source(str(parts / "Imagenet64_train_part1.zip")))
    with pytest.raises(DdpmError, match="holds ImageNet at 32x32, 64x64: name one"):
        open_source(str(parts))


def test_validation_images(parts: Path) -> None:
    content = batch(1)
    del content["mean"]
    archive(parts / "Imagenet64_val.zip", {"val_data": pickled(content)})
    check(open_source(str(parts / "Imagenet64_val.zip")), range(1, 2))
    assert open_source(str(parts), training=True).notices == (
        f"{parts}: only train is trained on; left out: val",
    )
    with pytest.raises(DdpmError, match=r"holds train and val: name .*Imagenet64_val\.zip"):
        open_source(str(parts))
    scored = open_input(parts / "Imagenet64_val.zip")
    batches = [*scored.batches(slice(0, 3))]  # type: ignore[union-attr]
    assert (np.concatenate(batches) == expected(range(1, 2))).all()


def test_the_same_as_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "val_data").write_bytes(pickled(batch(1)))
    for index, image in enumerate(expected(range(1, 2))):
        (tmp_path / "png").mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "png" / f"{index}.png")
    ours, theirs = open_source(str(tmp_path / "in")), open_source(str(tmp_path / "png"))
    for form in (FORM, Transform(1, (8, 8))):
        assert all((ours.image(i, form) == theirs.image(i, form)).all() for i in range(IMAGES))


def test_names_of_the_classes(parts: Path) -> None:
    names = {label: "crane" if label in (5, 9) else f"thing{label}" for label in range(1, 1001)}
    lines = [f"n{label:08d} {label} {name}" for label, name in names.items()]
    (parts / "map_clsloc.txt").write_text("\n".join(lines))
    classes = open_source(str(parts)).classes
    assert classes[:5] == ("thing1", "thing2", "thing3", "thing4", "crane_n00000005")
    assert classes[8] == "crane_n00000009"
    (parts / "map_clsloc.txt").write_text("n1 1 a\n")
    with pytest.raises(DdpmError, match="does not name the labels 1 to 1000"):
        open_source(str(parts))


def test_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet16"
    with pytest.raises(DdpmError, match=r"imagenet16 is not in .*put Imagenet16_train\.zip there"):
        open_source("imagenet16", root=tmp_path)
    with pytest.raises(DdpmError, match=r"Imagenet64_train_part1\.zip, Imagenet64_train_part2"):
        open_source("imagenet64", root=tmp_path)
    folder.mkdir()
    (folder / "val_data").write_bytes(pickled(batch(1)))
    check(open_source("imagenet16:val", root=tmp_path), range(1, 2))
    with pytest.raises(UsageError, match="imagenet16:train and imagenet16:val"):
        open_source("imagenet16:all", root=tmp_path)


class _Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_Call(os.system, "touch pwned"), "posix.system, which is refused|nt.system"),
        (_Call(eval, "1"), "builtins.eval|__builtin__.eval"),
        (_Call(np.dtype, "O"), "array of 'O"),
        ({"data": np.array([_Call(os.getcwd)], object), "labels": [1]}, "array of 'O"),
        (_Call(getattr, 1, "real"), "getattr"),
    ],
)
def test_other_content_is_refused_by_name_and_not_run(
    tmp_path: Path, content: Any, words: str
) -> None:
    (tmp_path / "val_data").write_bytes(pickled(content))
    with pytest.raises(DdpmError, match=rf"val_data is not read: .*({words})"):
        open_source(str(tmp_path / "val_data"))
    assert not Path("pwned").exists()


def test_an_array_larger_than_its_bytes_is_refused() -> None:
    small = np.zeros((2, 2), np.uint8)
    data = pickle.dumps(small, protocol=2).replace(b"K\x02K\x02\x86", b"K\x02K\x7f\x86", 1)
    with pytest.raises(ValueError, match="cannot reshape"):
        restricted_pickle.load(io.BytesIO(data))
    with pytest.raises(RefusedError):
        restricted_pickle.load(io.BytesIO(pickle.dumps(slice(1), protocol=2)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickled(batch(1))[:500],
        pickled({"data": np.zeros((3, 10), np.uint8), "labels": [1, 2, 3]}),
        pickled({"data": np.zeros((3, 768), np.float32), "labels": [1, 2, 3]}),
        pickled({"data": np.zeros((3, 768), np.uint8), "labels": [1, 2]}),
        pickled({"data": np.zeros((3, 768), np.uint8), "labels": [0, 1, 2]}),
        pickled({"labels": [1]}),
        pickled([1, 2]),
        pickle.dumps(3),
    ],
)
def test_damaged_batches_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "val_data").write_bytes(content)
    with pytest.raises(DdpmError, match=r"val_data is no batch of down-sampled ImageNet"):
        open_source(str(tmp_path / "val_data"))
