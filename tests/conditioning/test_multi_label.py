"""Multi-label conditions: an image has any number of the classes, and a model learns which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddpm_cli
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.conditioning.labels import label_name, most_frequent
from ddpm_cli.core.conditioning.requests import (
    ConditionPlan,
    ConditionRequest,
    default_plan,
    plan_conditions,
)
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, updated
from ddpm_cli.core.conversion.exporting import why_not_exportable
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.sources import captions_of, with_class_order
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.data_conditions import representative_rows
from ddpm_cli.core.models.embeddings import ConditionEmbedding
from ddpm_cli.core.runtime.run_directory import find_weights
from ddpm_cli.core.training import initial_weights
from tests.support.cli import TINY, Result

NAMES = ("Smiling", "Male", "Hat")
SMALL = updated(RunConfig(), TINY | {"network": TINY["network"] | {"size": [8, 8]}})
CONFIG = replace(
    SMALL,
    network=replace(SMALL.network, classes=NAMES, multi_label=True),
    data=replace(SMALL.data, combinations=("Smiling+Male", "none", "Hat")),
)


def plan(config: RunConfig, *classes: str) -> ConditionPlan:
    return plan_conditions(config, ConditionRequest(classes), "a model")


def names(plan: ConditionPlan, count: int, config: RunConfig = CONFIG) -> list[str]:
    labels = [plan.label(seed) for seed in range(count)]
    return [label_name(label, config.network.classes) for label in labels if label is not None]


@pytest.mark.parametrize("width", [None, 4])
def test_embeddings_of_the_present_attributes_are_summed(width: int | None) -> None:
    config = NetworkConfig(width=8, classes=NAMES, multi_label=True, class_width=width)
    embedding = ConditionEmbedding(config)
    null, *rows = embedding.classes.weight.detach()  # type: ignore[union-attr]
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [-1, -1, -1], [0, 1, 0]])
    expected = torch.stack([rows[0] + rows[2], torch.zeros_like(null), null, rows[1]])
    if embedding.class_map is not None:
        expected = embedding.class_map(expected)
    found = embedding._embed_classes(labels, torch.zeros(4))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(embedding._embed_classes(None, torch.zeros(1)), found[2:3])
    with pytest.raises(ValueError, match=r"are \(4, 3\), not \(4,\)"):
        embedding._embed_classes(torch.tensor([0, 1, 2, 0]), torch.zeros(4))


def test_the_null_condition_is_not_the_empty_set() -> None:
    condition = Condition(torch.tensor([[1, 0], [0, 0]]))
    dropped = condition.drop(torch.tensor([False, True]))
    assert dropped.labels is not None and dropped.labels.tolist() == [[1, 0], [-1, -1]]
    both = condition.with_null().labels
    assert both is not None and both.tolist() == [[1, 0], [0, 0], [-1, -1], [-1, -1]]
    selected = condition.select(slice(1, 2)).labels
    assert selected is not None and selected.tolist() == [[0, 0]]


def test_combinations_by_names_indices_and_counts() -> None:
    assert names(plan(CONFIG, "Male+Smiling", "2+0", "Hat:2", "none"), 5) == [
        *("Smiling+Male", "Smiling+Hat", "Hat", "Hat", "none")
    ]
    assert plan(CONFIG, "Smiling+Male:8").count == 8
    assert names(plan(CONFIG, "all"), 4) == ["Smiling", "Male", "Hat", "Smiling"]
    assert names(default_plan(CONFIG), 4) == ["Smiling+Male", "none", "Hat", "Smiling+Male"]
    drawn = plan(CONFIG, "random:30")
    assert (drawn.count, set(names(drawn, 30))) == (30, {"Smiling+Male", "none", "Hat"})
    labels = plan(CONFIG, "Hat", "none").condition([0, 1], torch.device("cpu")).labels
    assert labels is not None and labels.tolist() == [[0, 0, 1], [0, 0, 0]]
    unrecorded = replace(CONFIG, data=SMALL.data)
    assert names(default_plan(unrecorded), 3) == [*NAMES]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Smiling+Mal", r"'Mal' is not a class of this model; did you mean Male\?"),
        ("Smiling+", "'' is not a class"),
        ("Smiling+3", "'3' is not a class .* 3 classes, numbered from 0 to 2"),
        ("Smiling+none", "'none' is not a class"),
        ("Smiling+Male:0", "requests 0 images"),
    ],
)
def test_combinations_that_are_refused(value: str, message: str) -> None:
    with pytest.raises(DdpmError, match=message):
        plan(CONFIG, value)


def test_a_plus_in_the_name_of_a_single_class_is_part_of_it() -> None:
    config = replace(SMALL, network=replace(SMALL.network, classes=("c", "c++", "none")))
    assert names(plan(config, "c++", "none"), 2, config) == ["c++", "none"]
    for name in ("c++", "none"):
        with pytest.raises(UsageError, match=f"cannot be called '{name}'".replace("+", r"\+")):
            NetworkConfig(classes=("c", name), multi_label=True).check()


def test_labels_of_arrays() -> None:
    images = np.zeros((3, 8, 8), np.uint8)
    rows = [[1, 0], [0, 0], [1, 1]]
    source = ArraySource(images, rows, ["a", "b"])
    assert source.labels.tolist() == rows and source.classes == ("a", "b")
    pairs = list(zip(images, torch.tensor(rows), strict=True))  # as torchvision's CelebA gives them
    assert ArraySource(pairs).labels.tolist() == rows
    assert ArraySource(pairs).classes == ("0", "1")
    assert with_class_order(source, ["b", "a"]).labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert ArraySource(images, [[2], [0], [1]]).labels.tolist() == [2, 0, 1]  # a column of classes
    for wrong, message in (
        ([[1, 2], [0, 0], [1, 1]], r"3 rows of 2 zeros and ones; .* from 0 to 2"),
        (rows[:2], r"3 rows of 2 zeros and ones; they are \(2, 2\)"),
        ([[1], [0, 1], [1]], "cannot be made an array"),
        (["x", "y", "z"], "should be numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            ArraySource(images, wrong)
    with pytest.raises(UsageError, match="3 rows of 1 zeros and ones"):
        ArraySource(images, rows, ["a"])
    with pytest.raises(DdpmError, match="these have several"):
        captions_of(source, ["a {class}"])


def test_the_most_frequent_combinations_come_first() -> None:
    rows = np.array([[1, 1]] * 3 + [[0, 0]] * 5 + [[1, 0]])
    assert most_frequent(rows, 2) == [(0, 0), (1, 1)]


def test_scored_combinations_have_their_shares_of_the_images() -> None:
    combinations = np.repeat([[1, 1, 0], [0, 0, 0], [0, 1, 0]], [6, 3, 1], axis=0)
    shuffled = np.random.default_rng(0).permutation(combinations)
    images = DecodedImages(np.zeros((10, 3, 8, 8), np.uint8), shuffled, np.arange(10))
    chosen = images.labels[representative_rows(images, 20)]
    assert Counter(map(tuple, chosen.tolist())) == {(1, 1, 0): 12, (0, 0, 0): 6, (0, 1, 0): 2}


def test_diffusers_has_no_counterpart() -> None:
    assert "several classes an image" in (why_not_exportable(CONFIG) or "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a few steps on images in memory, of which the corners say what they have."""
    config = ddpm_cli.config("shapes", **TINY)
    images, labels = pictures()
    ddpm_cli.train(config, images, labels, classes=NAMES, out=tmp_path / "run", device="cpu")
    return tmp_path / "run"


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """48 images of 8x8 with a light square for each attribute that they have; labels (48, 3)."""
    rng = np.random.default_rng(0)
    labels = (rng.random((48, 3)) < [0.7, 0.5, 0.2]).astype(int)
    images = rng.integers(0, 30, (48, 8, 8, 3))
    for image, (smiling, male, hat) in zip(images, labels, strict=True):
        image[:4, :4] += 200 * smiling
        image[:4, 4:] += 200 * male
        image[4:, :4] += 200 * hat
    return images.astype(np.uint8), labels


def manifest(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]


def test_a_model_is_trained_and_sampled(run: Path, ddpm: Callable[..., Result]) -> None:
    _, labels = pictures()
    config = json.loads((run / "config.json").read_text())
    assert config["network"]["multi_label"] and config["network"]["classes"] == [*NAMES]
    counted = Counter(label_name(tuple(row), NAMES) for row in labels.tolist())
    recorded = config["data"]["combinations"]
    assert sorted(recorded) == sorted(counted)
    assert [counted[name] for name in recorded] == sorted(counted.values(), reverse=True)

    few = ("--steps", 2, "--guidance", 2, "--out")
    done = ddpm("sample", run, "--class", "Male+Smiling:2", "--class", "none", "--json", *few, "s")
    assert done.code == 0, done.err
    assert done.json()["classes"] == ["Smiling+Male:2", "none"]
    assert [entry["class"] for entry in manifest("s")] == ["Smiling+Male", "Smiling+Male", "none"]
    assert ddpm("sample", run, "-n", 3, *few, "d").code == 0
    assert [entry["class"] for entry in manifest("d")] == recorded[:3]
    assert ddpm("gif", run, "--class", "random", "-n", 2, "--steps", 2).code == 0
    refused = ddpm("sample", run, "--class", "Smilling+Male")
    assert refused.code == 1 and "did you mean Smiling?" in refused.err

    model = ddpm_cli.load(run, device="cpu")
    images = {name: model.sample(1, steps=1, classes=[name]) for name in ("Hat", "none", "0+1")}
    assert not np.array_equal(images["Hat"], images["none"])
    x = torch.zeros(2, 3, 8, 8)
    null = model.denoiser(x, torch.ones(2), UNCONDITIONAL)
    dropped = Condition(torch.tensor([[1, 0, 1], [0, 0, 0]])).drop(torch.tensor([True, True]))
    torch.testing.assert_close(model.denoiser(x, torch.ones(2), dropped), null)


def test_weights_start_another_model_by_the_names_of_classes(run: Path) -> None:
    """From several classes an image to one, and the reverse, of other classes in another order."""
    trained = weights.load(find_weights(run))
    null, smiling, male, hat = trained.network.state_dict()["embedding.classes.weight"]
    mean = (null + smiling + male + hat) / 4
    for multi_label in (True, False):
        names, settings = ["Male", "Beard", "Smiling"], initial_weights.settings(run, None)
        network = settings["network"] | {"classes": names, "multi_label": multi_label}
        target = from_dict(NetworkConfig, network)
        tensors = initial_weights.read(run, target).tensors
        expected = torch.stack([null, male, mean, smiling])
        torch.testing.assert_close(tensors["embedding.classes.weight"], expected)


def test_another_run_of_other_labels_is_refused(run: Path) -> None:
    config = ddpm_cli.config("shapes", **TINY)
    images, labels = pictures()
    with pytest.raises(DdpmError, match="would change"):
        ddpm_cli.train(config, images, labels[:, 0], classes=NAMES, out=run, device="cpu")
