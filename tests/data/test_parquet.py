"""Data sets in Parquet files, as Hugging Face publishes them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddpm_cli.core.data import loader
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.inputs.images import FileImages
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.runtime.reporting import SILENT
from tests.support.cli import Result

Run = Callable[..., Result]

NAMES = ["cat", "dog"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SMALL = Transform(3, (8, 8))


def png(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.full((8, 8, 3), value, np.uint8)
    pixels[: value % 8] //= 2
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> None:
    """A table with the metadata that the library `datasets` writes, if features are given."""
    table = pa.table(columns)
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def images(values: range) -> Any:
    rows = [{"bytes": png(value), "path": f"{value}.png"} for value in values]
    return pa.array(rows, IMAGE)


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The layout of a downloaded data set: two shards to train on, one of tests."""
    root = tmp_path / "pets"
    for shard, values in enumerate((range(0, 10), range(10, 14))):
        columns = {
            "image": images(values),
            "label": [value % 2 for value in values],
            "text": [f"number {value}" for value in values],
        }
        write(root / "data" / f"train-0000{shard}-of-00002.parquet", columns, FEATURES)
    columns = {"image": images(range(3)), "label": [0, 1, 0], "text": ["a", "b", "c"]}
    write(root / "data" / "test-00000-of-00001.parquet", columns, FEATURES)
    (root / "README.md").write_text("---\n")
    return root


def test_a_downloaded_data_set_gives_the_same_as_its_folder(
    published: Path, tmp_path: Path
) -> None:
    for value in range(14):
        folder = tmp_path / "folder" / NAMES[value % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{value:02d}.png").write_bytes(png(value))
    table, tree = open_source(str(published), training=True), open_source(str(tmp_path / "folder"))
    assert isinstance(table, FileSource)
    assert len(table) == len(tree) == 14
    assert table.classes == tree.classes == ("cat", "dog")
    assert (table.image_size, table.native_channels) == ((8, 8), 3)
    assert [len(block) for block in table.blocks] == [4, 4, 2, 4]
    assert any("only train is trained on" in notice for notice in table.notices)
    ours = loader.prepare(table, SMALL, SILENT)
    theirs = loader.prepare(tree, SMALL, SILENT)
    by_value = [*range(0, 14, 2), *range(1, 14, 2)]  # cats, then dogs
    assert (np.asarray(ours.pixels)[by_value] == theirs.pixels).all()
    assert (ours.labels[by_value] == theirs.labels).all()
    captions = table.captions()
    assert [captions.sentences[row[0]] for row in captions.indices] == [
        f"number {value}" for value in range(14)
    ]


def test_a_part_is_asked_for_where_none_is_trained_on(published: Path) -> None:
    with pytest.raises(DdpmError, match=r"holds .*train.*name the part that is meant"):
        open_source(str(published))
    assert len(open_source(str(published / "data" / "test"))) == 3
    assert len(open_source(str(published / "data" / "train-00001-of-00002.parquet"))) == 4


def test_missing_shards_are_said(published: Path) -> None:
    (published / "data" / "train-00001-of-00002.parquet").unlink()
    source = open_source(str(published), training=True)
    assert any("shards are missing: train-00001-of-00002" in notice for notice in source.notices)


def test_without_metadata_columns_are_told_by_their_types(tmp_path: Path) -> None:
    columns = {"jpg": [png(1), png(2)], "class": ["b", "a"], "width": [8, 8]}
    write(tmp_path / "x.parquet", columns)
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.classes == ("a", "b")
    assert source.labels.tolist() == [1, 0]
    assert not source.captioned
    assert "width" in source.unread(None)
    assert (source.image(1, SMALL) == 2).any()


def test_labels_without_names_are_numbers(tmp_path: Path) -> None:
    columns = {"image": images(range(3)), "label": [10, 2, 2]}
    write(tmp_path / "x.parquet", columns)
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.classes == ("2", "10")
    assert source.labels.tolist() == [1, 0, 0]


def test_null_images_are_named_and_null_labels_give_no_classes(tmp_path: Path) -> None:
    rows = [{"bytes": png(1), "path": None}, None, {"bytes": None, "path": None}]
    write(tmp_path / "x.parquet", {"image": pa.array(rows, IMAGE), "label": [0, None, 1]}, FEATURES)
    source = open_source(str(tmp_path / "x.parquet"))
    assert source.classes == ()
    assert "1 of 3 images has no label in the column label" in source.why_no_classes
    for row in (1, 2):
        with pytest.raises(UnreadableError, match=rf"x\.parquet row {row} has no image"):
            source.image(row, SMALL)
    with pytest.raises(DdpmError, match="2 of 3 images cannot be read"):
        loader.prepare(source, SMALL, SILENT)


def test_images_beside_the_table_and_none_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.png").write_bytes(png(3))
    (tmp_path / "out.png").write_bytes(png(4))
    rows = [{"bytes": None, "path": "in.png"}, {"bytes": None, "path": "../out.png"}]
    write(tmp_path / "data" / "x.parquet", {"image": pa.array(rows, IMAGE)})
    source = open_source(str(tmp_path / "data" / "x.parquet"))
    assert source.image(0, SMALL).max() == 3
    with pytest.raises(UnreadableError, match="lies outside"):
        source.image(1, SMALL)


def test_a_copy_has_the_same_fingerprint_and_a_change_another(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"image": images(range(3))})
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "x.parquet"
    copy.write_bytes((tmp_path / "x.parquet").read_bytes())
    first = open_source(str(tmp_path / "x.parquet"))
    assert open_source(str(copy)).fingerprint == first.fingerprint
    write(copy, {"image": images(range(1, 4))})
    assert open_source(str(copy)).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!doctype html><p>sign in", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        (b"PAR1" + b"\xff" * 40 + b"PAR1", "damaged or cut short"),
    ],
)
def test_what_is_no_table_is_described(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DdpmError, match=words):
        open_source(str(tmp_path / "x.parquet"))


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, {"image": images(range(12))})
    data = bytearray(path.read_bytes())
    data[200:240] = b"\xff" * 40  # in the pixels of the first row group
    path.write_bytes(data)
    source_or_error: Any
    try:
        source_or_error = open_source(str(path))
        loader.prepare(source_or_error, SMALL, SILENT)
    except DdpmError as error:
        source_or_error = error
    assert "x.parquet" in str(source_or_error)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": [1, 2]}, "no column of images"),
        ({"a": [b"x"], "b": [b"y"]}, "any of the columns a, b"),
        ({"image": pa.array([], IMAGE)}, "no rows"),
    ],
)
def test_tables_without_images(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    write(tmp_path / "x.parquet", columns)
    with pytest.raises(DdpmError, match=words):
        open_source(str(tmp_path / "x.parquet"))


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.parquet", {"image": images(range(2))})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DdpmError, match=r"pip install 'ddpm-cli\[parquet\]'"):
        open_source(str(tmp_path / "x.parquet"))


def test_training_and_scores_take_it(ddpm: Run, tiny: Path, published: Path) -> None:
    run = ddpm(
        "train", "--data", published, "--config", tiny, "--images", 8, "--no-captions", "--out", "r"
    )
    assert run.code == 0, run.err
    assert "2 classes (cat, dog)" in run.err
    scored = open_input(str(published / "data" / "test"))
    assert isinstance(scored, FileImages)
    assert [batch.shape for batch in scored.batches(slice(0, 3))] == [(3, 3, 8, 8)]


def test_some_shards_are_named_by_a_range(published: Path) -> None:
    some = published / "data" / "train-{00000..00001}-of-00002.parquet"
    ranged = open_source(str(some), SILENT, training=True)
    whole = open_source(str(published), SILENT, training=True)
    assert len(ranged) == len(whole) == 14
    assert ranged.labels.tolist() == whole.labels.tolist()
    missing = published / "data" / "train-{00001..00002}-of-00003.parquet"
    with pytest.raises(DdpmError, match="2 of 2 shards are not there: train-00001-of-00003"):
        open_source(str(missing), SILENT)


def test_tables_beside_images_are_left_out_and_said(published: Path) -> None:
    (published / "cat.png").write_bytes(png(3))
    source = open_source(str(published), SILENT)
    assert len(source) == 1
    assert any("3 .parquet (give the .parquet itself" in notice for notice in source.notices)
