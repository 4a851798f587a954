"""Classes from files beside the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.sources import Source, open_source


def folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(root / name)
    return root


def classes(root: Path) -> tuple[tuple[str, ...], list[int]]:
    source: Source = open_source(str(root))
    return source.classes, source.labels.tolist()


@pytest.mark.parametrize(
    ("table", "content"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "label": "dog"}\n{"file_name": "b.png", "label": "cat"}\n',
        ),
        ("metadata.csv", "file_name,label\na.png,dog\nb.png,cat\n"),
        ("labels.csv", "\ufefffile;class\na.png;dog\nb.png;cat\n"),
        ("labels.json", '[{"image": "a.png", "label": "dog"}, {"image": "b.png", "label": "cat"}]'),
    ],
)
def test_a_table_with_labels(tmp_path: Path, table: str, content: str) -> None:
    root = folder(tmp_path, "a.png", "b.png")
    (root / table).write_text(content, encoding="utf-8")
    source = open_source(str(root))
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [1, 0])
    assert source.notices[-1:] == (f"{root}: the classes are the labels in {table}",)
    assert source.unread(None) == ""
    assert source.label_table != ""


def test_tables_lie_in_any_folder_and_come_before_class_folders(tmp_path: Path) -> None:
    root = folder(tmp_path, "x/1.png", "y/2.png")
    for name, image in (("x", "1.png"), ("y", "2.png")):
        (root / name / "metadata.csv").write_text(f"file_name,label\n{image},3\n")
    assert classes(root) == (("3",), [0, 0])


def test_an_image_without_a_label_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, "a.png", "b.png")
    (root / "labels.csv").write_text("file,label\na.png,dog\nb.png,\n")
    source = open_source(str(root))
    assert source.classes == ()
    assert source.why_no_classes == "1 of 2 images has no label in labels.csv (b.png)"


def test_a_damaged_table_gives_a_notice(tmp_path: Path) -> None:
    root = folder(tmp_path, "a.png", "b.png")
    (root / "labels.jsonl").write_text('{"file": "a.png", "label": 1.5}\n')
    source = open_source(str(root))
    assert source.classes == ()
    assert source.notices[-1:] == (
        f"{root}: labels.jsonl gives no classes: line 1: label is 1.5; a class is a name, or a "
        "whole number from 0",
    )


def test_numbers_beside_the_images_with_and_without_names(tmp_path: Path) -> None:
    root = folder(tmp_path, "0001.png", "0002.png", "0003.png")
    for key, label in (("0001", 2), ("0002", 0), ("0003", 2)):
        (root / f"{key}.cls").write_text(f"{label}\n")
    assert classes(root) == (("0", "2"), [1, 0, 1])
    (root / "classes.txt").write_text("cat\ndog\nowl\n")
    source = open_source(str(root))
    assert (source.classes, source.labels.tolist()) == (("cat", "dog", "owl"), [2, 0, 2])
    assert source.notices[-1].endswith("no images of 1 of the 3 classes: dog")
    assert source.unread(None) == ""


def test_labels_and_captions_in_the_json_beside_an_image(tmp_path: Path) -> None:
    root = folder(tmp_path, "a.png", "b.png")
    for key, label in (("a", "dog"), ("b", "cat")):
        (root / f"{key}.json").write_text(json.dumps({"label": label, "caption": f"a {label}"}))
    source = open_source(str(root))
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [1, 0])
    assert source.captions().sentences == ("a dog", "a cat")


def test_json_with_captions_alone_leaves_the_class_folders(tmp_path: Path) -> None:
    root = folder(tmp_path, "x/a.png", "y/b.png")
    for name in ("x/a", "y/b"):
        (root / f"{name}.json").write_text('{"caption": "a thing"}')
    assert classes(root) == (("x", "y"), [0, 1])
