"""Declared settings: help texts, options, defaults shown, checks, former names, config.json."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from ddpm_cli.cli.app import app
from ddpm_cli.core.config import run
from ddpm_cli.core.config.fields import (
    Setting,
    parse_duration,
    parse_numbers,
    parse_size,
    settings_of,
)
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.request import ScoringRequest, TrainingRequest
from ddpm_cli.core.config.run import RunConfig, WeightsOrigin
from ddpm_cli.core.config.serialisation import from_dict, to_dict, updated
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from tests.support.cli import Result

CONFIGS: tuple[type[Any], ...] = (RunConfig, TrainingRequest, MachineConfig, Sampling)
PARTS: tuple[type[Any], ...] = (
    *(run.DataConfig, run.DiffusionConfig, run.ObjectiveConfig, run.OptimiserConfig, run.Budget),
    *(NetworkConfig, TextConfig, ScoringRequest, *CONFIGS),
)
# Fields that neither users nor config files set by themselves.
UNDECLARED = {"origin.path", "origin.sha256", "settings", "teacher"}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def field_names(config: type[Any], prefix: str = "") -> Iterator[str]:
    """The paths of all fields, those of nested dataclasses included."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kinds = [hints[field.name], *typing.get_args(hints[field.name])]
        nested = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        if nested:
            yield from field_names(typing.cast(type[Any], nested[0]), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_a_setting_with_a_help_text(config: type[Any]) -> None:
    settings = {setting.name: setting for setting in settings_of(config)}
    assert set(field_names(config)) - UNDECLARED == settings.keys()
    for name, setting in settings.items():
        assert setting.info.help.strip().endswith((".", ")", '"')), name


def options_of(command: str) -> dict[str, Any]:
    """The options of a command by their first spelling, without --help."""
    params = [param for param in COMMANDS[command].params if param.param_type_name == "option"]
    return {param.opts[0]: param for param in params}


def spelling(setting: Setting) -> str:
    return setting.option.split("/")[0]


@pytest.mark.parametrize(
    ("command", "configs"),
    [
        ("train", (RunConfig, TrainingRequest, MachineConfig)),
        *((name, (Sampling,)) for name in ("sample", "gif", "fid")),
    ],
)
def test_settings_of_a_panel_are_options_of_the_command(
    command: str, configs: tuple[type[Any], ...]
) -> None:
    options = options_of(command)
    declared = [s for config in configs for s in settings_of(config) if s.info.panel is not None]
    assert len(declared) > 10
    for setting in declared:
        option = options[spelling(setting)]
        assert (option.help, option.hidden) == (setting.info.help, False), setting.name
        for alias in setting.info.aliases:
            assert options[alias].hidden, alias
    if command == "train":
        names = {spelling(s) for s in declared} | {a for s in declared for a in s.info.aliases}
        assert options.keys() - names == {"--dry-run", "--json", "--print-config", "--quiet"}


def defaults_in_help(ddpm: Callable[..., Result], *arguments: str) -> dict[str, str]:
    """The defaults that the help of `ddpm train` shows, by option."""
    text = ddpm("train", *arguments, "--help").out
    rows = re.findall(r"(--[\w-]+)[^\n]*\[default: \(?([^\n]*?)\)?\]", text)
    return dict(rows)


CIFAR10 = {
    "--batch": "128 images",
    "--lr": "0.0002",
    "--dropout": "0.1",
    "--schedule": "linear",
    "--parameterisation": "eps",
    "--multipliers": "1,2,2,2",
    "--images": "102,400,000 images",
    "--flip": "flip",
}
SHAPES = {
    "--batch": "64 images",
    "--lr": "0.002",
    "--dropout": "0",
    "--schedule": "cosine",
    "--parameterisation": "x0",
    "--multipliers": "1,2,4",
    "--images": "57,600 images",
    "--flip": "no-flip",
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), SHAPES),
        (("--preset", "shapes"), SHAPES),
        (("--preset", "cifar10"), CIFAR10),
        (("--preset=cifar10",), CIFAR10),
    ],
)
def test_the_help_shows_the_defaults_of_the_preset(
    ddpm: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: dict[str, str],
) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # one line per option
    defaults = defaults_in_help(ddpm, *arguments)
    assert {name: defaults.get(name) for name in expected} == expected
    assert (defaults["--data"], defaults["--nproc"]) == ("shapes", "1 process")


CHECKED = [
    pytest.param(config, setting, id=f"{config.__name__}.{setting.name}")
    for config in PARTS
    for setting in settings_of(config)
    if setting.info.check is not None and len(setting.path) == 1
]


def invalid_value(setting: Setting) -> Any:
    """A value that no check allows."""
    if typing.get_origin(setting.kind) is tuple:
        return (math.nan, math.nan)
    return {int: -1, float: math.nan, str: "nonsense"}[setting.kind]


@pytest.mark.parametrize(("config", "setting"), CHECKED)
def test_invalid_values_are_reported_with_the_option(config: type[Any], setting: Setting) -> None:
    name = setting.path[-1] if setting.info.panel is None else setting.option
    with pytest.raises(UsageError) as raised:
        config(**{setting.path[-1]: invalid_value(setting)})
    assert str(raised.value).startswith(f"{name} "), raised.value


def test_most_settings_are_checked() -> None:
    assert len(CHECKED) > 45


@pytest.mark.parametrize(
    ("parse", "text", "option"),
    [
        (parse_size, "0", "--size"),
        (parse_size, "8x8x8", "--size"),
        (parse_numbers(int, "--multipliers", "numbers"), "1,two", "--multipliers"),
        (parse_duration, "soon", "--time-limit"),
        (parse_duration, "0", "--time-limit"),
        (parse_numbers(float, "--guidance-interval", "two", 2), "3", "--guidance-interval"),
    ],
)
def test_unreadable_texts_are_reported_with_the_option(
    parse: Callable[[str], Any], text: str, option: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option} '{text}' should be "):
        parse(text)


@pytest.mark.parametrize(
    ("former", "current"), [("--time", "--modulation"), ("--time-width", "--embedding-width")]
)
def test_former_options_work_and_are_hidden(
    ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, former: str, current: str
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    shown = set(re.findall(r"--[\w-]+", ddpm("train", "--help").out))
    assert current in shown and former not in shown
    wrong = "nonsense" if former == "--time" else -1
    result = ddpm("train", former, wrong, "--dry-run")
    assert (result.code, f"{current} " in result.err) == (2, True), result.err


def test_former_names_in_config_files(ddpm: Callable[..., Result]) -> None:
    former = {"network": {"time": "scale-shift", "time_width": 12}}
    network = updated(RunConfig(), former).network
    assert (network.modulation, network.embedding_width) == ("scale-shift", 12)
    Path("former.json").write_text(json.dumps({"network": {"time": "nonsense"}}))
    result = ddpm("train", "--config", "former.json", "--dry-run")
    assert (result.code, "--modulation 'nonsense'" in result.err) == (2, True), result.err


FULL = replace(
    updated(RunConfig(), PRESETS["edm-cifar10"].settings),
    data=run.DataConfig(templates=("a {class}",), examples=("a cat",), example_labels=(1,)),
    network=NetworkConfig(
        size=(8, 16), classes=("a", "b"), text=TextConfig(length=9), head_width=8, groups=4
    ),
    budget=run.Budget(steps=3, epochs=0.5),
    keep_every=5,
    origin=WeightsOrigin("weights.safetensors", "ab" * 32),
)


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param(updated(RunConfig(), p.settings), id=name) for name, p in PRESETS.items()),
        pytest.param(FULL, id="every kind of value"),
    ],
)
def test_config_json_round_trip(config: RunConfig) -> None:
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"optimiser": {"batch": "8"}},
            r"a\.json\.optimiser\.batch should be of type int, not '8'",
        ),
        ({"optimiser": {"betas": [0.9]}}, r"a\.json\.optimiser\.betas should hold 2 values"),
        ({"optimiser": {"rate": 1}}, r"a\.json\.optimiser: unknown setting 'rate'"),
        ({"network": {"widht": 8}}, r"unknown setting 'widht'; did you mean width\? known: "),
        ({"network": 3}, r"a\.json\.network should hold named settings, not 3"),
        ({"keep": True}, r"a\.json\.keep should be of type int, not True"),
    ],
)
def test_errors_in_config_files_name_the_setting(document: dict[str, Any], message: str) -> None:
    with pytest.raises(DdpmError, match=message):
        from_dict(RunConfig, document, "a.json")
