"""`ddpm data`: what it prints, its JSON, the sheet it writes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.loader import prepare
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime import files
from ddpm_cli.core.runtime.reporting import SILENT
from tests.support.cli import Result, refused

Call = Callable[..., Result]


def test_a_folder_in_words(ddpm: Call, photos: Path) -> None:
    (photos / "light" / "bad.png").write_bytes(b"<html>")
    (photos / "dark" / "again.png").write_bytes((photos / "dark" / "3.png").read_bytes())
    result = ddpm("data", photos, "--holdout", 4)
    assert result.code == 0  # the others can be trained on
    lines = result.out.splitlines()
    assert lines[0] == "photos: 26 images"
    assert "Sizes: all 8x8 (height x width)" in lines and "Formats: 25 PNG" in lines
    unreadable = lines[lines.index("Unreadable: 1") + 1]
    assert unreadable.startswith("  light/bad.png: not an image but a web page (HTML)")
    assert "2 classes:" in lines
    bars = {line.split()[0]: line.split()[-1] for line in lines if "█" in line}
    assert bars == {"dark": "13", "light": "13"}
    assert "Images that look like others: 1, of these the same file: 1" in lines
    assert "  dark/3.png = dark/again.png" in lines
    assert "Contact sheet: data.png, 25 images as 8x8x3" in lines
    assert lines[-1].startswith(f"Next: ddpm train --data {photos} --holdout 4 --skip-bad")


def test_its_json(ddpm: Call, photos: Path) -> None:
    result = ddpm("data", photos, "--json", "--no-sheet", "--size", "8x16", "--channels", 1)
    found = result.json()
    assert found["images"] == found["looked_at"] == 24
    assert found["classes"] == {"dark": 12, "light": 12} and found["imbalance"] == 1
    assert found["sizes"] == {
        "different": 1, "smallest": [8, 8], "largest": [8, 8],
        "most_common": [8, 8], "most_common_images": 24,
    }  # fmt: skip
    assert found["formats"] == {"PNG": 24} and found["traits"] == {}
    assert found["unreadable"] == found["equal"] == found["similar"] == []
    assert (found["size"], found["channels"], found["sheet"]) == ([8, 16], 1, None)
    assert found["captions"] is None
    few = found["advice"][0]
    assert few["warning"] and few["flags"][0] == "--augment 0.12 --images 7000"
    assert "--augment 0.12 --images 7000" in found["command"]
    assert not list(Path.cwd().iterdir())


def test_all_bars_but_of_many_classes(ddpm: Call, tmp_path: Path) -> None:
    for i in range(23):
        for j in range(2 if i == 22 else 1):
            (tmp_path / "many" / f"n{i:02}").mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([i, j]).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "many" / f"n{i:02}" / f"{j}.png")
    out = ddpm("data", tmp_path / "many", "--no-sheet").out
    bars = [line for line in out.splitlines() if "█" in line]
    assert len(bars) == 20 and bars[0].split()[0] == "n22"
    assert "  … 3 more, of 1 to 1 images" in out
    assert "23 classes, the largest 2 times the smallest:" in out


def test_the_next_command_has_what_was_given(ddpm: Call, photos: Path) -> None:
    given = ("--size", "8x16", "--fit", "pad", "--background", "black", "--holdout", 2, "--seed", 3)
    last = ddpm("data", photos, *given).out.splitlines()[-1]
    for name, value in zip(given[::2], given[1::2], strict=True):
        assert f"{name} {value}" in last
    sheet = np.asarray(Image.open("data.png"))  # 24 images, enlarged ten times, in rows of five
    assert sheet.shape[1] == 5 * (10 * 16 + 4) + 4
    assert (sheet[4 : 4 + 80, 4 : 4 + 4 * 10] == 0).all()  # 8x8 in the middle of 8x16
    assert (sheet[4 : 4 + 80, 4 + 4 * 10 : 4 + 12 * 10] > 0).all()
    assert "as 8x8x3" in ddpm("data", photos, "--resize-to-power", "up").out


def test_captions_in_words(ddpm: Call, photos: Path) -> None:
    for label in ("dark", "light"):
        for i in range(12):
            (photos / label / f"{i}.txt").write_text(f"a {label} square on the left\nsquare {i}")
    out = ddpm("data", photos, "--no-sheet").out
    assert "14 different captions (.txt files), 2 an image" in out
    # ten of 8 bytes ("square 0"), two of 9, and two of six words
    assert "words 2/2/6, bytes 8/8/26 (shortest/median/longest)" in out
    assert "captions say left and right" in out and "--no-flip" in out.splitlines()[-1]
    (photos / "dark" / "0.txt").unlink()
    out = ddpm("data", photos, "--no-sheet").out
    assert "Captions cannot be used: " in out and "dark/0.png" in out


def test_what_is_left_out_is_said(ddpm: Call, photos: Path) -> None:
    (photos / "dark" / "drawing.svg").write_text("<svg/>")
    (photos / "dark" / "1.txt").write_text("one caption of 24 images")
    found = ddpm("data", photos, "--no-sheet", "--json").json()
    assert any(".svg" in notice for notice in found["notices"])
    assert "23 of 24 images have no caption" in found["no_captions_because"]
    assert ["--no-captions"] in [each["flags"] for each in found["advice"]]
    out = ddpm("data", photos, "--no-sheet").out
    assert all(notice in out for notice in found["notices"])


def test_images_that_are_also_elsewhere(ddpm: Call, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "test"
    other.mkdir()
    image = Image.open(photos / "dark" / "5.png").resize((32, 32), Image.Resampling.BICUBIC)
    image.save(other / "copied.png")
    result = ddpm("data", photos, "--against", other, "--no-sheet")
    assert "Images that look like ones of test: 1\n  dark/5.png = copied.png" in result.out
    assert ddpm("data", photos, "--against", other, "--json", "--no-sheet").json()[
        "against_similar"
    ] == [["dark/5.png", "copied.png"]]


def test_nothing_is_overwritten(ddpm: Call, photos: Path) -> None:
    assert ddpm("data", photos).code == 0
    first = Path("data.png").read_bytes()
    assert "Contact sheet: data-2.png" in ddpm("data", photos, "--size", 16).out
    refused(ddpm("data", photos, "--out", "data.png"), "data.png exists", "--overwrite")
    assert Path("data.png").read_bytes() == first
    assert ddpm("data", photos, "--out", "data.png", "--overwrite", "--channels", 1).code == 0
    assert Path("data.png").read_bytes() != first
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["data-2.png", "data.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "DATA is missing"),
        (("nowhere",), "no such folder or archive"),
        (("shapes", "--out", "a.jpg"), "should end in .png"),
        (("shapes", "--clear-cache"), "takes no DATA"),
        (("shapes", "-n", 0), "-n must be at least 1"),
        (("shapes", "-n", 20, "--holdout", 12_000), "leaves nothing of 12000 images"),
        (("shapes", "extra"), "unexpected argument 'extra'; ddpm data takes DATA"),
    ],
)
def test_what_it_refuses(ddpm: Call, arguments: tuple[object, ...], words: str) -> None:
    refused(ddpm("data", *arguments), words)
    assert not list(Path.cwd().iterdir())


def test_none_readable_is_an_error_and_leaves_no_sheet(ddpm: Call, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    result = ddpm("data", folder)
    assert result.code == 1 and result.out == ""
    assert result.err.splitlines()[-1].startswith("ddpm: 1 of 1 images cannot be read: a.png")
    assert not list(Path.cwd().iterdir())


def test_names_that_are_no_text_are_printed(ddpm: Call, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    content = Path(tmp_path / "x.png")
    Image.new("RGB", (8, 8), "red").save(content)
    for name in ("a\nb.png", "c\udcff.png"):
        (folder / name).write_bytes(content.read_bytes())
    result = ddpm("data", folder, "--no-sheet")
    assert result.code == 0 and r"  a b.png = c\udcff.png" in result.out
    assert ddpm("data", folder, "--no-sheet", "--json").json()["equal"] == [
        ["a\nb.png", "c\udcff.png"]
    ]


def test_the_cache_is_listed_and_cleared(
    ddpm: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    assert ddpm("data", "--clear-cache").out == "There are no decoded images in the cache\n"
    images = prepare(open_source(str(photos)), Transform(3, (16, 16)), SILENT)
    del images  # which are memory-mapped: in use
    result = ddpm("data", "--clear-cache")
    assert "decoded images in the cache: 1, " in result.err and "photos-16x16x3-" in result.err
    assert result.out.startswith("Sets of decoded images deleted: 1, ")
    assert not list((tmp_path / "cache").rglob("*.npy"))
    prepare(open_source(str(photos)), Transform(1, (16, 16)), SILENT)
    document = ddpm("data", "--clear-cache", "--json").json()
    (deleted,) = document["deleted"]
    assert deleted["name"].startswith("photos-16x16x1-") and document["kept"] == []
    assert 24 * 16 * 16 <= document["bytes"] == deleted["bytes"] < 24 * 16 * 16 + 1000
    assert files.in_words(document["bytes"]) in ("6 kB", "7 kB")
