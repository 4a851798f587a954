"""`ddpm train --print-config`, and where each setting comes from, in a dry run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.training.preparation.planning import plan_training
from tests.support.cli import Result, config_of, refused
from tests.support.training import equal_tensors

Run = Callable[..., Result]

LITTLE = ("--batch", 8, "--images", 8, "--preview", 0)
QUICK = ("--width", 8, *LITTLE)


def printed(result: Result, name: str = "printed.toml") -> Path:
    assert result.code == 0, result.err
    Path(name).write_text(result.out)
    return Path(name)


@pytest.mark.parametrize(
    "options",
    [
        (
            *("--preset", "mnist", "--schedule", "edm", "--channels", 1, "--unconditional"),
            *("--seed", 3, "--augment", 0.2, *QUICK),
        ),
        ("--preset", "small", "--caption", 'a "{class}"\timage', "--conditional", *QUICK),
    ],
    ids=lambda options: options[1],
)
def test_the_printed_config_makes_the_same_run(ddpm: Run, photos: Path, options: tuple) -> None:
    command = ("train", "--data", photos, *options)
    file = printed(ddpm(*command, "--print-config"))
    assert not Path("runs").exists()
    assert ddpm(*command, "--out", "one").code == 0
    second = ddpm("train", "--config", file, "--out", "two")
    assert second.code == 0, second.err
    assert config_of("one") == config_of("two")
    assert equal_tensors(*(load_file(f"{run}/model.safetensors") for run in ("one", "two")))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_printed_and_read_plans_the_same(ddpm: Run, photos: Path, name: str) -> None:
    file = printed(ddpm("train", "--data", photos, "--preset", name, "--print-config"))
    named = plan_training(TrainingRequest(data=str(photos), preset=name), SILENT, "cpu")
    again = plan_training(TrainingRequest(config=file), SILENT, "cpu")
    assert again.config == named.config


def test_a_printed_config_of_initial_weights_names_them(
    ddpm: Run, tiny_run: Callable[..., Path], photos: Path
) -> None:
    run = tiny_run("first")
    command = ("train", "--data", photos, "--init-from", run, *LITTLE)
    file = printed(ddpm(*command, "--print-config"))
    assert tomllib.loads(file.read_text())["origin"]["path"] == str(run)
    assert ddpm(*command, "--out", "one").code == 0
    assert ddpm("train", "--config", file, "--out", "two").code == 0
    assert config_of("one") == config_of("two")
    assert equal_tensors(*(load_file(f"{run}/model.safetensors") for run in ("one", "two")))


def test_the_name_of_a_file_stays_in_its_comment(ddpm: Run, photos: Path) -> None:
    named = Path("a\nkeep = 9 # '.toml")
    named.write_text("log_every = 5\n")
    command = ("train", "--data", photos, "--config", named, "--out", "b\nkeep = 8")
    file = printed(ddpm(*command, "--print-config"))
    settings = tomllib.loads(file.read_text())
    assert (settings["keep"], settings["log_every"]) == (2, 5)
    assert r"--out $'b\nkeep = 8'" in file.read_text()


def test_options_that_are_no_settings_are_named_above(ddpm: Run, photos: Path) -> None:
    options = ("--skip-bad", "--time-limit", "4h", "--out", "a b", "--log", "wandb,mlflow")
    done = ddpm("train", "--data", photos, *options, "--print-config")
    command = next(line for line in done.out.splitlines() if "ddpm train" in line)
    for words in (
        "--config FILE.toml",
        "--skip-bad",
        "--time-limit 14400",
        "--out 'a b'",
        "--log wandb,mlflow",
    ):
        assert words in command
    assert "--data" not in command


def test_print_config_as_json_is_a_config_too(ddpm: Run, photos: Path) -> None:
    done = ddpm("train", "--data", photos, "--print-config", "--json")
    plan = plan_training(TrainingRequest(data=str(photos)), SILENT, "cpu")
    assert from_dict(RunConfig, done.json()) == plan.config
    refused(ddpm("train", "--print-config", "--dry-run"), "--dry-run", "--print-config")


def sources(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    return {name: each["from"] for name, each in result.json()["origins"].items()}


def test_each_source_is_named(ddpm: Run, photos: Path, tmp_path: Path, planned_only: None) -> None:
    file = tmp_path / "few.toml"
    file.write_text("log_every = 5\nkeep = 3\n[optimiser]\nlr = 0.01\nclip = 'none'\n")
    options = ("--keep", 4, "--schedule", "edm", "--size", 8, "--augment", 0.1, "--width", 16)
    command = ("train", "--data", photos, "--preset", "small", "--config", file, "--dry-run")
    done = ddpm(*command, *options, "--json")
    found = sources(done)
    assert found["keep"] == "option --keep"  # over the file's
    assert found["log_every"] == found["optimiser.lr"] == f"file {file}"  # over the preset's
    assert found["optimiser.clip"] == f"file {file}"
    assert found["optimiser.batch"] == "preset small"
    assert found["optimiser.weight_decay"] == "default"
    assert found["network.size"] == "option --size"
    assert found["network.channels"] == found["network.classes"] == "data"
    assert found["data.source"] == "option --data"
    assert found["data.fingerprint"] == "data"
    assert found["network.augmented"] == "option --augment"
    assert found["diffusion.parameterisation"] == "follows from the options"
    values = {name: each["value"] for name, each in done.json()["origins"].items()}
    assert (values["keep"], values["optimiser.lr"], values["log_every"]) == (4, 0.01, 5)
    assert values["optimiser.clip"] is None and values["network.size"] == [8, 8]


def test_a_dry_run_shows_what_is_not_usual(ddpm: Run, photos: Path, planned_only: None) -> None:
    done = ddpm("train", "--data", photos, "--batch", 4, "--dry-run", "--device", "cpu")
    lines = done.err.splitlines()
    assert any(line.split() == ["optimiser.batch", "=", "4", "option", "--batch"] for line in lines)
    assert not any("optimiser.lr" in line for line in lines)
    assert any("more are those of the preset small or the defaults" in line for line in lines)
    assert any(line.split() == ["device", "=", "'cpu'", "option", "--device"] for line in lines)


def test_a_file_that_says_what_the_preset_says_is_not_a_line_a_setting(
    ddpm: Run, photos: Path, planned_only: None
) -> None:
    command = ("train", "--data", photos, "--preset", "small")
    file = printed(ddpm(*command, "--lr", 0.01, "--print-config"))
    done = ddpm("train", "--config", file, "--keep", 2, "--dry-run", "--json")
    lines = [line.split() for line in done.err.splitlines()]
    assert ["optimiser.lr", "=", "0.01", "file", str(file)] in lines
    assert ["keep", "=", "2", "option", "--keep"] in lines  # the default, but given
    assert not any(line[:1] == ["optimiser.batch"] for line in lines)
    origins = done.json()["origins"]
    assert origins["optimiser.batch"]["from"] == f"file {file}"
    shown = sum(line[1:2] == ["="] for line in lines)
    (counted,) = (line for line in lines if "more" in line and "--json" in line)
    assert int(counted[0]) == len(origins) - shown and f"{file}" in " ".join(counted)


def test_an_environment_variable_is_a_source(
    ddpm: Run, photos: Path, planned_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_DEVICE", "cpu")
    command = ("train", "--data", photos, "--out", "here", "--dry-run", "--json")
    assert sources(ddpm(*command))["device"] == "environment DDPM_DEVICE"
    found = ddpm(*command, "--device=cpu").json()["origins"]
    assert found["device"] == {"value": "cpu", "from": "option --device"}
    assert found["out"] == {"value": "here", "from": "option --out"}


def test_a_run_that_goes_on_is_a_source(
    ddpm: Run, tiny_run: Callable[..., Path], tmp_path: Path, planned_only: None
) -> None:
    run = tiny_run("first")
    file = tmp_path / "few.json"
    file.write_text(json.dumps({"keep": 3, "log_every": 4}))
    command = ("train", "--out", run, "--config", file, "--keep", 5, "--dry-run", "--json")
    found = sources(ddpm(*command))
    assert found["keep"] == "option --keep"
    assert found["log_every"] == f"file {file}"
    assert found["optimiser.batch"] == found["network.size"] == f"run {run}"
