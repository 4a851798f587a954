"""What of a folder or .zip is an image, a class, a part of a data set, or our own output."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.conditioning.class_names import in_order
from ddpm_cli.core.data import files, sources
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.errors import DdpmError
from tests.support.cli import Result

Run = Callable[..., Result]
SAMPLED = json.dumps({"seed": 0, "steps": 50, "weights": "run/model.safetensors"})
CONFIG = json.dumps({"network": {}, "diffusion": {}, "optimiser": {}})


def fill(root: Path, *names: str, **texts: str) -> Path:
    """Write images of noise, and the texts by name, with "__" for "/"."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (3, 8, 8), dtype=np.uint8)
        files.write_png(root / name, pixels)
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def zipped(root: Path, below: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(below) / file.relative_to(root))
    return path


def listed(path: Path, training: bool = True) -> ImageFiles:
    return open_image_files(path, training=training)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("train", "others"),
    [
        ("train", ("test", "val")),
        ("Training", ("VALIDATION",)),
        ("images/train", ("images/valid",)),
        ("train2017", ("val2017",)),
        ("train", ("test", "extra")),
    ],
)
def test_the_training_part_is_taken_and_said(
    tmp_path: Path, packed: bool, train: str, others: tuple[str, ...]
) -> None:
    names = [
        f"{part}/{c}/{i}.png" for part in (train, *others) for c in ("cat", "dog") for i in "01"
    ]
    root = path = fill(tmp_path / "data", *names)
    if packed:
        path = zipped(root, "data")
    source = open_source(str(path), training=True)
    assert (len(source), source.classes) == (4, ("cat", "dog"))
    [notice] = source.notices
    assert f"{train}/ is trained on; left out: " in notice and f"{others[0]}/" in notice
    part = path / "data" / train if packed else path / train
    explicit = listed(part)
    assert listed(path).fingerprint() == explicit.fingerprint()
    assert listed(path).cache_key() == explicit.cache_key()
    assert explicit.notices == ()
    with pytest.raises(DdpmError, match=r"name the part that is meant, as .*rain"):
        listed(path, training=False)


def test_a_test_part_is_never_trained_on_unasked(tmp_path: Path) -> None:
    root = fill(tmp_path / "two", "test/a/0.png", "val/a/0.png")
    with pytest.raises(DdpmError, match=r"test/, val/, none of which .*--data .*two/test does so"):
        listed(root)
    only = fill(tmp_path / "only", "test/a/0.png", "test/b/0.png")
    with pytest.raises(DdpmError, match=r"all lie in test/.*--data .*only/test"):
        listed(only)
    assert len(listed(only / "test").names) == len(listed(only, training=False).names) == 2
    loose = fill(tmp_path / "loose", "0.png", "1.png", "test/0.png")
    assert listed(loose).names == ("0.png", "1.png")
    assert "left out: test/" in listed(loose).notices[0]
    with pytest.raises(DdpmError, match="name the part to train on"):
        listed(fill(tmp_path / "several", "trainA/0.png", "trainB/0.png", "testA/0.png"))
    nested = fill(tmp_path / "nested", *(f"{c}/{p}/0.png" for c in "ab" for p in ("train", "test")))
    assert listed(nested).names == ("a/train/0.png", "b/train/0.png")


def test_part_names_among_others_are_classes(tmp_path: Path) -> None:
    root = fill(tmp_path / "vehicles", "train/0.png", "plane/0.png", "car/0.png")
    assert open_source(str(root), training=True).classes == ("car", "plane", "train")
    assert len(listed(root, training=False).names) == 3


def test_a_run_and_its_samples_are_no_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", "0.png", "1.png")
    before = listed(root)
    fill(root, "runs/a/loss.png", "runs/a/samples/0.png", runs__a__config_DOT_json=CONFIG)
    fill(root, "runs/a/generated/000000.png", runs__a__generated__sampling_DOT_json=SAMPLED)
    fill(root, "gen/000000.png", "gen/grid.png", gen__sampling_DOT_json=SAMPLED)
    after = listed(root)
    assert (after.names, after.fingerprint()) == (before.names, before.fingerprint())
    assert after.cache_key() == before.cache_key()
    assert after.notices == (f"{root}: left out: gen/, runs/a/ (made by ddpm)",)
    assert after.texts == frozenset()
    assert listed(zipped(root)).names == ("0.png", "1.png")
    with pytest.raises(DdpmError, match=r"a is a run, made by ddpm, and its plots"):
        listed(root / "runs" / "a")
    with pytest.raises(DdpmError, match=r"runs holds no images but those of a/"):
        listed(root / "runs")
    with pytest.raises(DdpmError, match=r"previews of the run"):
        listed(root / "runs" / "a" / "samples")
    other = fill(tmp_path / "other", "0.png", "a/1.png", a__config_DOT_json='{"model": 3}')
    assert len(listed(other).names) == 2  # someone else's config.json


def test_a_folder_of_samples_is_its_manifests_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "gen", "000000.png", "000001.png", "grid.png", sampling_DOT_json=SAMPLED)
    assert listed(root).names == ("000000.png", "000001.png")  # interrupted: no manifest
    fill(root, "extra.png", manifest_DOT_jsonl='{"file": "000000.png", "seed": 0}\n' * 1)
    assert listed(root, training=False).names == ("000000.png",)
    [notice] = listed(root).notices
    assert "left out: 000001.png, extra.png (not listed in manifest.jsonl)" in notice
    both = tmp_path / "both"
    for name in ("cat", "dog"):
        fill(both / name, "000000.png", "grid.png", sampling_DOT_json=SAMPLED)
    assert open_source(str(both)).classes == ("cat", "dog")
    assert listed(zipped(both, "both")).names == ("both/cat/000000.png", "both/dog/000000.png")


def test_a_second_training_in_the_folder_of_images_resumes(
    ddpm: Run, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    command = ("train", "--data", ".", "--config", tiny, "--images")
    assert ddpm(*command, 8).code == 0
    assert ddpm("sample", "runs/photos-8", "-n", 2, "--steps", 1, "--out", "gen").code == 0
    again = ddpm(*command, 16)
    assert (again.code, "24 images of 8x8" in again.err) == (0, True), again.err
    assert ".: left out: gen/, runs/photos-8/ (made by ddpm)" in again.err
    assert "Resuming from" in again.err and [p.name for p in Path("runs").iterdir()] == ["photos-8"]


def test_numbers_sort_as_numbers() -> None:
    assert in_order(["10", "2", "0", "1"]) == ["0", "1", "2", "10"]
    assert in_order(["02", "10", "01"]) == ["01", "02", "10"]
    assert in_order(["-1", "1", "-10", "0.5"]) == ["-10", "-1", "0.5", "1"]
    assert in_order(["10", "2", "cat"]) == ["10", "2", "cat"]  # not all are numbers
    assert in_order(["1" * 5000, "9"]) == ["9", "1" * 5000]
    assert in_order(["\u0662", "10"]) == ["10", "\u0662"]


def test_a_run_keeps_its_order_of_classes(ddpm: Run, tiny: Path, tmp_path: Path) -> None:
    """Earlier versions sorted numbers as text: their runs resume with the same labels."""
    root = fill(tmp_path / "numbers", *(f"{c}/{i}.png" for c in range(11) for i in range(2)))
    command = ("train", "--data", root, "--config", tiny, "--out", "run", "--images")
    given = ddpm(*command, 8)
    assert given.code == 0 and "the label of a class is its name, 0 to 10" in given.err, given.err
    config = json.loads(Path("run/config.json").read_text())
    assert config["network"]["classes"] == [str(i) for i in range(11)]
    config["network"]["classes"].sort()
    Path("run/config.json").write_text(json.dumps(config))
    plan = ddpm(*command, 16, "--dry-run", "--json").json()
    assert plan["classes"][:4] == ["0", "1", "10", "2"] and "2 is 10" in plan["labels"]
    source = sources.with_class_order(open_source(str(root)), plan["classes"])
    assert source.labels.tolist()[:6] == [0, 0, 1, 1, 2, 2]  # the images of 0, 1 and 10
    assert ddpm(*command, 16).code == 0


LABELS = [[f"0000{i // 4}/img{i:08d}.png", i % 3 * 5] for i in range(8)]


@pytest.mark.parametrize("packed", [False, True])
def test_labels_of_a_dataset_json_are_the_classes(tmp_path: Path, packed: bool) -> None:
    root = fill(tmp_path / "set", *(name for name, _ in LABELS))
    fill(root, dataset_DOT_json=json.dumps({"labels": LABELS}))
    source = open_source(str(zipped(root) if packed else root))
    assert (source.classes, source.labels.tolist()) == (("0", "5", "10"), [0, 1, 2, 0, 1, 2, 0, 1])
    assert "the classes are the labels in dataset.json" in source.notices[0]
    changed = [[name, 5 - label if label < 9 else label] for name, label in LABELS]
    fill(root, dataset_DOT_json=json.dumps({"labels": changed}))
    other = open_source(str(root))
    assert other.label_table != source.label_table and other.classes == source.classes


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"labels": None}, "are shards"),
        ({"labels": [[name, [0.0, 1.0]] for name, _ in LABELS]}, "is a vector; a class is"),
        ({"labels": [[name, -1] for name, _ in LABELS]}, "is -1; a class is a whole number"),
        ({"labels": [[name, True] for name, _ in LABELS]}, "is True; a class is"),
        ({"labels": 3}, "are not pairs"),
        ({"labels": [["x.png", 3]]}, "has no label for any"),
        ({"images": []}, 'has no "labels"'),
        ({"labels": LABELS[1:]}, "1 of 8 images has no label in dataset.json (00000/img00000000"),
    ],
)
def test_other_tables_give_no_classes_and_it_is_said(
    tmp_path: Path, document: Any, why: str
) -> None:
    root = fill(tmp_path / "set", *(name for name, _ in LABELS))
    fill(root, dataset_DOT_json=json.dumps(document))
    source = open_source(str(root))
    assert source.classes == () and set(source.labels) == {-1}
    assert why in " ".join((*source.notices, source.why_no_classes))


def test_numbered_shards_are_no_classes(tmp_path: Path, ddpm: Run) -> None:
    root = fill(tmp_path / "shards", *(f"0000{s}/{i}.png" for s in range(3) for i in range(2)))
    result = ddpm("train", "--data", root, "--steps", 1, "--batch", 2, "--dry-run")
    message = "the folders 00000 to 00002 are shards (rename them if they are classes)"
    assert result.code == 0 and f"No classes are learned: {message}" in result.err, result.err
    result = ddpm("train", "--data", root, "--conditional", "--dry-run")
    assert (result.code, f"--conditional, but {message}" in result.err) == (2, True)
    few = fill(tmp_path / "few", "00001/0.png", "00007/0.png")
    assert open_source(str(few)).classes == ("00001", "00007")


def test_folders_without_images_are_named_and_system_folders_left_out(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", "cat/0.png", "dog/0.png", "dog/@eaDir/1.png", "cat/.x/2.png")
    fill(root, "lost+found/0.png", "$RECYCLE.BIN/0.png", "__MACOSX/cat/0.png", ".ipynb/0.png")
    (root / "empty").mkdir()
    (root / "cat" / "deeper").mkdir()
    for path in (root, zipped(root)):
        listing = listed(path)
        assert listing.names == ("cat/0.png", "dog/0.png")
        assert listing.notices == (f"{path}: no images in empty/",)
    one = fill(tmp_path / "one", "cat/0.png")
    (one / "dog").mkdir()
    assert listed(one).notices == (f"{one}: no images in dog/",)


def test_links_and_pipes_do_not_hang(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", "a/0.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    os.mkfifo(root / "a" / "pipe.png")
    listing = listed(root)
    listing.fingerprint()
    assert "left out: a/up/ (a link to ./" in listing.notices[0]
    for index, message in ((1, "not a regular file"), (2, "symbolic link")):
        with pytest.raises(UnreadableError, match=message):
            listing.read(index)


def test_near_names_of_data(tmp_path: Path) -> None:
    Path("photos").mkdir()
    for spec, meant in (("cifar", "cifar10 or"), ("phtos", "photos"), ("CIFAR-10:test", "cifar10")):
        with pytest.raises(
            DdpmError, match=f"{spec}: no such folder or archive; did you mean {meant}"
        ):
            open_source(spec)
    with pytest.raises(DdpmError, match="name too long"):
        open_source("a" * 5000)
