"""A folder of samples belongs to weights and settings, not to the path the weights are given by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Result

Run = Callable[..., Result]
QUICK = ("-n", 2, "--steps", 2)


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("runs/tiny", "--images", 8)


def test_the_same_weights_by_another_path_complete_a_folder(ddpm: Run, run: Path) -> None:
    assert ddpm("sample", run, *QUICK, "--out", "out").code == 0
    shutil.copytree(run, "elsewhere")
    for weights in (
        run.resolve(),
        "./runs/../runs/tiny/model.safetensors",
        "elsewhere",
        "elsewhere/model.safetensors",
    ):
        Path("out/000001.png").unlink()
        result = ddpm("sample", weights, *QUICK, "--out", "out", "--json")
        assert (result.code, result.json()["drawn"]) == (0, 1), result.err
        recorded = json.loads(Path("out/sampling.json").read_text())
        assert recorded["weights"] == result.json()["weights"]  # the path, as it was given last
        assert Path(recorded["weights"]).name == "model.safetensors"


def test_the_default_folder_of_a_moved_run(ddpm: Run, run: Path) -> None:
    assert ddpm("sample", run, *QUICK, "--json").json()["out"] == "runs/tiny/generated"
    again = ddpm("sample", run.resolve(), *QUICK, "--json").json()
    assert (again["out"], again["drawn"]) == (str(run.resolve() / "generated"), 0)
    run.rename("moved")
    again = ddpm("sample", "moved", *QUICK, "--json").json()
    assert (again["out"], again["drawn"]) == ("moved/generated", 0)
    assert ddpm("sample", "moved", "-n", 2, "--steps", 3, "--json").json()["out"].endswith("-2")


def test_other_weights_of_the_same_path_are_refused(ddpm: Run, run: Path, train_tiny: Run) -> None:
    assert ddpm("sample", run, *QUICK, "--out", "out").code == 0
    assert train_tiny("--out", "other", "--images", 8, "--seed", 1).code == 0
    shutil.copy("other/model.safetensors", run / "model.safetensors")
    refused = ddpm("sample", run, *QUICK, "--out", "out")
    assert (refused.code, "holds samples of other weights" in refused.err) == (1, True)
    assert ddpm("sample", run, *QUICK, "--json").json()["drawn"] == 2
    replaced = ddpm("sample", run, *QUICK, "--out", "out", "--overwrite", "--json")
    assert (replaced.code, replaced.json()["drawn"]) == (0, 2)


def test_a_folder_of_a_version_with_fewer_settings_is_completed(ddpm: Run, run: Path) -> None:
    assert ddpm("sample", run, *QUICK, "--out", "out").code == 0
    recorded = json.loads(Path("out/sampling.json").read_text())
    del recorded["sigmas"], recorded["final_sigma"]
    Path("out/sampling.json").write_text(json.dumps(recorded))
    Path("out/000001.png").unlink()
    assert ddpm("sample", run, *QUICK, "--out", "out", "--json").json()["drawn"] == 1


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{", "{}"])
def test_settings_that_are_no_settings_are_other_files(ddpm: Run, run: Path, text: str) -> None:
    Path("out").mkdir()
    Path("out/sampling.json").write_text(text)
    refused = ddpm("sample", run, *QUICK, "--out", "out")
    assert (refused.code, "holds other files" in refused.err) == (1, True)


def test_a_folder_is_not_named_as_an_image(ddpm: Run, run: Path) -> None:
    refused = ddpm("sample", run, *QUICK, "--out", "cats.png")
    assert (refused.code, "give --out cats" in refused.err) == (2, True)
    assert not Path("cats.png").exists()


def test_overwrite_is_not_advised_where_it_would_be_refused(ddpm: Run, run: Path) -> None:
    Path("photos").mkdir()
    Path("photos/me.png").touch()
    refused = ddpm("sample", run, *QUICK, "--out", "photos")
    assert (refused.code, "me.png" in refused.err, "--overwrite" in refused.err) == (1, True, False)
