"""Settings taken from a run's config.json, by --config, and from the run that is gone on with."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.training.preparation.planning import plan_training
from tests.support.cli import Result, config_of, refused
from tests.support.training import equal_tensors

Run = Callable[..., Result]


def write_settings(settings: Any) -> Path:
    path = Path("settings.json")
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("caption", [(), ("--caption", "a {class} image", "--conditional")])
def test_a_runs_config_reproduces_the_run(
    train_tiny: Run, ddpm: Run, caption: tuple[str, ...]
) -> None:
    options = ("--size", "8x16", "--channels", 1, "--batch", 4, "--holdout", 4, "--augment", 0.1)
    first = train_tiny(*options, *caption, "--out", "one", "--images", 12, "--seed", 3)
    assert first.code == 0, first.err
    second = ddpm("train", "--config", "one/config.json", "--out", "two")
    assert second.code == 0, second.err
    assert config_of("one") == config_of("two")
    assert equal_tensors(*(load_file(f"{run}/model.safetensors") for run in ("one", "two")))


@pytest.mark.usefixtures("planned_only")
def test_settings_that_a_runs_config_does_not_have_yet_are_no_presets(
    tiny_run: Callable[..., Path], photos: Path
) -> None:
    """A run of a version without --optimiser had AdamW, whatever the presets have now."""
    settings = json.loads((tiny_run("one", "--images", 8) / "config.json").read_text())
    del settings["optimiser"]["method"]
    request = TrainingRequest(config=write_settings(settings), data=str(photos))
    assert plan_training(request, SILENT, "cpu").config.optimiser.method == "adamw"
    some = write_settings({"optimiser": {"lr": settings["optimiser"]["lr"]}})  # over a preset
    plan = plan_training(dataclasses.replace(request, config=some), SILENT, "cpu")
    assert (plan.preset, plan.config.optimiser.method) == ("small", "muon")


@pytest.mark.usefixtures("planned_only")
def test_options_win_over_a_runs_config(
    tiny_run: Callable[..., Path], ddpm: Run, photos: Path
) -> None:
    tiny_run("one", "--images", 8)
    command = ("train", "--config", "one/config.json", "--out", "two", "--dry-run", "--json")
    options = ("--size", 16, "--channels", 1, "--minutes", 2, "--unconditional", "--batch", 2)
    plan = ddpm(*command, *options).json()
    assert (plan["size"], plan["channels"], plan["classes"]) == ([16, 16], 1, [])
    assert (plan["images"], plan["minutes"], plan["batch"]) == (None, 2, 2)
    other = ddpm(*command, "--data", photos / "dark")
    assert (other.json()["pictures"], other.json()["classes"]) == (12, []), other.err
    source = config_of("one")["data"]["source"]  # perhaps an earlier test's photos
    assert f"--data {photos / 'dark'} replaces {source} of one/config.json" in other.err


@pytest.mark.parametrize(
    ("settings", "options", "key", "expected"),
    [
        ({"network": {"size": [16, 8]}}, (), "size", [16, 8]),
        ({"network": {"size": [16, 8]}}, ("--size", 32), "size", [32, 32]),
        ({"network": {"channels": 1}}, (), "channels", 1),
        ({"network": {"classes": []}}, (), "classes", []),
        ({"network": {"classes": []}}, ("--conditional",), "classes", ["dark", "light"]),
        ({"network": {"classes": ["light", "dark"]}}, (), "classes", ["light", "dark"]),
        ({"data": {"templates": ["a {class}"]}}, ("--preset", "cifar10"), "captions", 2),
        ({"data": {"templates": ["a {class}"]}}, ("--no-captions",), "captions", 0),
    ],
)
@pytest.mark.usefixtures("planned_only")
def test_what_the_data_decide_by_default_can_be_set_by_a_file(
    ddpm: Run,
    photos: Path,
    settings: dict[str, Any],
    options: tuple[object, ...],
    key: str,
    expected: object,
) -> None:
    command = ("train", "--data", photos, "--config", write_settings(settings), *options)
    result = ddpm(*command, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert result.json()[key] == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": {"classes": ["dark", "cat"]}}, ["network.classes ['dark', 'cat'] cannot be"]),
        ({"network": {"text": {"width": 8}}}, ["network.text {'width': 8} cannot be"]),
        ({"network": {"augmented": True}}, ["network.augmented True cannot be"]),
        ({"data": {"captions": "c0ffee"}}, ["captions"]),
        ({"data": {"examples": ["a cat"]}}, ["data.examples ['a cat'] cannot be"]),
        ({"data": {"source": "gone"}}, ["data.source", "gone: no such folder", "--data"]),
        ({"size": [8, 8]}, ["settings.json: unknown setting 'size'", "network.size"]),
        ({"data": "mnist", "accuracy": 0.9}, ["unknown setting 'accuracy'"]),  # a classifier's
        ({"_class_name": "UNet2DModel"}, ["a config of diffusers", "ddpm convert"]),
        ({"optimiser": {"lr": "fast"}}, ["settings.json.optimiser.lr should be of type float"]),
        ({"optimiser": {"lr": float("nan")}}, ["settings.json: ", "lr must be more than 0"]),
        ({"optimiser": {"batch": 10**30}}, ["settings.json.optimiser.batch is too large"]),
        ({"origin": {"path": "x"}}, ["settings.json.origin lacks the setting 'sha256'"]),
        ({"origin": {"path": "x", "sha256": ""}}, ["x: no such run or weights file"]),
    ],
)
def test_what_the_data_do_not_allow_is_named(
    ddpm: Run, photos: Path, settings: dict[str, Any], words: list[str]
) -> None:
    data = () if "source" in settings.get("data", {}) else ("--data", photos)
    result = ddpm("train", *data, "--config", write_settings(settings), "--dry-run")
    refused(result, *words)


def test_images_that_have_changed_are_not_those_of_the_config(
    train_tiny: Run, ddpm: Run, photos: Path
) -> None:
    assert train_tiny("--out", "one", "--images", 8).code == 0
    shutil.copy(photos / "dark" / "0.png", photos / "dark" / "new.png")
    command = ("train", "--config", "one/config.json", "--out", "two", "--dry-run", "--json")
    refused(ddpm(*command), "data.fingerprint", f"give --data {photos}")
    assert ddpm(*command, "--data", photos).json()["pictures"] == 25


def test_a_config_brings_the_weights_it_started_from(
    train_tiny: Run, tiny_run: Callable[..., Path], ddpm: Run
) -> None:
    tiny_run("zero", "--images", 8)
    assert train_tiny("--init-from", "zero", "--out", "one", "--images", 8).code == 0
    command = ("train", "--config", "one/config.json", "--out", "two")
    again = ddpm(*command)
    assert "Starting from the weights of zero" in again.err
    assert equal_tensors(*(load_file(f"{run}/model.safetensors") for run in ("one", "two")))
    assert config_of("one") == config_of("two")
    assert train_tiny("--out", "zero", "--images", 16).code == 0
    refused(ddpm(*command[:-1], "three"), "origin.sha256 is not that of zero", "--init-from zero")
    assert not Path("three").exists()


CONTENT = {
    "a list": b"[1]",
    "nested": b"[" * 100_000,
    "nested.toml": b"a = " + b"[" * 100_000,
    "nan": b"NaN",
    "empty": b"",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "a page": b"<!DOCTYPE html><html></html>",
    "cut": b'{"network": {',
    "digits": b'{"keep": 1' + b"0" * 6000 + b"}",
    "latin1": b'{"keep": "\xe9"}',
    "zeros": bytes(100),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_that_holds_no_settings_is_an_error_of_one_line(ddpm: Run, name: str) -> None:
    Path(name).write_bytes(CONTENT[name])
    refused(ddpm("train", "--config", name, "--dry-run"), f"--config {name} ")


@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "/", "/nowhere"])
@pytest.mark.skipif(os.name == "nt", reason="devices of Unix")
def test_a_config_that_is_no_file(ddpm: Run, path: str) -> None:
    refused(ddpm("train", "--config", path, "--dry-run"), f"--config {path}")


NASTY: list[Any] = [
    *(None, True, [], {}, "", "nonsense", "\0", "~nobody/x", "x" * 5000),
    *(0, -1, 3, 10**6, 10**12, 2**63 - 1, 10**20, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *([0], [-1, 2], [1, 10**18], [8] * 100, ["res"], ["res,attn,text-attn"], ["\0"], {"x": 1}),
    *([[1]], {"encoder": "nowhere/at-all"}, {"path": "nowhere", "sha256": "x"}),
]


def paths_of(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all fields of a config dataclass, and of those nested in it."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield (*path, field.name)
        for nested in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(nested):
                yield from paths_of(nested, (*path, field.name))


@pytest.mark.parametrize("path", [*paths_of(RunConfig)], ids=".".join)
def test_any_value_of_any_setting_is_a_plan_or_an_error(path: tuple[str, ...], tiny: Path) -> None:
    for value in NASTY:
        settings = json.loads(tiny.read_text())
        *parents, last = path
        place = settings
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
        try:
            plan_training(TrainingRequest(config=write_settings(settings)), SILENT, "cpu").summary()
        except DdpmError as error:
            assert len(str(error)) < 1000 and "\n" not in str(error), error
