"""Damaged archives, arrays and tables beside images are read, or refused in a line.

The whole of it: pytest -m fuzz tests/data/test_container_fuzz.py
"""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddpm_cli.core.data import files
from ddpm_cli.core.data.readers import tree
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.statistics import Statistics
from tests.support.mutations import damaged, picture, saved

SAMPLE, ALL = 300, 20_000  # mutants in the suite, and under the marker `fuzz`
NAMES = ("cat/a.png", "dog/b.png")
ROWS = [{"file_name": name, "text": f"a {name[:3]}, caf\u00e9"} for name in NAMES]

Read = Callable[[Path], None]


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], compression: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def arrays(**values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def saved_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def tabled(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def tables() -> dict[str, str]:
    """Tables and texts by name."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    csv = "file_name,text\n" + "".join(f'{r["file_name"]},"{r["text"]}"\n' for r in ROWS)
    return {
        "metadata.csv": csv,
        "captions.tsv": csv.replace('",', '"\t').replace("name,", "name\t"),
        "metadata.jsonl": lines,
        "metadata.json": json.dumps(ROWS),
        "captions.json": json.dumps({row["file_name"]: row["text"] for row in ROWS}),
        "dataset.json": json.dumps({"labels": [[name, i] for i, name in enumerate(NAMES)]}),
        "cat/a.txt": "a cat\nanother",
        "cat/a.caption": "a cat",
        "cat/a.json": json.dumps({"prompt": "a cat"}),
        "labels.csv": "file,label\ncat/a.png,0\ndog/b.png,1\n",
        "classes.txt": "cat\ndog\n",
        "cat/a.cls": "1",
        "list_attr_celeba.txt": "2\nSmiling Male\na.png  1 -1\nb.png -1  1\n",
        "list_eval_partition.txt": "a.png 0\nb.png 1\n",
        "config.json": json.dumps({"network": {}, "diffusion": {}, "optimiser": {}}),
        "sampling.json": json.dumps({"seed": 0, "steps": 5}),
        "manifest.jsonl": '{"file": "000000.png", "seed": 0}\n',
    }


def seeds() -> dict[str, bytes]:
    """Intact files by name."""
    png = saved("PNG")
    images = dict.fromkeys(NAMES, png)
    sample = {"0.png": png, "0.cls": b"1", "0.json": b'{"label": 1}', "1.png": png, "1.cls": b"0"}
    rows = [{"bytes": png, "path": "a.png"}, {"bytes": png, "path": None}]
    batch = {"data": np.zeros((2, 3 * 8 * 8), np.uint8), "labels": [1, 1000]}
    values = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    moments = np.eye(4)
    return {
        "packed.zip": zipped(images),
        "stored.zip": zipped(images | {"metadata.csv": b"file_name,text\n"}, zipfile.ZIP_STORED),
        "packed.tar": tarred(images),
        "samples.tar": tarred(sample),
        "packed.tar.gz": tarred(images, "gz"),
        "rows.parquet": tabled({"image": pa.array(rows, IMAGE), "label": [0, 1]}),
        "val_data": pickle.dumps(batch, protocol=2),
        "val_data.npz": arrays(data=batch["data"], labels=np.array(batch["labels"])),
        "Imagenet8_val.zip": zipped({"val_data": pickle.dumps(batch, protocol=2)}),
        "images.npy": saved_array(values),
        "floats.npy": saved_array(values / 255),
        "edm.zip": zipped({"a.npy": saved_array(values[0])}, zipfile.ZIP_STORED),
        "images.npz": arrays(arr_0=values),
        "statistics.npz": arrays(mu=moments[0], sigma=moments),
        **{name: text.encode() for name, text in tables().items()},
    }


def read(path: Path) -> None:
    """Read images, classes and captions, and the images to score."""
    source = open_source(str(path), training=True)
    for index in range(len(source)):
        try:
            source.image(index, Transform(3, (8, 8)))
        except files.UnreadableError:
            continue
    captions = None
    try:
        captions = source.captions() if source.captioned else None
    finally:
        assert "\n" not in source.unread(captions)


def score(path: Path) -> None:
    opened = open_input(path)
    if not isinstance(opened, Statistics):
        for _ in opened.batches(slice(0, len(opened))):
            pass


def mutants(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes, the same in every run; each kind in turn."""
    originals = list(seeds().items())
    for number in range(count):
        rng = random.Random(number)
        name, original = originals[number % len(originals)]
        yield name, damaged(rng, original, rng.choice((0, 1, 1, 2, 3)))


def outcomes(count: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    monkeypatch.setattr(tree, "_FILE_LIMIT", 1_000_000)
    monkeypatch.setenv("DDPM_CACHE", str(root / "here" / "cache"))
    folder = root / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name)
    found = set()
    (root / "alone").mkdir()
    before = {path for path in root.rglob("*") if "here" not in path.parts}
    for name, data in mutants(count):
        inside = name in tables()
        file = (folder if inside else root / "alone") / name
        file.write_bytes(data)
        for reader in (read, score):
            try:
                reader(folder if inside else file)
                found.add("read")
            except (DdpmError, UsageError) as error:
                assert str(error), name
                assert "\n" not in str(error), str(error)
                assert "object at 0x" not in str(error)
                found.add("refused")
        file.unlink()
        assert {path for path in root.rglob("*") if "here" not in path.parts} == before, name
    return found


def test_damaged_containers_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(SAMPLE, tmp_path, monkeypatch) == {"read", "refused"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.fuzz
def test_many_damaged_containers_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(ALL, tmp_path, monkeypatch) == {"read", "refused"}
    assert capfd.readouterr() == ("", "")
