"""Training a transformer: resumes, initial weights, memory, configs, and every command on it."""

from __future__ import annotations

import json
import signal
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddpm_cli
from ddpm_cli.core.checkpoints import snapshots, weights
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.presets import merged
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.training import initial_weights
from ddpm_cli.core.training.preparation.activations import saved_bytes
from ddpm_cli.core.training.state import TrainingState
from tests.support import ranks
from tests.support.cli import Result, refused
from tests.support.training import equal_tensors

Run = Callable[..., Result]
SMALL = {
    "family": "transformer", "width": 16, "head_width": 8, "depth": 3, "patch": 2,
    "bottleneck": 4, "context_tokens": 2, "encoding_width": 8, "dropout": 0.1,
}  # fmt: skip
JIT = {
    "network": SMALL,
    "diffusion": {"schedule": "flow", "parameterisation": "x0"},
    "objective": {
        "weighting": "velocity",
        "noise_levels": "logit-normal", "noise_mean": 0.8, "noise_std": 0.8,
    },
}  # fmt: skip
NETWORK = replace(merged(RunConfig(), {"network": SMALL}).network, size=(8, 8), dropout=0.0)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A --config file of a transformer that trains in a second."""
    path = tmp_path / "small.json"
    rest = {"optimiser": {"batch": 8, "lr": 2e-3, "warmup": 16}, "budget": {"images": 32}}
    saving = {"snapshot_every": 16, "log_every": 8, "preview": 2}
    path.write_text(json.dumps(JIT | rest | saving))
    return path


# Killed as the snapshot at 32 images is to be written; the one at 16 is there.
KILLED = """
import os, signal
from ddpm_cli.core.checkpoints import snapshots
write = snapshots.write
def killed(folder, state):
    if state["progress"]["images"] == 32:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(folder, state)
snapshots.write = killed
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_transformer_resumes_to_the_same_bits(
    ddpm: Run, photos: Path, small: Path
) -> None:
    """With dropout: the last snapshots are the same."""
    command = ("train", "--data", photos, "--config", small, "--preview", 0, "--out")
    (killed,) = ranks.run(1, KILLED, *command, "run")
    assert killed.code == -signal.SIGKILL, killed.err
    last, begun = Path("snapshots/000000000032.pt"), Path("run/snapshots/000000000016.pt")
    assert begun.is_file() and not ("run" / last).exists()
    for out in ("run", "uninterrupted"):
        assert (result := ddpm(*command, out)).code == 0, result.err
    one, other = (snapshots.read(out / last) for out in ("run", "uninterrupted"))
    for part in ("network", "average"):
        assert equal_tensors(one[part], other[part]), part


def initialised(path: Path, network: NetworkConfig) -> Network:
    state = TrainingState.initial(RunConfig(network=network), torch.device("cpu"))
    initial_weights.load_into(state, initial_weights.read(path, network))
    return state.network.eval()


def outputs(network: Network, condition: Condition) -> torch.Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found: torch.Tensor = network(x, torch.tensor([3.0, 700.0]), condition)
    return found


def saved(path: Path, network: NetworkConfig) -> Network:
    """Random weights of the network, which are in the file."""
    torch.manual_seed(1)
    origin = build(network).eval()
    for parameter in origin.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(path, origin.state_dict(), RunConfig(network=network), 5)
    return origin


def test_initial_weights_for_more_classes_captions_and_a_given_image(tmp_path: Path) -> None:
    file, labels = tmp_path / "w.safetensors", torch.tensor([0, 1])
    of_two = replace(NETWORK, classes=("a", "b"))
    origin = saved(file, of_two)
    expected = outputs(origin, Condition(labels))
    more = initialised(file, replace(NETWORK, classes=("z", "a", "b")))
    torch.testing.assert_close(outputs(more, Condition(labels + 1)), expected)
    text = TextConfig(length=6, width=8, layers=1, heads=2)
    read = initialised(file, replace(of_two, text=text))
    captions = torch.tensor([[98, 99, 0], [98, 0, 0]])
    torch.testing.assert_close(outputs(read, Condition(labels, captions)), expected)
    given = initialised(file, replace(of_two, given_channels=1))
    beside = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(outputs(given, Condition(labels, given=beside)), expected)


def test_initial_weights_without_classes_may_learn_some(tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", NETWORK)
    found = initialised(tmp_path / "w.safetensors", replace(NETWORK, classes=("a", "b")))
    assert outputs(found, Condition(torch.tensor([0, 1]))).isfinite().all()


def test_initial_weights_of_a_shallower_transformer(tmp_path: Path) -> None:
    """Blocks after the last are new, and start as the identity; fewer blocks are refused."""
    text = TextConfig(length=6, width=8, layers=1, heads=2)
    shallow = replace(NETWORK, classes=("a", "b"), text=text, context_tokens=0)
    origin = saved(tmp_path / "w.safetensors", shallow)
    condition = Condition(torch.tensor([0, 1]), torch.tensor([[98, 99, 0], [98, 0, 0]]))
    deeper = initialised(tmp_path / "w.safetensors", replace(shallow, depth=5))
    torch.testing.assert_close(outputs(deeper, condition), outputs(origin, condition))
    with pytest.raises(DdpmError, match="of another network"):
        initial_weights.read(tmp_path / "w.safetensors", replace(shallow, depth=2))


def test_checkpointed_blocks_keep_less_memory() -> None:
    arguments = (replace(NETWORK, depth=4), 16, torch.float32, torch.device("cpu"), 0)
    kept, checkpointed = saved_bytes(*arguments), saved_bytes(*arguments, True)
    assert 0 < checkpointed < kept / 2


def test_another_family_replaces_the_network_but_not_what_it_is_for() -> None:
    base = merged(RunConfig(), {"network": {"size": [28, 28], "channels": 1, "classes": ["a"]}})
    found = merged(base, {"network": {"family": "transformer", "depth": 5}}).network
    assert (found.size, found.channels, found.classes) == ((28, 28), 1, ("a",))
    assert (found.depth, found.width, found.patch, found.multipliers) == (5, 384, 4, (1, 2, 2, 2))
    assert (
        merged(merged(base, {"network": to_dict(found)}), {"network": {"family": "unet"}}) == base
    )


def test_printed_config_of_a_transformer(ddpm: Run, photos: Path, small: Path) -> None:
    printed = ddpm("train", "--data", photos, "--config", small, "--print-config")
    network = tomllib.loads(printed.out)["network"]
    assert network["family"] == "transformer" and network["depth"] == 3
    assert "multipliers" not in network and "depth" in printed.out


def test_every_command_takes_a_transformer(ddpm: Run, photos: Path, small: Path) -> None:
    trained = ddpm("train", "--data", photos, "--config", small, "--out", "run", "--json")
    assert trained.code == 0, trained.err
    again = ddpm("train", "--data", photos, "--config", small, "--out", "run")
    assert again.code == 0, again.err
    sampled = ddpm("sample", "run", "-n", 2, "--steps", 2, "--out", "samples")
    assert sampled.code == 0, sampled.err
    found = ddpm("inspect", "run", "--plot", "network.png", "--json").json()["network"]
    assert [part["name"] for part in found["parts"]] == [
        "embedding", "input", "blocks", "blocks in context", "output",
    ]  # fmt: skip
    assert sum(part["parameters"] for part in found["parts"]) == found["parameters"]
    assert sum(part["flops"] for part in found["parts"]) == found["flops"]
    refused(ddpm("convert", "run", "--to", "diffusers", "--out", "folder"), "transformer", "U-Net")
    more = ddpm("train", "--init-from", "run", "--data", photos, "--images", 8, "--out", "more")
    assert more.code == 0, more.err
    config = json.loads(Path("more/config.json").read_text())
    assert config["network"]["family"] == "transformer"


def test_a_preset_with_a_slash_names_no_folder(ddpm: Run, photos: Path) -> None:
    planned = ddpm(
        *("train", "--data", photos, "--preset", "jit-s/4-32", "--dry-run", "--json"),
        *("--depth", 1, "--batch", 2, "--width", 64),
    )
    assert planned.code == 0, planned.err
    assert planned.json()["preset"] == "jit-s/4-32"
    assert "jit" not in planned.json()["out"]
    assert ddpm_cli.config("jit-s/4-32", optimiser={"batch": 2}).network.family == "transformer"
