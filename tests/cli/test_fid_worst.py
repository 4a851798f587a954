"""`ddpm fid --worst`: pictures of where a generator fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import ranks
from tests.support.local_standin import shapes

Run = Callable[..., Any]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Real images, and fakes of which three are garbage."""
    real, fake = shapes(tmp_path / "real", 0, 60), shapes(tmp_path / "fake", 200, 40)
    y, x = np.mgrid[:16, :16]
    for number in range(3):  # checks, brighter and brighter
        checks = (150 + 50 * number) * ((x // 2 + y // 2) % 2)
        Image.fromarray(checks.astype(np.uint8)).convert("RGB").save(fake / f"garbage{number}.png")
    return real, fake


def garbage(folder: Path, count: int = 3) -> list[str]:
    listed = json.loads((folder / "worst.json").read_text())["fakes"]
    return sorted(image["name"] for image in listed[:count])


def test_garbage_comes_first(
    ddpm: Run, trained: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    command = ("fid", *folders, "--features", trained, "--worst", 8, "--metrics", "fid")
    out = tmp_path / "out"
    result = ddpm(*command, "--worst-out", out, "--json")
    assert result.code == 0, result.err
    assert garbage(out) == ["garbage0.png", "garbage1.png", "garbage2.png"]
    found = result.json()["worst"]
    assert found["folder"] == str(out)
    document = json.loads((out / "worst.json").read_text())
    assert (found["uncovered"], len(document["fakes"])) == (document["uncovered"], 8)
    with Image.open(out / "unlike-real.png") as picture:
        assert picture.width >= 768
    again = ddpm(*command, "--worst-out", out)
    assert (again.code, "choose another --worst-out, or add --overwrite" in again.err) == (1, True)
    assert ddpm(*command, "--worst-out", out, "--overwrite").code == 0
    default = ddpm(*command)
    assert any(line.startswith("worst images: worst-fake (") for line in default.out.splitlines())
    assert garbage(Path("worst-fake")) == garbage(out)


def test_several_processes_show_the_same(
    trained: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("fid", *folders, "--features", trained, "--worst", 4, "--metrics", "fid")
    both = ranks.run(2, "", *command, "--worst-out", out, "--device", "cpu")
    assert [result.code for result in both] == [0, 0], both[0].err
    assert garbage(out) == ["garbage0.png", "garbage1.png", "garbage2.png"]


def test_the_worst_images_of_a_run(
    ddpm: Run, tiny_run: Callable[..., Path], trained: Path, tmp_path: Path
) -> None:
    run, real = tiny_run("run"), shapes(tmp_path / "real", 0, 12)
    sampled = ("-n", 9, "--steps", 2, "--batch", 4)
    result = ddpm("fid", real, run, *sampled, "--features", trained, "--worst", 64)
    assert result.code == 0, result.err
    document = json.loads((run / "worst" / "worst.json").read_text())
    assert sorted(image["index"] for image in document["fakes"]) == list(range(9))
    assert document["fakes"][0]["name"] == f"image {document['fakes'][0]['index']}"


def test_what_cannot_be_shown_is_refused(
    ddpm: Run, trained: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    real, fake = folders
    saved = tmp_path / "real.npz"
    assert ddpm("fid", real, fake, "--features", trained, "--save-real", saved).code == 0
    few = shapes(tmp_path / "few", 0, 5)
    for code, message, *arguments in (
        (2, "give those of REAL, not statistics", saved, fake, "--worst", 8),
        (2, "is of one FAKE, and there are 2", real, fake, few, "--worst", 8),
        (2, "is for the images of --worst N", real, fake, "--worst-out", "x"),
        (1, "--worst needs 6 images in REAL", few, fake, "--worst", 8),
        (2, "--worst", real, fake, "--worst", 0),
    ):
        result = ddpm("fid", *arguments, "--features", trained)
        assert (result.code, message in result.err) == (code, True), result.err
    assert not Path("worst-fake").exists()
