"""A run as the fake input of a comparison: sampled at the requested precision, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cli.core.generation import run_images
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.downloads import sha256_of

Run = Callable[..., Any]
SAMPLING = ("-n", 8, "--steps", 3, "--seed", 5, "--guidance", 2, "--class", "light")


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("run", "--images", 8)


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that are asked for, on a machine where "auto" is bf16."""
    names: list[str] = []

    def choose(name: str, device: torch.device) -> torch.dtype:
        names.append(name)
        return torch.float32 if name == "fp32" else torch.bfloat16

    monkeypatch.setattr(devices, "choose_precision", choose)
    return names


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sampling_has_the_precision_of_the_protocol_line(
    ddpm: Run,
    run: Path,
    photos: Path,
    trained: Path,
    requested: list[str],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    models: list[Any] = []
    load = run_images.load_model

    def loaded(*arguments: Any) -> Any:
        models.append(load(*arguments))
        return models[-1]

    monkeypatch.setattr(run_images, "load_model", loaded)
    given = () if precision == "fp32" else ("--precision", precision)  # fp32 is the default
    result = ddpm("fid", photos, run, *SAMPLING, "--features", trained, "--json", *given)
    assert result.code == 0, result.err
    assert set(requested) == {precision}
    expected = torch.float32 if precision == "fp32" else torch.bfloat16
    assert [model.precision for model in models] == [expected]
    document = result.json()
    assert f"| {precision} |" in document["line"]
    assert document["arithmetic"] == document["sampled"]["precision"] == precision


def test_the_sampled_images_are_recorded_as_sample_records_them(
    ddpm: Run, run: Path, photos: Path, trained: Path
) -> None:
    document = ddpm("fid", photos, run, *SAMPLING, "--features", trained, "--json").json()
    sampled = document["sampled"]
    assert ddpm("sample", run, *SAMPLING, "--out", "out").code == 0
    written = json.loads(Path("out/sampling.json").read_text())
    assert written.pop("provenance") != document["provenance"]  # another command
    assert written.pop("n") == document["n_fake"]
    assert sampled == {**written, "precision": "fp32"}
    assert sampled["weights"] == "run/model.safetensors"
    assert sampled["weights_sha256"] == sha256_of(run / "model.safetensors")
    assert (sampled["images_seen"], sampled["seed"], sampled["steps"]) == (8, 5, 3)
    assert (sampled["guidance"], sampled["classes"]) == (2, ["light"])


def test_images_that_are_not_sampled_have_no_record(
    ddpm: Run, run: Path, photos: Path, trained: Path
) -> None:
    document = ddpm("fid", photos, photos, "--features", trained, "--json").json()
    assert document["sampled"] is None
    statistics = ("--save-real", "real.npz")
    run_by_statistics = ddpm("fid", photos, run, *SAMPLING, "--features", trained, *statistics)
    assert run_by_statistics.code == 0
    again = ddpm("fid", "real.npz", run, *SAMPLING, "--features", trained, "--json").json()
    assert again["sampled"]["seed"] == 5  # whatever REAL is


def test_a_score_in_training_records_the_precision_of_its_sampling(
    train_tiny: Run, trained: Path
) -> None:
    """It is that of the training, whatever the features' is."""
    given = ("--fid-every", 8, "--fid-n", 4, "--fid-features", trained, "--images", 8)
    assert train_tiny(*given, "--out", "scored", "--precision", "bf16").code == 0
    row = json.loads(Path("scored/scores.jsonl").read_text())
    assert (row["precision"], "| fp32 |" in row["protocol"]) == ("bf16", True)


def test_a_run_is_scored_at_the_levels_given(
    ddpm: Run, run: Path, photos: Path, trained: Path
) -> None:
    levels = ("--timesteps", "90,50,2", "--final-sigma", "sigma-min", "--sampler", "dpmpp-2m-sde")
    result = ddpm("fid", photos, run, "-n", 8, *levels, "--features", trained, "--json")
    assert result.code == 0, result.err
    sampled = result.json()["sampled"]
    assert (sampled["timesteps"], sampled["steps"], sampled["eta"]) == ([90, 50, 2], 3, 1)
    assert sampled["final_sigma"] == "sigma-min"
