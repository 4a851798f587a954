"""Conditions of generated images: requested classes and prompts, and the default plan."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.requests import (
    ConditionPlan,
    ConditionRequest,
    default_plan,
    plan_conditions,
)
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.cli import TINY, Result

CPU = torch.device("cpu")
ANIMALS = ("cat", "dog", "duck", "emu")
BASE = updated(RunConfig(), TINY | {"network": TINY["network"] | {"size": [8, 8]}})
TEXT = {"blocks": ("res", "res,attn,text-attn"), "text": TextConfig(length=16, width=8, heads=2)}
CLASSES = replace(BASE, network=replace(BASE.network, classes=ANIMALS))
CAPTIONS = replace(
    BASE,
    network=replace(BASE.network, **TEXT),
    data=replace(BASE.data, captions="0", examples=("a cat", "two emus")),
)
BOTH = replace(
    CAPTIONS,
    network=replace(CAPTIONS.network, classes=ANIMALS),
    data=replace(CAPTIONS.data, example_labels=(0, 3)),
)


def plan(config: RunConfig, *classes: str, prompts: tuple[str, ...] = ()) -> ConditionPlan:
    return plan_conditions(config, ConditionRequest(classes, prompts), "a model")


def labels(plan: ConditionPlan, count: int = 6, seed: int = 0) -> list[int | None]:
    return [plan.label(seed + i) for i in range(count)]


def test_classes_by_name_number_and_count() -> None:
    assert labels(default_plan(CLASSES)) == labels(plan(CLASSES, "all")) == [0, 1, 2, 3, 0, 1]
    assert labels(plan(CLASSES, "emu", "1"), seed=1) == [1, 3, 1, 3, 1, 3]
    counted = plan(CLASSES, "cat:2", "dog", "3:2")
    assert (labels(counted, 5), counted.count) == ([0, 0, 1, 3, 3], 5)
    assert (labels(plan(CLASSES, "all:2"), 8), plan(CLASSES, "dog").count) == (
        [0, 0, 1, 1, 2, 2, 3, 3],
        None,
    )


def test_random_classes_are_functions_of_the_seed() -> None:
    planned = plan(CLASSES, "random:30")
    assert planned.count == 30
    chosen = labels(planned, 400)
    assert chosen[7:20] == labels(planned, 13, seed=7)
    assert chosen[:8] != chosen[4:12]
    # 100 are expected of each, within 3.5 standard deviations
    assert all(70 < count < 130 for count in Counter(chosen).values())
    with pytest.raises(UsageError, match="random excludes other classes"):
        plan(CLASSES, "cat", "random")


def test_class_names_that_look_like_requests_are_names() -> None:
    config = replace(BASE, network=replace(BASE.network, classes=("all", "random", "cat:8")))
    assert labels(plan(config, "cat:8", "all", "random"), 3) == [2, 0, 1]
    assert plan(config, "cat:8").count is None


def test_numbers_are_names_where_names_are_numbers() -> None:
    """The number 2 is never the class at index 2 of another name."""

    def chosen(names: tuple[str, ...], value: str) -> str:
        config = replace(BASE, network=replace(BASE.network, classes=names))
        return names[labels(plan(config, value), 1)[0] or 0]

    text_sorted = ("0", "1", "10", "11", "2")  # as earlier versions trained them
    assert [chosen(text_sorted, value) for value in ("2", "02", "010", "2.0")] == [
        *("2", "2", "10", "2")
    ]
    assert chosen(("01", "02", "10"), "1") == "01"
    assert chosen(("-1", "0", "1"), "-1") == "-1"
    for names, value in (
        (text_sorted, "3"),  # an index, but no name
        (("2", "02"), "002"),  # two names
        (("cat", "7"), "1"),
        (text_sorted, "1" * 5000),
        (text_sorted, "\u0662"),  # a digit of another script
    ):
        with pytest.raises(DdpmError, match=r"is not a class of this model.*given by their names"):
            chosen(names, value)
    with pytest.raises(DdpmError, match="did you mean 2 or 02"):
        chosen(("2", "02"), "002")
    with pytest.raises(DdpmError, match="did you mean Dog"):
        chosen(("Dog", "Cat"), "dgo")


def test_prompts_are_cycled_through_and_have_a_default() -> None:
    planned = plan(CAPTIONS, prompts=("a", "b"))
    assert [planned.prompt(seed) for seed in range(3, 6)] == ["b", "a", "b"]
    assert planned.label(0) is None and planned.count is None
    assert default_plan(CAPTIONS).prompts == ("a cat", "two emus")
    pairs = [(default_plan(BOTH).label(seed), default_plan(BOTH).prompt(seed)) for seed in range(3)]
    assert pairs == [(0, "a cat"), (3, "two emus"), (0, "a cat")]
    assert default_plan(BASE) == ConditionPlan()


def test_conditions_of_a_plan() -> None:
    planned = plan(BOTH, "dog", "emu", prompts=("ab", "c")).encode_prompts(BOTH, CPU, Silent())
    condition = planned.condition([1, 2], CPU)
    assert condition.labels.tolist() == [3, 1]
    assert condition.text.tolist() == [[ord("c") + 1, 0], [ord("a") + 1, ord("b") + 1]]
    assert default_plan(BASE).encode_prompts(BASE, CPU, Silent()).condition([0], CPU).is_empty


@pytest.mark.parametrize(
    ("config", "requested", "message"),
    [
        (
            CLASSES,
            ConditionRequest(("dgo",)),
            r"'dgo' is not a class of this model; did you mean dog\?",
        ),
        (
            CLASSES,
            ConditionRequest(("4",)),
            "it has 4 classes, numbered from 0 to 3: cat, dog, duck, emu",
        ),
        (CLASSES, ConditionRequest(("cat:0",)), "requests 0 images"),
        (CLASSES, ConditionRequest(("²",)), "'²' is not a class of this model"),
        (CLASSES, ConditionRequest(("cat:²",)), "'cat:²' is not a class of this model"),
        (CLASSES, ConditionRequest(("9" * 5000,)), "is not a class of this model"),
        (CLASSES, ConditionRequest(("cat:1000000000",)), "requests more than 1,000,000 images"),
        (
            CLASSES,
            ConditionRequest(("random:" + "9" * 5000,)),
            "requests more than 1,000,000 images",
        ),
        (
            CLASSES,
            ConditionRequest((), ("x",)),
            "without captions, so --prompt has no meaning .* use --class",
        ),
        (
            CAPTIONS,
            ConditionRequest(("cat",)),
            "without classes, so --class has no meaning .* use --prompt",
        ),
        (BASE, ConditionRequest(("cat",)), "without classes, so --class has no meaning for it$"),
        (
            BASE,
            ConditionRequest((), ("x",)),
            "without captions, so --prompt has no meaning for it$",
        ),
        (CAPTIONS, ConditionRequest((), ("x",), text_encoder="t5"), "has no frozen text encoder"),
        (BOTH, ConditionRequest((), ("x",)), "give both --class and --prompt, or neither"),
        (BOTH, ConditionRequest(("cat",)), "give both --class and --prompt, or neither"),
        (
            CAPTIONS,
            ConditionRequest((), ("a longer prompt: 17",)),
            "more than the 16 bytes .* has 19",
        ),
    ],
)
def test_requests_that_a_model_cannot_meet(
    config: RunConfig, requested: ConditionRequest, message: str
) -> None:
    with pytest.raises(DdpmError, match=message):
        plan_conditions(config, requested, "a model").encode_prompts(config, CPU, Silent())


def test_prompts_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff a \n\nb, ß\n", encoding="utf-8")
    parsed = ConditionRequest.from_options(None, ["first"], file)
    assert parsed.prompts == ("first", "a", "b, ß")
    assert plan_conditions(CAPTIONS, parsed, "a model").count == 3
    for content, message in ((b"\n \n", "contains no prompts"), (b"a\xff", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(DdpmError, match=message):
            ConditionRequest.from_options(None, None, file)
    with pytest.raises(DdpmError, match="no such file"):
        ConditionRequest.from_options(None, None, tmp_path / "none.txt")
    for prompt, message in ((" ", "empty; --guidance 0"), ("a\udcff", "not UTF-8")):
        with pytest.raises(UsageError, match=message):
            ConditionRequest.from_options(None, [prompt], None)


def model(config: RunConfig, name: str = "model") -> Path:
    """A weights file of a random network whose output depends on its condition."""
    torch.manual_seed(0)
    network = UNet(config.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights.save(Path(f"{name}.safetensors"), network.state_dict(), config, 5)
    return Path(f"{name}.safetensors")


def manifest(folder: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]


def images(folder: str) -> list[np.ndarray]:
    paths = sorted(Path(folder).glob("0*.png"))
    return [files.decode(path.read_bytes(), path.name).astype(int) for path in paths]


def test_sample_draws_prompts(ddpm: Callable[..., Result]) -> None:
    path, few = model(CAPTIONS), ("--steps", 3)
    done = ddpm("sample", path, "-n", 4, "--prompt", "a", "--prompt", "b", "--out", "two", *few)
    assert done.code == 0, done.err
    assert [(e["seed"], e["prompt"]) for e in manifest("two")] == [
        (0, "a"),
        (1, "b"),
        (2, "a"),
        (3, "b"),
    ]
    assert "class" not in manifest("two")[0]
    settings = json.loads(Path("two/sampling.json").read_text())
    assert settings["prompts"] == ["a", "b"]
    size = files.probe(Path("two/grid.png").read_bytes(), "grid")[0]
    assert size[0] > size[1] > 2 * 96  # two rows of enlarged images with captions

    # an image depends on its seed and its prompt alone
    ddpm("sample", path, "-n", 2, "--seed", 2, "--prompt", "a", "--prompt", "b", "--out", "s", *few)
    two, later = images("two"), images("s")
    assert max(abs(two[2] - later[0]).max(), abs(two[3] - later[1]).max()) <= 1
    ddpm("sample", path, "-n", 1, "--seed", 2, "--prompt", "other", "--out", "o", *few)
    assert abs(images("o")[0] - two[2]).max() > 1

    # by default captions of the training set; prompts have no effect at guidance 0
    assert ddpm("sample", path, "-n", 3, "--out", "default", *few).code == 0
    assert [e["prompt"] for e in manifest("default")] == ["a cat", "two emus", "a cat"]
    for prompt in ("a", "b"):
        options = ("--prompt", prompt, "--guidance", 0, "--out", f"free-{prompt}", *few)
        assert ddpm("sample", path, "-n", 1, *options).code == 0
    assert np.array_equal(images("free-a")[0], images("free-b")[0])


def test_a_file_of_prompts_and_counted_classes_set_the_count(ddpm: Callable[..., Result]) -> None:
    Path("prompts.txt").write_text("a\nb\nc\n")
    done = ddpm("sample", model(CAPTIONS), "--prompts", "prompts.txt", "--steps", 1, "--json")
    assert done.json()["n"] == 3
    done = ddpm("sample", model(CLASSES), "--class", "cat:2", "--steps", 1, "--out", "c", "--json")
    assert (done.json()["n"], [e["class"] for e in manifest("c")]) == (2, ["cat", "cat"])
    done = ddpm("gif", model(CLASSES), "--class", "emu:2", "--steps", 2, "--json")
    assert done.json()["classes"] == ["emu:2"]
    done = ddpm("gif", model(CAPTIONS), "--prompt", "a", "-n", 1, "--steps", 2, "--json")
    assert done.json()["prompts"] == ["a"]


def test_fewer_images_get_another_folder(ddpm: Callable[..., Result]) -> None:
    path = model(CLASSES)
    for count, folder in ((3, "generated"), (2, "generated-2"), (4, "generated")):
        done = ddpm("sample", path, "-n", count, "--steps", 1, "--json")
        assert done.code == 0, done.err
        assert (done.json()["out"], len(images(folder))) == (folder, count)


def test_a_model_of_captions_alone_needs_no_null_class_to_be_guided(
    ddpm: Callable[..., Result],
) -> None:
    network = replace(CAPTIONS.network, null_class=False)
    few = ("-n", 1, "--steps", 1, "--guidance", 2)
    done = ddpm("sample", model(replace(CAPTIONS, network=network)), *few)
    assert done.code == 0, done.err
    classes = replace(network, classes=ANIMALS)
    optimiser = replace(BOTH.optimiser, class_drop=0.0)
    done = ddpm("sample", model(replace(BOTH, network=classes, optimiser=optimiser), "both"), *few)
    assert (done.code, "no null class" in done.err) == (1, True), done.err


def test_fid_uses_prompts(ddpm: Callable[..., Result], photos: Path, trained: Path) -> None:
    options = ("--features", trained, "--steps", 1, "-n", 8, "--metrics", "fid", "--json")
    run = model(CAPTIONS)
    one = ddpm("fid", photos, run, "--prompt", "a", *options)
    other = ddpm("fid", photos, run, "--prompt", "zzz", *options)
    assert one.json()["n_fake"] == 8 and one.json()["fid"] != other.json()["fid"]
    refused = ddpm("fid", photos, photos, "--prompt", "a", *options[:2])
    assert refused.code == 2 and "for sampling from a run" in refused.err


@pytest.mark.usefixtures("quick_scores")
def test_a_model_of_captions_is_scored_with_the_captions_of_its_images(
    train_tiny: Callable[..., Result], ddpm: Callable[..., Result], photos: Path, trained: Path
) -> None:
    options = ("--caption", "a {class} one", "--images", 32, "--timesteps", 20)
    scoring = ("--fid-every", 32, "--fid-n", 4, "--fid-features", trained)
    assert train_tiny(*options, *scoring, "--out", "runs/a").code == 0
    assert json.loads(Path("runs/a/scores.jsonl").read_text())["images"] == 32
    result = ddpm("nll", "runs/a", "-n", 2, "--json")
    assert result.code == 0 and np.isfinite(result.json()["total"])
    shutil.rmtree(photos / "dark")
    done = ddpm("nll", "runs/a", "--data", photos / "light", "-n", 1)
    assert done.code == 1 and "these images have none" in done.err
