"""A validation loss on images of their own: --holdout-data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ddpm_cli
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.sources import labels_for
from ddpm_cli.core.errors import UsageError
from tests.support.cli import Result

Run = Callable[..., Result]


def held_out_losses(run: str) -> list[float]:
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [row["loss_holdout"] for row in rows if row.get("loss_holdout") is not None]


def test_other_images_are_validated_on_and_the_training_is_the_same(
    train_tiny: Run, photos: Path
) -> None:
    given = ("--images", 16, "--batch", 8)
    plain = train_tiny(*given, "--out", "plain")
    validated = train_tiny(*given, "--holdout-data", photos, "--out", "validated")
    assert (plain.code, validated.code) == (0, 0)
    assert f"Held out: the 24 images of {photos}" in validated.err
    assert "best held out" in validated.out
    assert held_out_losses("plain") == []
    assert len(held_out_losses("validated")) >= 1
    ours, theirs = (load_file(f"{run}/model.safetensors") for run in ("validated", "plain"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_classes_are_matched_by_name() -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    source = ArraySource(images, [0, 1, 0], ["dog", "cat"])
    network = NetworkConfig(classes=("cat", "dog", "owl"))
    assert labels_for(source, network, "x", "y").tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--holdout", 4, "--holdout-data", "shapes"), "give one"),
        (("--holdout-data", "shapes"), "shapes has a class 'circle', and the training needs"),
        (("--holdout-data", "nowhere"), "nowhere: no such folder or archive"),
    ],
)
def test_what_cannot_be_validated_on(train_tiny: Run, given: tuple[str, ...], words: str) -> None:
    refused = train_tiny("--images", 8, "--dry-run", *given)
    assert refused.code in (1, 2)
    assert words in refused.err


def test_the_library_trains_on_what_data_takes(photos: Path, tmp_path: Path, tiny: Path) -> None:
    config = ddpm_cli.config("shapes", **(json.loads(tiny.read_text()) | {"budget": {"images": 8}}))
    model = ddpm_cli.train(config, photos, out=tmp_path / "run")
    assert model.config.data.source == str(photos)  # where other commands find them
    assert tuple(model.config.network.classes) == ("dark", "light")
    with pytest.raises(UsageError, match="labels and classes are for arrays"):
        ddpm_cli.train(config, photos, [0] * 24, out=tmp_path / "other")
