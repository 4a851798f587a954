"""Scores in training: the sampled classes are distributed as the training images' classes are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.conditioning.requests import ConditionPlan
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.generation import data_conditions
from ddpm_cli.core.training import scoring

pytestmark = pytest.mark.usefixtures("quick_scores")
Run = Callable[..., Any]


@pytest.fixture
def conditions(
    train_tiny: Run, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ConditionPlan]:
    """Train on 12 dark and 3 light photos; the conditions of a score."""
    for i in range(3, 12):
        (photos / "light" / f"{i}.png").unlink()
    plans: list[ConditionPlan] = []
    original = scoring.generated_images

    def recorded(label: str, model: Any, request: Any, batch: int) -> Any:
        plans.append(request.conditions)
        return original(label, model, request, batch)

    monkeypatch.setattr(scoring, "generated_images", recorded)

    def call(count: int, *more: object) -> ConditionPlan:
        given = ("--fid-every", 8, "--fid-n", count, "--fid-features", trained, "--images", 8)
        result = train_tiny(*given, "--out", "run", *more)
        assert result.code == 0, result.err
        return plans[-1]

    return call


@pytest.mark.parametrize("count", [10, 20])  # fewer and more than the 15 images
def test_classes_have_the_share_that_they_have_in_the_data(
    conditions: Callable[..., ConditionPlan], count: int
) -> None:
    plan = conditions(count)
    labels = [plan.label(seed) for seed in range(count)]
    assert Counter(labels) == {0: 0.8 * count, 1: 0.2 * count}


def test_captions_have_the_share_that_they_have_in_the_data(
    conditions: Callable[..., ConditionPlan],
) -> None:
    plan = conditions(20, "--caption", "a {class} image")
    prompts = [plan.prompt(seed) for seed in range(20)]
    assert Counter(prompts) == {"a dark image": 16, "a light image": 4}


def labels_of(labels: list[int], count: int, rows: list[int] | None = None) -> list[int]:
    """The labels of the representative rows."""
    used = np.array(range(len(labels)) if rows is None else rows)
    images = DecodedImages(np.zeros((len(labels), 3, 8, 8), np.uint8), np.array(labels), used)
    return images.labels[data_conditions.representative_rows(images, count)].tolist()


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("count", [10, 99, 250, 1000])
def test_shares_are_exact_to_one_image(shuffled: bool, count: int) -> None:
    labels = [0] * 140 + [1] * 50 + [2] * 10
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels).tolist()
    sampled = Counter(labels_of(labels, count))
    for label, share in ((0, 0.7), (1, 0.25), (2, 0.05)):
        assert abs(sampled[label] - share * count) < 1, sampled


def test_balanced_classes_come_in_turn() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], 25)).tolist()
    assert labels_of(labels, 8) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert labels_of(labels, 200) == [0, 1, 2, 3] * 50


def test_the_first_of_them_are_distributed_alike() -> None:
    sampled = labels_of([0] * 90 + [1] * 10, 100)
    assert [sum(sampled[i : i + 10]) for i in range(0, 100, 10)] == [1] * 10


def test_images_that_are_held_out_do_not_count() -> None:
    assert sorted(labels_of([0, 0, 1, 1, 1, 1], 4, rows=[0, 3, 4, 5])) == [0, 1, 1, 1]
