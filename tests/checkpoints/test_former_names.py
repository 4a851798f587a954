"""Files with former names of parameters and settings are read as those with the current ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.checkpoints.tensors import current_name
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, updated
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.run_directory import find_weights
from tests.support.cli import Result


def former_name(parameter: str) -> str:
    parameter = re.sub(r"^embedding\.", "conditioning.", parameter)
    return re.sub(r"\.modulation\.", ".condition.", parameter)


def test_every_parameter_is_found_by_its_former_name() -> None:
    blocks = ("res,class-attn", "conv,attn")
    config = NetworkConfig(width=8, multipliers=(1, 2), blocks=blocks, classes=("a", "b"))
    for name in UNet(config).state_dict():
        assert current_name(former_name(name)) == current_name(name) == name
    assert current_name("conditioning.first.weight") == "embedding.first.weight"
    assert current_name("up.0.blocks.1.condition.bias") == "up.0.blocks.1.modulation.bias"


def rename_back(run: Path) -> int:
    """Give a run's newest snapshot and config.json the former names; the number renamed."""
    path = snapshots.listed(run / "snapshots")[-1]
    state = torch.load(path, weights_only=True)
    for part in ("network", "average"):
        state[part] = {former_name(name): tensor for name, tensor in state[part].items()}
    torch.save(state, path)
    config = json.loads((run / "config.json").read_text())
    network = config["network"]
    network["time"], network["time_width"] = (
        network.pop("modulation"),
        network.pop("embedding_width"),
    )
    (run / "config.json").write_text(json.dumps(config))
    return sum(current_name(name) != name for name in state["network"])


def test_a_run_with_former_names_is_resumed_bit_for_bit(
    train_tiny: Callable[..., Result],
) -> None:
    first = train_tiny("--conditional", "--out", "current", "--images", 32)
    assert first.code == 0, first.err
    shutil.copytree("current", "former")
    assert rename_back(Path("former")) > 10
    for run in ("current", "former"):
        resumed = train_tiny("--conditional", "--out", run)
        assert (resumed.code, "Resuming from" in resumed.err) == (0, True), resumed.err
    one, other = (load_file(find_weights(Path(run))) for run in ("current", "former"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_power_averages_of_a_snapshot_with_former_names(
    train_tiny: Callable[..., Result],
) -> None:
    assert train_tiny("--conditional", "--out", "run", "--ema-every", 32).code == 0
    path = snapshots.listed(Path("run/snapshots"))[-1]
    state = snapshots.read(path)
    former = torch.load(path, weights_only=True)
    for length, average in former["power_averages"].items():
        former["power_averages"][length] = {former_name(name): x for name, x in average.items()}
    torch.save(former, path)
    for length, average in snapshots.read(path)["power_averages"].items():
        assert average.keys() == state["power_averages"][length].keys()


def test_former_names_of_settings() -> None:
    former = {"network": {"time": "scale-shift", "time_width": 12}}
    current = {"network": {"modulation": "scale-shift", "embedding_width": 12}}
    assert from_dict(RunConfig, former) == from_dict(RunConfig, current)
    base = from_dict(RunConfig, {"network": {"embedding_width": 20, "width": 64}})
    assert updated(base, former) == updated(base, current)
    assert updated(base, former).network == NetworkConfig(
        modulation="scale-shift", embedding_width=12, width=64
    )


def test_former_names_are_refused_beside_the_current_ones() -> None:
    twice = {"network": {"time": "add", "modulation": "add"}}
    for read in (
        lambda: from_dict(RunConfig, twice, "a.json"),
        lambda: updated(RunConfig(), twice, "a.json"),
    ):
        with pytest.raises(DdpmError, match=r"a.json.network has both 'modulation' and its former"):
            read()


def test_options_of_the_former_names(train_tiny: Callable[..., Result]) -> None:
    for options in (("--time", "add", "--time-width", 12),
                    ("--modulation", "add", "--embedding-width", 12)):  # fmt: skip
        out = f"run{options[0]}"
        result = train_tiny("--out", out, "--images", 8, "--preview", 0, *options)
        assert result.code == 0, result.err
        network = json.loads((Path(out) / "config.json").read_text())["network"]
        assert (network["modulation"], network["embedding_width"]) == ("add", 12)
