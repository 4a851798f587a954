"""What is told after sampling: right on planted faults, silent on images like the training's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.requests import ConditionPlan
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.inspection.image_statistics import ImageStatistics
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation.checks import remedies
from ddpm_cli.core.generation.checks.findings import Finding, Inspection
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.trained_model import TrainedModel
from ddpm_cli.core.training import ema
from tests.support.cli import Result
from tests.support.training import CONFIG, Messages

Images = NDArray[np.uint8]


def drawn(count: int, seed: int, base: float = 120.0) -> Images:
    """Images with a light, coloured, textured spot on a coloured ground, all of them different."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    centres = random.uniform(4, 12, (2, count, 1, 1, 1))
    spot = np.exp(-((y - centres[0]) ** 2 + (x - centres[1]) ** 2) / 16)
    ground = base + random.normal(0, 25, (count, 3, 1, 1))
    colour = random.uniform(40, 110, (count, 3, 1, 1))
    return np.clip(ground + colour * spot + random.normal(0, 4, (count, 3, 16, 16)), 0, 255).astype(
        np.uint8
    )


CLASSES = (90.0, 150.0)  # the base of each


@pytest.fixture(scope="module")
def statistics() -> Any:
    images = np.concatenate([drawn(400, k, base) for k, base in enumerate(CLASSES)])
    return ImageStatistics.of([(images, np.repeat([0, 1], 400))], 2).document()


def model(statistics: Any, images: int = 1_000_000) -> Model:
    network = replace(CONFIG.network, size=(16, 16), classes=("dim", "light"))
    config = replace(CONFIG, network=network)
    cpu = torch.device("cpu")
    return Model(Path("w"), None, config, images, "", cpu, torch.float32, statistics)  # type: ignore[arg-type]


def told(
    statistics: Any, images: Images, labels: tuple[int, ...] = (0,), **settings: Any
) -> list[Finding]:
    sampling = Sampling(**{"steps": 50} | settings)
    inspection = Inspection(
        model(statistics), GenerationRequest(len(images), 0, ConditionPlan(labels), sampling)
    )
    for start in range(0, len(images), 7):
        part = images[start : start + 7]
        inspection.add(range(start, start + len(part)), part)
    return inspection.findings()


def scaled(images: Images, factor: float, centre: float = 127.5) -> Images:
    return np.clip((images - centre) * factor + centre, 0, 255).astype(np.uint8)


FAULTS: dict[str, Callable[[Images], Images]] = {
    "dark": lambda x: scaled(x, 0.4, 0),
    "bright": lambda x: (x * 0.9 + 90).clip(0, 250).astype(np.uint8),
    "low contrast": lambda x: scaled(x, 0.45, x.mean()),
    "saturated": lambda x: scaled(x, 8),
    "noise": lambda x: (
        (x + np.random.default_rng(5).normal(0, 15, x.shape)).clip(0, 255).astype(np.uint8)
    ),
    "flat": lambda x: np.broadcast_to(x[:, :, :1, :1], x.shape).copy(),
    "alike": lambda x: (0.95 * x[:1] + 0.05 * x).astype(np.uint8),
    "colours": lambda x: (
        (x.astype(float) + np.array([60, -60, 0])[:, None, None]).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [8, 16, 64])
def test_a_planted_fault_is_told_first(statistics: Any, fault: str, count: int) -> None:
    found = told(statistics, FAULTS[fault](drawn(count, 50, CLASSES[0])))
    assert found and found[0].name == fault, found
    assert len(found) <= 3 and all(len(one.text.splitlines()) == 1 for one in found)


@pytest.mark.parametrize("count", [1, 2, 4, 16, 64])
def test_images_like_the_trainings_are_told_nothing_of(statistics: Any, count: int) -> None:
    for seed in range(60):
        both = (drawn(count, 100 + seed, base) for base in CLASSES)
        dim, light = both
        mixed = np.where((np.arange(count) % 2 == 0)[:, None, None, None], dim, light)
        for images, labels in ((dim, (0,)), (light, (1,)), (mixed, (0, 1))):
            assert told(statistics, images, labels) == [], (seed, labels)


def test_a_class_is_compared_with_itself(statistics: Any) -> None:
    light = drawn(16, 7, CLASSES[1])
    assert told(statistics, light, (1,)) == []
    assert [one.name for one in told(statistics, light, (0,))] == ["bright"]


def test_one_fault_among_many_images_is_counted(statistics: Any) -> None:
    images = drawn(16, 8, CLASSES[0])
    images[3] = 90
    (found,) = told(statistics, images)
    assert found.text.startswith("1 of 16 samples is nearly one colour")
    assert found.document()["samples"] == pytest.approx(1 / 16)
    images[:] = 90
    assert told(statistics, images)[0].text.startswith("All 16 samples are nearly one colour")


@pytest.mark.parametrize(
    "settings, advice",
    [
        ({"guidance": 8}, "At --guidance 8 try --threshold dynamic or --guidance 4."),
        ({"guidance": 3, "threshold": "dynamic"}, "At --guidance 3 try --guidance 1.5."),
        ({"threshold": "none"}, "Try --threshold static."),
        ({"spacing": "leading"}, "Try --spacing trailing."),
        ({"steps": 5}, "Try --steps 50."),
        ({"steps": 2, "guidance": 2}, "At --guidance 2 try --steps 50."),
        ({"steps": 1, "sampler": "consistency"}, "Try --steps 4."),
        ({}, ""),
    ],
)
def test_what_to_try(statistics: Any, settings: dict[str, Any], advice: str) -> None:
    dark = FAULTS["dark"](drawn(16, 9, CLASSES[0]))
    sentence = told(statistics, dark, **settings)[0].text
    assert sentence.endswith(advice or ").") and "(mean 0.1" in sentence
    assert "training 0.4" in sentence


def test_without_statistics_nothing_is_compared() -> None:
    assert told(None, FAULTS["dark"](drawn(16, 9))) == []
    assert told({"all": {}}, FAULTS["dark"](drawn(16, 9))) == []


def test_images_that_begin_at_others_are_not_compared(statistics: Any) -> None:
    images = FAULTS["dark"](drawn(16, 9))
    request = GenerationRequest(16, 0, ConditionPlan((0,)), Sampling(50))
    for begun in (request, replace(request, init=object())):  # type: ignore[arg-type]
        inspection = Inspection(model(statistics), begun)
        inspection.add(range(16), images)
        assert bool(inspection.findings()) == (begun is request)


def test_a_rank_may_look_at_images_of_its_own(
    statistics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # of a program that uses the library
    monkeypatch.setenv("RANK", "0")
    assert told(statistics, FAULTS["dark"](drawn(16, 9)))[0].name == "dark"


def test_watching_passes_on_what_it_looks_at(statistics: Any) -> None:
    images = FAULTS["dark"](drawn(20, 10))
    request = GenerationRequest(20, 0, ConditionPlan((0,)), Sampling(50))
    inspection = Inspection(model(statistics), request)
    assert inspection.findings() == []  # no image yet
    batches = [(range(k, k + 5), images[k : k + 5]) for k in range(0, 20, 5)]
    passed = list(inspection.watch(batches))
    assert [list(indices) for indices, _ in passed] == [list(indices) for indices, _ in batches]
    assert inspection.findings()[0].name == "dark"


@pytest.mark.parametrize("halflife, rampup", [(64, 0.05), (100_000, 0.5), (500, 1.0), (1000, 50)])
def test_the_share_of_the_initial_weights(halflife: int, rampup: float) -> None:
    optimiser = replace(CONFIG.optimiser, batch=8, ema_halflife=halflife, ema_rampup=rampup)
    config = replace(CONFIG, optimiser=optimiser)
    share = 1.0
    for images in range(8, 4001, 8):
        share *= ema.decay_after(8, images, halflife, rampup)
        if images in (80, 800, 4000):
            assert remedies.initial_share(config, images) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    "images, poor, rampup, expected",
    [
        (640, False, 0.05, "few images"),
        (640, False, 1e6, "cold average"),
        (100_000, False, 0.05, None),
        (100_000, True, 0.05, "few images"),
        (1_000_000, True, 0.05, None),
        (0, True, 0.05, None),  # imported
    ],
)
def test_too_little_training(images: int, poor: bool, rampup: float, expected: str | None) -> None:
    optimiser = replace(RunConfig().optimiser, ema_rampup=rampup)
    told = remedies.of_training(replace(RunConfig(), optimiser=optimiser), images, poor=poor)
    assert (told and told[0]) == expected


def test_after_sampling_from_a_run(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    tiny_run("run")
    recorded = json.loads(Path("run/statistics.json").read_text())
    assert recorded["all"]["images"] == 24  # all photos
    first = ddpm("sample", "run", "-n", 4, "--steps", 2, "--out", "a", "--json")
    names = [one["finding"] for one in first.json()["findings"]]
    assert names[-1] == "few images" and len(names) <= 3
    for one in first.json()["findings"]:
        assert one["text"] in first.err
    again = ddpm("sample", "run", "-n", 4, "--steps", 2, "--out", "a", "--json")
    assert again.json()["findings"] == []  # all were there

    shutil.copy("run/model.safetensors", "alone.safetensors")
    assert weights.load(Path("alone.safetensors")).statistics == recorded
    assert weights.load(next(Path("run/snapshots").glob("*.pt"))).statistics == recorded
    alone = ddpm("sample", "alone.safetensors", "-n", 4, "--steps", 2, "--out", "b", "--json")
    assert alone.json()["findings"] == first.json()["findings"]

    reporter = Messages()
    TrainedModel.load(Path("run"), "cpu", "fp32", reporter).sample(4, steps=2)
    assert reporter.messages[-1] == first.json()["findings"][-1]["text"]

    old = weights.load(Path("run/model.safetensors"))  # as earlier versions wrote it
    weights.save(Path("old.safetensors"), old.network.state_dict(), old.config, 1_000_000)
    result = ddpm("sample", "old.safetensors", "-n", 2, "--steps", 2, "--json")
    assert (result.code, result.json()["findings"]) == (0, [])
