"""Warnings and proposals before a training: when they appear, and when they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.presets import merged
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.annotations.captions import from_sentences
from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.inspection.survey import CaptionLengths
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.library import train_on_source
from ddpm_cli.core.training.preparation import advice, copying
from ddpm_cli.core.training.preparation.facts import Facts
from ddpm_cli.core.training.preparation.trial import StepTime
from tests.support.cli import Result
from tests.support.training import Messages

EVEN = np.arange(6000) % 3
PLAIN = Facts("photos", 6000, ("cat", "dog", "fox"), EVEN, sizes=((64, 64),) * 9)


def config(**settings: Any) -> RunConfig:
    """One that learns PLAIN's classes at their size, without a word of advice."""
    network = {"size": [64, 64], "classes": ["cat", "dog", "fox"]} | settings.pop("network", {})
    data = {"holdout": 100} | settings.pop("data", {})
    parts = {"network": network, "data": data, "budget": {"images": 200_000}} | settings
    return merged(RunConfig(), parts)


def facts(**changes: Any) -> Facts:
    return dataclasses.replace(PLAIN, **changes)


def lines(
    found: Facts, run: RunConfig, *, warning: bool = True, seen: int | None = None
) -> list[str]:
    hints = advice.advise(found, run, seen=seen)
    return [each.line for each in hints if each.warning == warning]


def test_images_that_are_in_order_get_no_advice() -> None:
    assert advice.advise(PLAIN, config()) == []


def test_few_images_seen_often_are_copied() -> None:
    few, run = facts(images=24, labels=EVEN[:24]), config(data={"holdout": 0})
    first = lines(few, run)[0]
    assert first == (
        "24 images for 200,000 (8,333 epochs) will be copied, not learned; more images help most, "
        "and ddpm memorisation says afterwards how many samples are copies "
        "(without --holdout it needs --held-out images) (--augment 0.12 "
        "--images 7000 or --holdout 5 --patience 3 --validate-every 500)"  # 24 * 300 = 7,200
    )
    augmented = lines(few, config(data={"holdout": 0, "augment": 0.12}))[0]
    assert "8,333 epochs" in augmented and "--augment" not in augmented
    assert "(--images 7000 or --holdout" in augmented
    for data, budget, words in (
        ({"holdout": 0}, 24 * 300, "24 images for 7,200 (300 epochs) begin to be copied; more"),
        ({"holdout": 0, "augment": 0.1}, 24 * 500, "(500 epochs) begin to be copied; more"),
        ({"holdout": 0, "augment": 0.1}, 24 * 499, ""),
    ):
        found = lines(few, config(data=data, budget={"images": budget}))
        assert any(words in line for line in found) if words else "epochs" not in "".join(found)
    held_out = config(data={"holdout": 4}, validate_every=400)
    assert lines(few, held_out)[0].endswith("(--augment 0.12 --images 6000 or --patience 3)")

    some = facts(images=600, labels=EVEN[:600])  # 500 to train on
    short = config(budget={"images": 100_000})  # 200 epochs
    assert lines(some, short) == []
    assert lines(some, short, warning=False) == [
        "500 images for 100,000 (200 epochs) may be overfitted (--augment 0.12 or --images 70000 "
        "or --patience 3 --validate-every 10000)"
    ]
    assert advice.advise(some, config(budget={"images": 50_000})) == []  # 100 epochs


FLAGS: dict[str, Callable[[str], dict[str, Any]]] = {
    "--augment": lambda value: {"data": {"augment": float(value)}},
    "--images": lambda value: {"budget": {"images": int(value)}},
    "--holdout": lambda value: {"data": {"holdout": int(value)}},
    "--patience": lambda value: {"patience": int(value)},
    "--validate-every": lambda value: {"validate_every": int(value)},
}


@pytest.mark.parametrize("images", [1, 24, 100, 500, 2_000, 4_900])
@pytest.mark.parametrize("augment", [0.0, 0.12])
def test_the_advice_on_few_images_helps(images: int, augment: float) -> None:
    """Each of the flags alone, followed as it is typed: no word on the budget remains."""
    followed = set()
    for epochs in (160, 240, 260, 300, 301, 399, 600, 2_000, 10_000):
        before = RunConfig(validate_every=20_000)
        before = merged(
            before, {"data": {"augment": augment}, "budget": {"images": images * epochs}}
        )
        found = copying.advise(images, images * epochs, before)
        for flag in found.flags if found else ():
            after, words = before, flag.split()
            for name, value in zip(words[::2], words[1::2], strict=True):
                after = merged(after, FLAGS[name](value))
            assert after.budget.images is not None
            left = images - after.data.holdout
            if left:  # of a single image none can be held out
                assert copying.advise(left, after.budget.images, after) is None, flag
            followed.add(" ".join(words[::2]))
    assert "--images" in followed
    assert ("--augment" in followed and "--augment --images" in followed) == (augment == 0)


def test_a_training_that_stops_in_time_needs_no_advice() -> None:
    few, batch = facts(images=120, labels=EVEN[:120]), {"batch": 50}
    for stopping in ({"patience": 3}, {"stop_at_gap": 1.0}):
        stopping |= {"data": {"holdout": 20}, "optimiser": batch}
        often = config(validate_every=2_000, **stopping)
        assert lines(few, often) == []
        seldom = config(**stopping)
        assert lines(few, seldom) == [
            "100 images are validated every 1,000,000 (10,000 epochs), too seldom to stop before "
            "they are copied (--validate-every 2000)"
        ]
    # Without images held out, patience waits for a training loss that does not rise.
    (line, *_) = lines(few, config(data={"holdout": 0}, patience=3, validate_every=2_000))
    assert line.endswith("(--augment 0.12 --images 30000 or --holdout 10)")


def test_a_limit_in_time_is_one_in_images_where_the_speed_is_known() -> None:
    few = facts(images=24, labels=EVEN[:24])
    none = {"data": {"holdout": 0}, "optimiser": {"batch": 12}}
    run = config(budget={"images": None, "minutes": 5}, **none)
    assert lines(few, run, seen=None) == lines(few, run, seen=24 * 100) == []
    assert "24 images for 24,000 (1,000 epochs)" in lines(few, run, seen=24_000)[0]
    step = StepTime(0.5, 1.5, 3.0, 8, "measured")  # a second: 300 steps of 12
    assert step.images_seen(run, 24) == 300 * 12
    assert step.images_seen(config(**none), 24) is None
    both = config(budget={"images": 3_000, "minutes": 5}, **none)
    assert step.images_seen(both, 24) is None  # the images end it
    assert step.images_seen(config(budget={"images": 5_000, "minutes": 5}, **none), 24) == 300 * 12


def test_a_batch_larger_than_the_data() -> None:
    few = facts(images=60, labels=EVEN[:60])
    run = config(budget={"images": 60}, optimiser={"batch": 64}, data={"holdout": 0})
    assert lines(few, run) == [
        "a batch of 64 is more than the 60 images there are: each step sees some of them twice "
        "(--batch 60)"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "svhn"}, True),
        ({"name": "kmnist-test"}, True),
        ({"classes": ("0", "1", "9")}, True),
        ({"classes": ("0", "1", "9"), "numbered": True}, False),  # labels of a dataset.json
        ({"classes": ("letter_A", "letter_B", "letter_C")}, True),
        ({"classes": ("one", "two", "six")}, True),
        ({"classes": ("ox", "cat", "dog")}, False),
        ({"classes": ()}, False),
        ({"sentences": ("a cup on the left", "a cup")}, True),
        ({"sentences": ("a leftover cup", "bright copyright")}, False),
        ({"sentences": ("a handwritten note",) + ("a cup",) * 9}, True),
        ({"sentences": ("a handwritten note",) + ("a cup",) * 99}, False),
    ],
)
def test_what_must_not_be_mirrored(changes: dict[str, Any], said: bool) -> None:
    found = facts(**changes)
    if not found.classes:
        found = dataclasses.replace(found, labels=None)
    assert any("--no-flip" in line for line in lines(found, config())) == said
    proposed = any("--no-flip" in line for line in lines(found, config(), warning=False))
    assert proposed == found.numbered
    for data in ({"flip": False}, {"augment": 0.12}):  # the network is told of its mirroring
        assert lines(found, config(data=data)) == []


def test_classes_of_very_different_sizes() -> None:
    dominant = np.repeat([0, 1, 2], [5700, 200, 100])
    (line,) = lines(facts(labels=dominant), config(data={"holdout": 0}))
    assert line.startswith("95 % of the images are of the class cat")
    assert line.endswith("(--balance or --unconditional)")
    uneven = facts(labels=np.repeat([0, 1, 2], [4000, 1900, 100]))
    (line,) = lines(uneven, config(), warning=False)
    assert line == (
        "the class fox has 100 images, cat 4,000: small classes are seen seldom (--balance)"
    )
    for run in (config(data={"balance": True}), config(network={"classes": []})):
        assert advice.advise(uneven, run) == []
        assert lines(facts(labels=dominant), run) == []

    many = tuple(f"person {i}" for i in range(2000))
    (line,) = lines(facts(classes=many, labels=np.arange(6000) % 2000), config(data={"holdout": 9}))
    assert line.startswith("2,000 classes have 3.0 images each")


def test_what_is_held_out() -> None:
    (line,) = lines(PLAIN, config(data={"holdout": 0}), warning=False)
    assert line.endswith("(--holdout 300)")  # a twentieth
    half = [each for each in lines(PLAIN, config(data={"holdout": 4000})) if "--holdout" in each]
    assert half == ["--holdout 4,000 leaves 2,000 of 6,000 images to train on"]
    small = facts(labels=np.repeat([0, 1, 2], [3000, 2998, 2]))
    # Both images of a class of two are held out with probability about (2000 / 6000)^2 = 0.11.
    said = lines(small, config(data={"holdout": 2000, "balance": True}))
    assert "--holdout 2,000 may leave nothing to train on of the class fox (2)" in said
    assert lines(small, config(data={"holdout": 300, "balance": True})) == []  # 0.0025


def test_sizes_that_do_not_fit() -> None:
    small = facts(sizes=((28, 28),) * 5)
    assert lines(small, config()) == [
        "images of 28x28 are enlarged to 64x64: samples will be as blurred (--size 24)"
    ]
    assert advice.advise(facts(sizes=((48, 48),)), config()) == []  # 1.33 times
    (line,) = lines(facts(sizes=((500, 500),)), config(), warning=False)
    assert line.endswith("(on a GPU: --size 128)")
    large = facts(sizes=((500, 500),))
    assert advice.advise(large, config())[0].flags == ()  # so it gets into no command
    assert advice.advise(large, config(), gpu=True)[0].flags == ("--size 128",)
    assert advice.advise(large, config(), size_given=True) == []
    (line,) = lines(facts(sizes=((100, 200),)), config(), warning=False)
    assert (
        line == "images of 100x200 lose 50 % of their area to the crop (--size 64x128 or --fit pad)"
    )
    assert advice.advise(facts(sizes=((100, 200),)), config(data={"fit": "pad"})) == []
    (line,) = lines(facts(sizes=((100, 200),)), config(data={"fit": "stretch"}), warning=False)
    assert line.startswith("images of 100x200 are stretched to another shape")
    wide = config(network={"size": [64, 128]})
    assert advice.advise(facts(sizes=((100, 200),)), wide) == []


def test_what_only_a_look_at_the_images_finds() -> None:
    found = facts(unreadable=4000, most_pixels=10**9, transparent=3, copies=4, held_out_copies=2)
    warnings = lines(found, config())
    assert "4,000 of 10,000 images cannot be read, and training stops at them" in warnings[0]
    assert warnings[0].endswith("(--skip-bad or --max-pixels 1000000000)")
    assert warnings[1].startswith("images held out that look like ones trained on: 2;")
    transparent, copies = lines(found, config(), warning=False)
    assert transparent == "3 transparent images are put on white (--background)"
    most = lines(facts(transparent=5), config(), warning=False)[0]  # of 9 looked at
    assert most.endswith("(--channels 4)") and "images that look like others: 4 (" in copies
    assert "look like others" not in "".join(warnings)
    assert "images that look like others: 600 (10 %)" in lines(facts(copies=600), config())[0]
    assert ": most of them" in lines(facts(unreadable=9000), config())[0]


def test_captions_that_are_too_long() -> None:
    lengths = CaptionLengths(50, (1, 1), (3, 4, 80), (10, 20, 400), 7)
    (line,) = lines(facts(lengths=lengths), config())
    assert line.startswith("7 of 50 captions") and line.endswith("(--text-length 400)")
    fitting = dataclasses.replace(lengths, too_long=0)
    assert advice.advise(facts(lengths=fitting), config()) == []


def test_the_built_in_shapes_need_no_advice() -> None:
    assert advice.of_source(Shapes(24), None, config(data={"holdout": 0})) == []
    images = ArraySource(np.zeros((24, 64, 64, 3), np.uint8))
    run = config(data={"holdout": 0}, network={"classes": []})
    assert "24 images" in advice.of_source(images, None, run)[0].line
    captions = from_sentences("", [["a cup on the left"]] * 24)
    assert advice.of_source(images, captions, run)[-1].flags == ("--no-flip",)


def test_train_warns_in_a_line_each(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """24 images in a batch of 32."""
    result = train_tiny("--out", tmp_path / "run", "--batch", 32, "--images", 32)
    assert result.code == 0
    (warning,) = [line for line in result.err.splitlines() if "Warning: " in line]
    assert warning.endswith("(--batch 24)")
    assert warning in RunDirectory(tmp_path / "run").log.read_text()


def test_a_dry_run_advises_after_a_look(
    train_tiny: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    (photos / "dark" / "again.png").write_bytes((photos / "dark" / "0.png").read_bytes())
    result = train_tiny("--out", tmp_path / "run", "--dry-run", "--json", "--images", 5000)
    assert result.code == 0
    few, copies = result.json()["advice"]
    assert few["flags"][0] == "--augment 0.12" and not few["warning"]  # 208 epochs
    assert copies["message"].startswith("images that look like others: 1 (4 %)")
    assert f"Proposal: {copies['message']}" in result.err
    (photos / "light" / "bad.png").write_bytes(b"<html>")
    result = train_tiny("--out", tmp_path / "run", "--dry-run", "--images", 32, "--skip-bad")
    assert result.code == 0 and "Warning: " not in result.err


def test_few_images_are_said_in_a_dry_run_of_minutes_and_in_python(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """A tiny network sees 24 images some thousand times an hour."""
    options = ("--out", tmp_path / "run", "--dry-run", "--quiet", "--images", 10**8)
    result = train_tiny(*options, "--minutes", 60)
    assert result.code == 0
    (warning,) = [line for line in result.err.splitlines() if "will be copied" in line]
    assert "24 images for " in warning and "100,000,000" not in warning
    images = np.zeros((4, 8, 8, 3), np.uint8)
    messages = Messages()
    run = config(
        network={"size": [8, 8], "classes": [], "width": 4, "multipliers": [1], "blocks": ["res"]},
        data={"holdout": 0},
        optimiser={"batch": 4},
        budget={"images": 1200},
        preview=0,
    )
    short = dataclasses.replace(run, budget=dataclasses.replace(run.budget, minutes=1e-5))
    request = TrainingRequest("arrays", out=tmp_path / "arrays")
    cpu = MachineConfig(device="cpu", precision="fp32")
    train_on_source(short, ArraySource(images), request, cpu, messages)
    assert any("4 images for 1,200 (300 epochs) begin" in line for line in messages.messages)
