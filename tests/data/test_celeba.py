"""CelebA in its published layouts: attributes as classes, official parts, a model of several."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.errors import DdpmError, UsageError
from tests.support.cli import Result, config_of, refused

NAMES = ("5_o_Clock_Shadow", "Eyeglasses", "Male", "Smiling", "Young")
COUNT = 24
PARTS = np.repeat([0, 1, 2], [16, 4, 4])


def values() -> np.ndarray:
    """Attributes (COUNT, 5) as the table has them: -1 and 1."""
    return np.random.default_rng(1).choice([-1, 1], (COUNT, len(NAMES)))


def jpeg(male: bool, smiling: bool) -> bytes:
    """An image of 8x8: light on the left if male, on the right if smiling."""
    pixels = np.full((8, 8, 3), 60, np.uint8)
    pixels[:, :4] += 150 * male
    pixels[:, 4:] += 150 * smiling
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def attribute_table() -> str:
    """list_attr_celeba.txt to the byte: numbers are right-aligned, lines end with a space."""
    rows = [
        f"{name(i)} {' '.join(f'{value:2d}' for value in row)} \n" for i, row in enumerate(values())
    ]
    return f"{COUNT}\n{' '.join(NAMES)} \n" + "".join(rows)


def kaggle_table() -> str:
    rows = [f"{name(i)},{','.join(map(str, row))}\n" for i, row in enumerate(values())]
    return f"image_id,{','.join(NAMES)}\n" + "".join(rows)


def images() -> dict[str, bytes]:
    return {
        name(i): jpeg(bool(row[2] > 0), bool(row[3] > 0)) for i, row in enumerate(values().tolist())
    }


def published(images_in: str = "img_align_celeba/") -> dict[str, bytes]:
    """The files of torchvision's layout, by name."""
    tables = {
        "list_attr_celeba.txt": attribute_table(),
        "list_eval_partition.txt": "".join(f"{name(i)} {p}\n" for i, p in enumerate(PARTS)),
        "identity_CelebA.txt": "".join(f"{name(i)} {i % 3 + 1}\n" for i in range(COUNT)),
        "list_bbox_celeba.txt": "2\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n",
    }
    return {file: text.encode() for file, text in tables.items()} | {
        f"{images_in}{file}": content for file, content in images().items()
    }


def kaggle() -> dict[str, bytes]:
    """The files of Kaggle's archive, with its doubled folder."""
    parts = "image_id,partition\n" + "".join(f"{name(i)},{p}\n" for i, p in enumerate(PARTS))
    folder = "img_align_celeba/img_align_celeba/"
    return {
        "list_attr_celeba.csv": kaggle_table().encode(),
        "list_eval_partition.csv": parts.encode(),
        **{f"{folder}{file}": content for file, content in images().items()},
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for file, content in files.items():
            opened.writestr(file, content)
    return path


def layouts(kind: str) -> Path:
    """A small CelebA in one of the layouts that are found."""
    if kind == "folder":
        return write(Path("faces"), published())
    if kind == "official":  # as the publication's own drive has it
        files = published("")
        archive(
            Path("faces/Img/img_align_celeba.zip"),
            {f"img_align_celeba/{n}": files.pop(n) for n in images()},
        )
        parts = files.pop("list_eval_partition.txt")
        write(Path("faces/Eval"), {"list_eval_partition.txt": parts})
        return write(Path("faces/Anno"), files).parent
    if kind == "zip":
        return archive(Path("faces.zip"), published("celeba/img_align_celeba/"))
    if kind == "kaggle":
        return archive(Path("archive.zip"), kaggle())
    return write(Path("faces"), kaggle())


def opened(path: Path, part: str = "", *attributes: str) -> Source:
    """As a training opens it."""
    spec = f"{path}:{part}" if part else str(path)
    return open_source(spec, training=True, attributes=attributes)


@pytest.mark.parametrize("kind", ["folder", "official", "zip", "kaggle", "kaggle folder"])
def test_every_layout_gives_the_training_part_and_its_attributes(kind: str) -> None:
    source = opened(layouts(kind), "", "Smiling", "Male")
    expected = (values()[PARTS == 0][:, [3, 2]] + 1) // 2
    assert source.classes == ("Smiling", "Male") and source.labels.tolist() == expected.tolist()
    assert len(source) == 16 and source.image_size == (8, 8) and source.native_channels == 3
    assert any("only train of" in n and "valid 4, test 4" in n for n in source.notices), (
        source.notices
    )
    assert source.unread(None) == "" and source.name == ("archive" if kind == "kaggle" else "faces")
    assert all(n.startswith(("faces", "archive")) for n in source.notices), source.notices


def test_parts_and_attributes_by_name() -> None:
    path = layouts("folder")
    counts = {part: len(opened(path, part)) for part in ("train", "valid", "test", "all")}
    assert counts == {"train": 16, "valid": 4, "test": 4, "all": 24}
    test = opened(path, "test", "Male")
    assert test.classes == ("not Male", "Male")
    assert test.labels.tolist() == ((values()[PARTS == 2][:, 2] + 1) // 2).tolist()
    every = opened(path, "all", "all")
    assert every.classes == NAMES
    assert every.labels.tolist() == ((values() + 1) // 2).tolist()
    plain = opened(path)
    assert plain.classes == () and "--attributes Young learns one of the 5" in plain.why_no_classes
    prints = [opened(path, part).fingerprint for part in ("", "train", "valid", "all")]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    with pytest.raises(DdpmError, match="name the part that is meant, as faces:test, or faces:all"):
        open_source("faces")
    tables = {opened(path, "", *names).label_table for names in (["Male"], ["Young"], NAMES)}
    assert len(tables) == 3


def test_the_named_set_lies_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DdpmError, match=r"celeba is not in .*img_align_celeba.zip"):
        open_source("celeba")
    folder = tmp_path / "cache" / "datasets" / "celeba"
    folder.parent.mkdir(parents=True)
    layouts("folder").rename(folder)
    assert [len(open_source(spec)) for spec in ("celeba", "celeba:test")] == [16, 4]
    assert open_source("celeba").name == "celeba"
    with pytest.raises(UsageError, match=r"celeba:tst: the parts of CelebA are train, valid"):
        open_source("celeba:tst")


def changed(table: str, old: str, new: str) -> Path:
    """A CelebA with a change in one of its tables."""
    path = layouts("folder")
    text = (path / table).read_text()
    assert old in text
    (path / table).write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("attr", "24\n", "25\n", "announces 25 rows and has 24"),
        ("attr", "24\n", "", "first line should be the number of images"),
        ("attr", " Male ", " Young ", "no line of attributes' names, each of them once"),
        ("attr", "000003.jpg ", "000003.jpg  1 ", "line 5 has 6 values for 5 attributes"),
        ("attr", "000003.jpg ", "000002.jpg ", "line 5: 000002.jpg is there twice"),
        ("attr", "000003.jpg ", "000103.jpg ", "no row for 1 image: img_align_celeba/000003.jpg"),
        ("eval", "000002.jpg 0", "000002.jpg 3", "line 2 should be .* not '000002.jpg 3'"),
    ],
)
def test_tables_at_fault_are_named(table: str, old: str, new: str, message: str) -> None:
    file = {"attr": "list_attr_celeba.txt", "eval": "list_eval_partition.txt"}[table]
    with pytest.raises(DdpmError, match=message):
        opened(changed(file, old, new), "", "all")


def test_a_value_that_is_not_one_or_minus_one_is_named() -> None:
    path = write(Path("faces"), kaggle())
    table = (path / "list_attr_celeba.csv").read_text().splitlines()
    table[4] = "000004.jpg,1,1,0,1,1"
    (path / "list_attr_celeba.csv").write_text("\n".join(table))
    with pytest.raises(DdpmError, match=r"csv, line 5: Male of 000004.jpg is '0'; .* 1 or -1"):
        opened(path, "", "Male")
    assert opened(path, "", "Young").labels.shape == (16,)  # another column is in order


def test_images_and_rows_that_do_not_fit_are_named() -> None:
    path = layouts("folder")
    (path / "img_align_celeba" / name(3)).unlink()
    source = opened(path, "", "Male")
    assert len(source) == 15
    assert any(
        "1 row of list_attr_celeba.txt without image: 000004.jpg" in n for n in source.notices
    )
    write(path, {"img_align_celeba/extra.jpg": jpeg(True, True)})
    notices = opened(path, "", "Male").notices
    assert any("1 image in no part: img_align_celeba/extra.jpg" in n for n in notices), notices
    with pytest.raises(DdpmError, match=r"no row for 1 image: .*extra.jpg"):
        opened(path, "all", "Male")
    write(path, {"img_celeba/000001.jpg": jpeg(True, True)})  # in the wild, not aligned
    assert any("only img_align_celeba/ is taken" in n for n in opened(path).notices)
    write(path, {"img_align_celeba/000001.png": b""})
    with pytest.raises(DdpmError, match=r"000001.jpg and .*000001.png are one image"):
        opened(path)


def test_attributes_and_parts_that_are_not_there() -> None:
    path = layouts("folder")
    with pytest.raises(UsageError, match=r"'smilling' is not .* did you mean Smiling"):
        opened(path, "", "smilling")
    with pytest.raises(UsageError, match="names Male twice"):
        opened(path, "", "Male", "Male")
    (path / "list_eval_partition.txt").unlink()
    assert len(opened(path)) == 24
    with pytest.raises(DdpmError, match=r"no list_eval_partition.txt, which says what is test"):
        opened(path, "test")
    (path / "list_attr_celeba.txt").unlink()
    for part, attributes in (("test", ()), ("", ("Male",))):
        with pytest.raises(DdpmError, match=r"is for CelebA, and .* has no list_attr_celeba.txt"):
            opened(path, part, *attributes)
    with pytest.raises(DdpmError, match="is for CelebA, and shapes has none"):
        open_source("shapes", attributes=["Male"])


@pytest.fixture
def train(ddpm: Callable[..., Result], tiny: Path) -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        options = ("--data", "faces", "--config", tiny, "--timesteps", 10, "--out", "run")
        return ddpm("train", *options, *arguments)

    return call


def manifest(folder: str) -> list[Any]:
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    return [json.loads(line)["class"] for line in lines]


@pytest.mark.usefixtures("quick_scores")
def test_a_model_of_several_attributes(
    train: Callable[..., Result], ddpm: Callable[..., Result], trained: Path
) -> None:
    layouts("folder")
    scoring = ("--fid-every", 32, "--fid-n", 4, "--fid-features", trained)
    done = train("--attributes", "Smiling,Male,Young", "--images", 32, *scoring)
    assert done.code == 0, done.err
    assert "3 classes (Smiling, Male, Young)" in done.err
    assert "an image has any number of them, such as" in done.err
    config = config_of("run")
    assert config["data"]["attributes"] == ["Smiling", "Male", "Young"]
    assert config["network"]["multi_label"] is True

    options = ("--class", "Smiling+Male:2", "--class", "none", "--steps", 2, "--guidance", 3)
    assert ddpm("sample", "run", *options, "--out", "s").code == 0
    assert manifest("s") == ["Smiling+Male", "Smiling+Male", "none"]
    for data in ((), ("--data", "faces:test")):
        result = ddpm("nll", "run", *data, "-n", 2, "--json")
        assert result.code == 0 and np.isfinite(result.json()["total"]), result.err
    done = ddpm("fid", "faces:test", "run", "--features", trained, "-n", 4, "--steps", 1)
    assert done.code == 0, done.err

    more = train("--images", 40)  # resumes with the attributes of the run
    assert more.code == 0 and "Resuming" in more.err, more.err


def test_a_run_keeps_its_attributes_and_labels(train: Callable[..., Result]) -> None:
    layouts("folder")
    assert train("--attributes", "Smiling,Male,Young", "--images", 8).code == 0
    again = ("--images", 16, "--dry-run")
    assert train(*again).code == 0
    refused(train(*again, "--attributes", "Smiling,Male"), "would change", "--attributes")
    refused(train(*again, "--unconditional"), "would change", "network.classes")
    refused(train("--unconditional", "--attributes", "Male"), "--unconditional learns none")
    text = Path("faces/list_attr_celeba.txt").read_text()
    start, swapped = text.index(name(0)) + len(name(0)) + 1, {"-1": " 1", " 1": "-1"}
    for column, code in ((0, 0), (2, 1)):  # 5_o_Clock_Shadow is not learned, Male is
        at = start + 3 * column
        changed = text[:at] + swapped[text[at : at + 2]] + text[at + 2 :]
        Path("faces/list_attr_celeba.txt").write_text(changed)
        result = train(*again)
        assert (result.code, "the labels of faces" in result.err) == (code, bool(code)), result.err


def test_a_model_of_one_attribute_has_two_classes(
    train: Callable[..., Result], ddpm: Callable[..., Result]
) -> None:
    layouts("folder")
    done = train("--attributes", "Male", "--images", 16)
    assert done.code == 0, done.err
    assert config_of("run")["network"]["classes"] == ["not Male", "Male"]
    assert config_of("run")["network"]["multi_label"] is False
    assert ddpm("sample", "run", "-n", 3, "--steps", 1, "--out", "s").code == 0
    assert manifest("s") == ["not Male", "Male", "not Male"]


def test_a_config_file_brings_its_attributes_to_its_own_images_alone(
    train: Callable[..., Result], ddpm: Callable[..., Result], photos: Path
) -> None:
    layouts("folder")
    assert train("--attributes", "Male,Young", "--images", 8).code == 0
    done = ddpm("train", "--config", "run/config.json", "--out", "same")
    assert done.code == 0, done.err
    same = config_of("same")
    assert same["network"]["multi_label"] and same["data"]["attributes"] == ["Male", "Young"]
    done = ddpm("train", "--config", "run/config.json", "--data", photos, "--out", "others")
    assert done.code == 0, done.err
    others = config_of("others")
    assert others["network"]["classes"] == ["dark", "light"]
    assert not others["network"]["multi_label"]
    assert others["data"]["attributes"] == others["data"]["combinations"] == []
    fewer = ("--attributes", "Young", "--images", 8, "--out", "fewer")
    done = ddpm("train", "--config", "run/config.json", *fewer)
    assert done.code == 0, done.err
    assert config_of("fewer")["network"]["classes"] == ["not Young", "Young"]


def test_a_plain_training_says_what_could_be_learned(train: Callable[..., Result]) -> None:
    layouts("folder")
    done = train("--dry-run")
    assert done.code == 0, done.err
    assert "No classes are learned: --attributes Young learns one of the 5 attributes" in done.err
    refused(train("--conditional"), "--attributes Young learns one")
