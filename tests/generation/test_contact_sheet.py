"""Contact sheets: the same noise by other settings, each as it would be drawn alone, and scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation.pictures import contact_sheet
from ddpm_cli.core.generation.pictures.axes import Axis, axes_of, combinations
from tests.support.cli import Result

Run = Callable[..., Result]
GAP = 14  # pixels between cells


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("run", "--images", 16, "--snapshot-every", 8)


def drawn(ddpm: Run, *options: object) -> list[np.ndarray]:
    """Four images as `ddpm sample` writes them."""
    folder = Path("-".join(map(str, options)).replace("/", "_"))
    assert ddpm("sample", "run", "-n", 4, "--out", folder, *options).code == 0
    return [imageio.imread(folder / f"{i:06d}.png") for i in range(4)]


def tiled(images: list[np.ndarray], factor: int) -> np.ndarray:
    """Two by two images with white lines of a pixel around them, enlarged."""
    height, width = images[0].shape[:2]
    tile = np.full((2 * height + 3, 2 * width + 3, *images[0].shape[2:]), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = 1 + i // 2 * (height + 1), 1 + i % 2 * (width + 1)
        tile[y : y + height, x : x + width] = image
    return tile.repeat(factor, 0).repeat(factor, 1)


def shows(sheet: np.ndarray, images: list[np.ndarray], row: int, column: int) -> bool:
    """Whether a cell, numbered from the last row and column, shows these images."""
    for factor in range(1, 60):
        tile = tiled(images, factor)
        bottom = len(sheet) - GAP - row * (len(tile) + GAP)
        right = sheet.shape[1] - GAP - column * (tile.shape[1] + GAP)
        cell = sheet[bottom - len(tile) : bottom, right - tile.shape[1] : right]
        if cell.shape == tile.shape and np.array_equal(cell, tile):
            return True
    return False


def test_each_cell_is_what_its_settings_draw_alone(ddpm: Run, run: Path) -> None:
    options = ("--guidance", "1,2,3", "--steps", "2,3", "--seed", 7)
    result = ddpm("sample", run, *options, "--out", "out", "--json")
    assert result.code == 0, result.err
    sheet, document = (
        imageio.imread("out/sheet.png"),
        json.loads(Path("out/sheet.json").read_text()),
    )
    assert sheet.shape[1] >= 1024
    assert {path.name for path in Path("out").iterdir()} == {"sheet.png", "sheet.json"}
    assert document["columns"] == {"option": "guidance", "values": [1, 2, 3]}
    assert document["rows"] == {"option": "steps", "values": [2, 3]}
    assert [cell["values"] for cell in document["cells"]] == [
        {"steps": steps, "guidance": guidance} for steps in (2, 3) for guidance in (1, 2, 3)
    ]
    assert [cell["nfe"] for cell in document["cells"]] == [2, 4, 4, 3, 6, 6]
    assert document["network_calls"] == 4 * 25
    assert "6 settings, 4 images each: 100 network calls, about " in result.err
    for steps, row in ((3, 0), (2, 1)):
        for guidance, column in ((3, 0), (2, 1), (1, 2)):
            alone = drawn(ddpm, "--guidance", guidance, "--steps", steps, "--seed", 7)
            assert shows(sheet, alone, row, column)
    assert not shows(sheet, alone, 0, 0)


def test_the_heading_names_the_classes_in_their_order(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings, heading = list[str](), contact_sheet.ContactSheet._heading
    monkeypatch.setattr(
        contact_sheet.ContactSheet, "_heading", lambda x: headings.append(heading(x)) or ""
    )
    for chosen in ((), ("--class", "light")):
        assert ddpm("sample", run, "--steps", "1,2", *chosen, "--guidance", 2).code == 0
    assert [text.partition("guidance 2, ")[2] for text in headings] == [
        "seeds 0 to 3, row by row: dark, light, dark, light",
        "seeds 0 to 3, light",
    ]


def test_samplers_and_weights_are_compared(
    ddpm: Run, run: Path, tiny_run: Callable[..., Path]
) -> None:
    tiny_run("other", "--images", 8, "--seed", 1)
    shutil.copy("other/model.safetensors", run / "best-fid5k.safetensors")
    quick = ("--steps", 3)
    options = ("--sampler", "ddim,dpmpp-2m", "--weights", "model,best-fid5k", *quick)
    result = ddpm("sample", run, *options, "--json").json()
    assert result["out"] == "run/sheet.png"
    sheet = imageio.imread("run/sheet.png")
    hashes = [cell["weights_sha256"] for cell in result["cells"]]
    assert len(set(hashes)) == 2
    for column, name in ((0, "best-fid5k"), (1, "model")):
        for row, sampler in ((0, "dpmpp-2m"), (1, "ddim")):
            alone = drawn(ddpm, "--sampler", sampler, "--weights", name, *quick)
            assert shows(sheet, alone, row, column), (name, sampler)
    assert ddpm("sample", run, *options, "--json").json()["out"] == "run/sheet-2.png"


def test_weights_of_one_name_are_told_apart_by_their_paths() -> None:
    axis = Axis("weights", ("a/model.safetensors", "b/model.safetensors", "c/best.safetensors"))
    assert axis.titles == ["a/model.safetensors", "b/model.safetensors", "best"]


def test_the_cost_is_that_of_the_batch(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, sample_steps = list[int](), contact_sheet.sample_steps

    def counted(model: Any, request: Any, indices: range) -> Any:
        timed.append(len(indices))
        return sample_steps(model, request, indices)

    monkeypatch.setattr(contact_sheet, "sample_steps", counted)
    options = ("--guidance", "1,2", "--steps", 1, "-n", 5)
    assert ddpm("sample", run, *options, "--batch", 2, "--out", "x.png").code == 0
    assert timed == [2, 2]


def test_weights_are_named_by_snapshots_and_paths(ddpm: Run, run: Path) -> None:
    newest = sorted(run.glob("snapshots/*.pt"))[-1]
    command = ("sample", run, "-n", 1, "--steps", 1)
    for number, name in enumerate([newest.stem, newest.stem.lstrip("0"), newest]):
        result = ddpm(*command, "--weights", name, "--out", f"out{number}", "--json")
        assert (result.code, result.json()["weights"]) == (0, str(newest)), result.err
    unknown = ddpm(*command, "--weights", "bset")
    assert (unknown.code, "run has no weights bset; it has" in unknown.err) == (1, True)
    assert "model" in unknown.err


def test_the_scores_are_those_of_ddpm_fid_and_the_smallest_is_best(
    ddpm: Run, run: Path, photos: Path, trained: Path
) -> None:
    features = ("--score", photos, "--score-features", trained)
    options = ("--guidance", "1,4", "--steps", 3, "-n", 12, *features, "--out", "x/cells.png")
    result = ddpm("sample", run, *options, "--json")
    assert result.code == 0, result.err
    document = result.json()
    scores = [cell["fid"] for cell in document["cells"]]
    for guidance, score in zip((1, 4), scores, strict=True):
        alone = ddpm(
            *("fid", photos, run, "--guidance", guidance, "--steps", 3, "-n", 12),
            *("--features", trained, "--metrics", "fid", "--no-spread", "--json"),
        ).json()
        assert score == pytest.approx(alone["fid"], rel=1e-4)
    assert document["best"]["fid"] == min(scores)
    assert document["score"]["label"] == "local-FID"
    assert (document["n"], document["shown"]) == (12, 4)
    assert "scores" in result.err or "features" in result.err
    assert {path.name for path in Path("x").iterdir()} == {"cells.png", "cells.json"}
    best = scores.index(min(scores))
    sheet = imageio.imread("x/cells.png").min(axis=2)
    black = (sheet == 0).mean(axis=0)  # the frame's sides are the blackest columns of pixels
    half = sheet.shape[1] // 2
    assert (black[:half].max() > black[half:].max()) == (best == 0)


REFUSED = [
    (("--guidance", "1,2", "--steps", "2,3", "--eta", "0,1"), 2, "give several to one option"),
    (("--guidance", "1,1"), 2, "--guidance has a value twice"),
    (("--guidance", "1,,2"), 2, "--guidance '1,,2' has an empty value"),
    (("--guidance", "1,x"), 2, "--guidance takes a number, not 'x'"),
    (("--steps", "5,2.5"), 2, "--steps takes a whole number"),
    (("--steps", "3,2000"), 2, "--steps must be between 1 and"),
    (("--sampler", "ddim,bad"), 2, "--sampler 'bad' is unknown"),
    (("--sampler", "ddim,heun", "--eta", 1), 2, "--sampler heun takes no --eta"),
    (("--weights", "model,nope"), 1, "has no weights nope"),
    (("--weights", "model,"), 2, "has an empty name"),
    (("--guidance", "1,2", "--format", "npz"), 2, "draw a picture"),
    (("--guidance", "1,2", "--out", "x", "--shard", "1/2"), 2, "draw a picture"),
    (("--guidance", "1,2", "--out", "x.zip"), 2, "a sheet is a .png"),
    (("--guidance", "1,2", "--grid-by", "class"), 2, "--grid-by is of grid.png"),
    (("--score", "photos"), 2, "--score is for a contact sheet"),
    (("--guidance", "1,2", "--score-weights", "x.pth"), 2, "need --score"),
    (("--guidance", "1,2", "--score", "nothing"), 1, "nothing: no such folder"),
    (("--guidance", "1,2", "--score"), 2, "say where its images are, as --score FOLDER"),
    (("--score", "--guidance", "1,2"), 2, "say where its images are, as --score FOLDER"),
]


def test_what_a_sheet_cannot_be(ddpm: Run, run: Path) -> None:
    before = sorted(run.iterdir())
    for options, code, words in REFUSED:
        refused = ddpm("sample", run, *options)
        assert (refused.code, words in refused.err) == (code, True), (options, refused.err)
        assert (sorted(run.iterdir()), Path("x").exists()) == (before, False), options


def test_a_sheet_replaces_no_other_files(ddpm: Run, run: Path) -> None:
    command = ("sample", run, "--guidance", "1,2", "--steps", 1, "-n", 1)
    assert ddpm(*command, "--out", "out").code == 0
    again = ddpm(*command, "--out", "out")
    assert (again.code, "sheet.png exists" in again.err) == (1, True)
    assert ddpm(*command, "--out", "out", "--overwrite").code == 0
    config = (run / "config.json").read_bytes()
    refused = ddpm(*command, "--out", run / "config.png", "--overwrite")
    assert (refused.code, "config.json exists" in refused.err) == (1, True)
    assert (run / "config.json").read_bytes() == config
    assert not (run / "config.png").exists()


def test_other_commands_take_one_value(ddpm: Run, run: Path) -> None:
    for command in (("gif", run), ("fid", "photos", run)):
        refused = ddpm(*command, "--guidance", "1,2")
        words = "--guidance takes one value, a number"
        assert (refused.code, words in refused.err) == (2, True), refused.err


def test_more_values_are_columns_and_the_cells_are_row_by_row() -> None:
    axes = axes_of({"steps": (5, 10), "guidance": (1.0, 2.0, 4.0)})
    assert [axis.name for axis in axes] == ["guidance", "steps"]
    assert axes[0].titles == ["guidance 1", "guidance 2", "guidance 4"]
    assert combinations(axes)[:4] == [
        {"steps": 5, "guidance": 1.0},
        {"steps": 5, "guidance": 2.0},
        {"steps": 5, "guidance": 4.0},
        {"steps": 10, "guidance": 1.0},
    ]
    assert combinations(axes_of({})) == [{}]
    with pytest.raises(UsageError, match="columns and rows"):
        axes_of({"eta": (0, 1), "steps": (1, 2), "guidance": (1, 2)})
