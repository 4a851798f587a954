"""ddpm runs compare: settings, cautions and pictures of two runs or more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runs import differences, side_by_side, summary
from ddpm_cli.core.runs.differences import Difference
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result, refused


def change(run: Path, part: str, **settings: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    config[part] |= settings
    (run / "config.json").write_text(json.dumps(config))


def pixels(path: str) -> ImageArray:
    return files.decode(Path(path).read_bytes(), path, Transform())


@pytest.fixture
def pair(tiny_run: Callable[..., Path]) -> tuple[Path, Path]:
    one = tiny_run("run").rename("one")
    return one, Path(shutil.copytree(one, "two"))


def test_settings_that_differ(pair: tuple[Path, Path], ddpm: Callable[..., Result]) -> None:
    one, two = pair
    change(two, "optimiser", lr=0.5, betas=[0.5, 0.9])
    compared = differences.compare(pair)
    assert compared.settings == (
        Difference("optimiser.lr", "--lr", (2e-3, 0.5)),
        Difference("optimiser.betas", "", ((0.9, 0.99), (0.5, 0.9))),
    )
    assert compared.cautions == ()
    result = ddpm("runs", "compare", one, two, "-n", 0, "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert document["settings"][0] == {
        "setting": "optimiser.lr", "option": "--lr", "values": [0.002, 0.5],
    }  # fmt: skip
    assert document["changes"]["images"] == [0, 0]
    assert document["changes"]["loss_smooth"] == [0, 0]
    assert document["samples"] is None
    assert pixels(document["curves"]).std() > 0
    text = ddpm("runs", "compare", one, two, "-n", 0).out
    assert "--lr             0.002     0.5\n" in text
    assert "compared-2/curves.png" in text


LOSSES = [
    ("diffusion", {"parameterisation": "eps"}, "parameterisation differ"),
    ("diffusion", {"schedule": "linear"}, "schedule differ"),
    ("objective", {"weighting": "p2"}, "loss, weighting or noise levels differ"),
    ("data", {"fingerprint": "others"}, "images differ"),
]


@pytest.mark.parametrize(("part", "settings", "words"), LOSSES)
def test_losses_of_other_scales(
    part: str, settings: dict[str, Any], words: str, pair: tuple[Path, Path]
) -> None:
    change(pair[1], part, **settings)
    compared = differences.compare(pair)
    assert [words in caution for caution in compared.cautions] == [True]
    assert compared.changes["loss_smooth"] == [None, None]
    assert compared.changes["images"] == [0, 0]


def test_losses_of_the_same_scale(pair: tuple[Path, Path]) -> None:
    change(pair[1], "optimiser", lr=1.0, seed=9, batch=4)
    change(pair[1], "network", width=64)
    assert differences.compare(pair).cautions == ()


def test_scores_of_other_protocols(pair: tuple[Path, Path]) -> None:
    for run, label in zip(pair, ("fid5k", "fid1k"), strict=True):
        (run / "scores.jsonl").write_text(
            json.dumps({"images": 8, "label": label, "value": 3.0, "weights_sha256": "x"})
        )
    compared = differences.compare(pair)
    assert "other" not in pair[0].name and "different protocols" in compared.cautions[0]
    assert compared.changes["score"] == [None, None]


def test_captions_against_none() -> None:
    config = RunConfig()
    other = updated(config, {"network": {"text": {"length": 9}}})
    found = {one.name: one.values for one in differences.differences([config, other])}
    assert found["network.text.length"] == (None, 9)


def test_the_same_seeds_side_by_side(pair: tuple[Path, Path], ddpm: Callable[..., Result]) -> None:
    """Equal weights give equal rows, and other seeds other ones."""
    call = ("runs", "compare", *pair, "-n", 3, "--steps", 2, "--device", "cpu", "--json")
    document = ddpm(*call, "--out", "pictures").json()
    assert document["samples"] == "pictures/samples.png"
    assert (document["seeds"], document["classes"]) == ([0, 2], ["dark", "light"])
    picture = pixels("pictures/samples.png")
    drawn = np.flatnonzero((picture[:, :, -12] != 255).any(axis=0))  # right of all words
    runs = np.split(drawn, np.flatnonzero(np.diff(drawn) > 1) + 1)
    assert [len(run) % 8 for run in runs] == [0, 0]
    first, second = (picture[:, run, -len(run) :] for run in runs)
    assert first.std() > 0 and np.array_equal(first, second)
    refused(ddpm(*call, "--out", "pictures"), "exists", "--overwrite")
    other = ddpm(*call, "--out", "pictures", "--seed", 5, "--overwrite").json()
    assert other["seeds"] == [5, 7]
    assert not np.array_equal(pixels("pictures/samples.png"), picture)


def test_common_classes() -> None:
    assert side_by_side.common_classes([["cat", "dog", "2"], ["bird", "02", "dog"]]) == ["dog", "2"]
    assert side_by_side.common_classes([["cat"], []]) == []


def test_runs_of_other_sizes_and_without_weights(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result]
) -> None:
    one = tiny_run("run").rename("one")
    large = RunDirectory(Path(shutil.copytree(one, "large")))
    config = large.read_config()
    network = replace(config.network, size=(16, 16), channels=1, classes=())
    large.write_config(replace(config, network=network))
    weights.save(large.weights, UNet(network).state_dict(), large.read_config(), 64)
    bare = Path(shutil.copytree("one", "bare"))
    (bare / "model.safetensors").unlink()
    result = ddpm("runs", "compare", one, large.path, bare, "-n", 2, "--steps", 2, "--json")
    assert result.code == 0, result.err
    assert "no samples of bare: it has saved no weights yet" in result.err
    document = result.json()
    assert document["sampled"] == ["one", "large"]
    assert [sampling["steps"] for sampling in document["sampling"]] == [2, 2]
    assert document["classes"] == []


def test_images_are_brought_to_one_size() -> None:
    grey = np.full((2, 1, 4, 4), 7, np.uint8)
    clear = np.zeros((2, 4, 8, 9), np.uint8)
    one, other = side_by_side._of_one_size([grey, clear])
    assert one.shape == other.shape == (2, 3, 8, 9)
    assert (one[:, :, :, :8] == 7).all() and (one[:, :, :, 8:] == 255).all()
    assert (other == 255).all()  # transparent, over white


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one"], "two runs or more"),
        (["one", "one"], "named twice"),
        (["one", "nowhere"], "no such run"),
        (["one", "."], "is not a run"),
        (["one", "broken"], "config.json"),
        (["one", "two", "-n", 101], "-n must be at most 100"),
        (["one", "two", "-n", 0, "--steps", 5], "-n 0"),
    ],
)
def test_mistakes(
    arguments: list[Any], words: str, pair: tuple[Path, Path], ddpm: Callable[..., Result]
) -> None:
    Path("broken").mkdir()
    Path("broken/config.json").write_text("[")
    refused(ddpm("runs", "compare", *arguments), words)
    assert not Path("compared").exists()


def test_names_are_as_short_as_they_are_distinct() -> None:
    paths = [Path("a/x/seed-0"), Path("a/y/seed-0")]
    assert differences.short_names(paths) == ["x/seed-0", "y/seed-0"]
    assert differences.short_names([Path("runs/a"), Path("b")]) == ["a", "b"]


def test_a_change_is_of_the_first(pair: tuple[Path, Path]) -> None:
    runs = [summary.read(path) for path in pair]
    runs[1] = replace(runs[1], images=80, loss=(runs[0].loss or 0) + 1, score=None)
    compared = differences.Compared(tuple(runs), ("one", "two"), (), ())
    assert compared.changes["images"] == [0, 16]
    assert compared.changes["loss_smooth"] == [0, pytest.approx(1)]
    assert compared.changes["score"] == [None, None]
