"""Training initialised from other weights: --init-from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS, TextConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.unet import with_text_attention
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.training import initial_weights
from ddpm_cli.core.training.state import TrainingState
from tests.support.cli import Result

PLAIN = NetworkConfig(size=(8, 8), width=8, multipliers=(1, 2), blocks=("res", "res,attn"))


def save_random(path: Path, network: NetworkConfig, **parts: object) -> UNet:
    """Save random weights of the network."""
    torch.manual_seed(1)
    origin = UNet(network).eval()
    for parameter in origin.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights.save(path, origin.state_dict(), RunConfig(network=network, **parts), 5)  # type: ignore[arg-type]
    return origin


def initialised(path: Path, network: NetworkConfig) -> UNet:
    """The initial network of a training from these weights; the average is equal."""
    state = TrainingState.initial(RunConfig(network=network), torch.device("cpu"))
    initial_weights.load_into(state, initial_weights.read(path, network))
    current, averaged = state.network.state_dict(), state.average.state_dict()
    assert all(torch.equal(current[name], averaged[name]) for name in current)
    return state.network.eval()


def output(network: UNet, condition: Condition = UNCONDITIONAL) -> torch.Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return network(x, torch.tensor([3.0, 700.0]), condition)


def test_the_same_network_gets_the_same_weights(tmp_path: Path) -> None:
    origin = save_random(tmp_path / "w.safetensors", PLAIN)
    network = initialised(tmp_path / "w.safetensors", PLAIN)
    torch.testing.assert_close(output(network), output(origin))
    tensors = network.state_dict()
    assert all(torch.equal(tensors[name], t) for name, t in origin.state_dict().items())


def test_new_classes_captions_and_blocks_do_not_change_the_initial_output(tmp_path: Path) -> None:
    origin = save_random(tmp_path / "w.safetensors", PLAIN)
    for more in (
        replace(PLAIN, classes=("a", "b")),
        replace(PLAIN, blocks=("res,attn", "res,attn")),
        replace(
            PLAIN,
            text=TextConfig(length=4, width=8, layers=1, heads=1),
            blocks=tuple(map(with_text_attention, PLAIN.blocks)),
            middle=with_text_attention(PLAIN.middle),
        ),
        replace(
            PLAIN,
            text=TextConfig("an encoder", width=4),
            blocks=tuple(map(with_text_attention, PLAIN.blocks)),
            middle=with_text_attention(PLAIN.middle),
        ),
    ):
        network = initialised(tmp_path / "w.safetensors", more)
        labels = torch.tensor([0, NULL_CLASS]) if more.classes else None
        text = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0]]) if more.text else None
        if more.text and more.text.encoder != "bytes":
            text = text[:, :, None] * torch.tensor([1.0, -2.0, 0.5, 3.0])
        torch.testing.assert_close(output(network, Condition(labels, text)), output(origin))


def test_new_captions_beside_any_other_block(tmp_path: Path) -> None:
    stages = replace(PLAIN, blocks=("res", "res,attn,channel-attn"), middle="res,attn,attn,res")
    origin = save_random(tmp_path / "w.safetensors", stages)
    more = replace(
        stages,
        text=TextConfig(length=4, width=8, layers=1, heads=1),
        blocks=tuple(map(with_text_attention, stages.blocks)),
        middle=with_text_attention(stages.middle),
    )
    assert (more.blocks[1], more.middle) == (
        "res,attn,channel-attn,text-attn",
        "res,attn,attn,text-attn,res",
    )
    network = initialised(tmp_path / "w.safetensors", more)
    text = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(output(network, Condition(text=text)), output(origin))


def test_blocks_are_not_added_where_residual_sums_are_scaled(tmp_path: Path) -> None:
    scaled = replace(PLAIN, skip_scale=0.5)
    origin = save_random(tmp_path / "w.safetensors", scaled)
    classes = initialised(tmp_path / "w.safetensors", replace(scaled, classes=("a",)))
    torch.testing.assert_close(output(classes), output(origin))
    with pytest.raises(DdpmError, match=r"scales its residual sums by 0\.5"):
        initial_weights.read(
            tmp_path / "w.safetensors", replace(scaled, blocks=("res,attn", "res,attn"))
        )


def test_weights_with_text_attention_need_captions(
    ddpm: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    save_random(
        tmp_path / "w.safetensors",
        replace(PLAIN, text=TextConfig(length=40, width=8, layers=1, heads=1)),
    )
    command = ("train", "--data", photos, "--init-from", tmp_path / "w.safetensors", "--dry-run")
    refused = ddpm(*command)
    assert refused.code == 2 and "those weights read captions, and none are learned" in refused.err
    assert ddpm(*command, "--caption", "a {class}").code == 0


def test_weights_trained_with_augmentation_initialise_training_without(tmp_path: Path) -> None:
    origin = save_random(tmp_path / "w.safetensors", replace(PLAIN, augmented=True))
    torch.testing.assert_close(
        output(initialised(tmp_path / "w.safetensors", PLAIN)), output(origin)
    )


def test_class_embeddings_are_matched_by_name(tmp_path: Path) -> None:
    cats = replace(PLAIN, classes=("cat", "dog"), null_class=False)
    table = save_random(tmp_path / "w.safetensors", cats).embedding.classes.weight
    more = initialised(tmp_path / "w.safetensors", replace(PLAIN, classes=("ant", "dog", "cat")))
    mean = table.mean(dim=0)
    expected = torch.stack([mean, mean, table[1], table[0]])  # the null class comes first
    torch.testing.assert_close(more.embedding.classes.weight, expected)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(PLAIN, width=16), r"inputs.weight is \(8, 3, 3, 3\), needs \(16, .* more"),
        (replace(PLAIN, blocks=("res,res", "res,res")), "is missing"),
        (replace(PLAIN, blocks=("res",)), "down.2.blocks.1.* is not in the network"),
        (replace(PLAIN, channels=1), "outputs.bias"),
    ],
)
def test_other_networks_are_refused_with_their_differences(
    other: NetworkConfig, message: str, tmp_path: Path
) -> None:
    save_random(tmp_path / "w.safetensors", PLAIN)
    with pytest.raises(DdpmError, match=message) as raised:
        initial_weights.read(tmp_path / "w.safetensors", other)
    assert str(raised.value).count(";") <= 5


def test_tensors_of_other_shapes_are_named_briefly(tmp_path: Path) -> None:
    config = RunConfig(network=replace(PLAIN, width=16))
    weights.save(tmp_path / "w.safetensors", UNet(PLAIN).state_dict(), config, 1)
    with pytest.raises(DdpmError, match=r"is \(32, 8\), needs \(64, 16\).* and \d+ more"):
        weights.load(tmp_path / "w.safetensors")


def test_training_with_init_from(ddpm: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    origin = save_random(path, PLAIN, diffusion=DiffusionConfig(timesteps=30, parameterisation="v"))
    command = (
        *("train", "--data", photos, "--init-from", path, "--batch", 8),
        *("--lr", 1e-12, "--snapshot-every", 16, "--preview", 0),
    )
    result = ddpm(*command, "--images", 16, "--out", "run")
    assert result.code == 0, result.err
    assert f"Starting from the weights of {path}" in result.err
    config = json.loads(Path("run/config.json").read_text())
    assert config["origin"] == {"path": str(path), "sha256": sha256_of(path)}
    assert config["network"]["width"] == 8  # the weights', not the preset's
    assert config["network"]["classes"] == ["dark", "light"]
    assert config["diffusion"]["timesteps"] == 30
    trained = weights.load(Path("run/model.safetensors"))
    assert trained.config.origin is not None
    labels = torch.tensor([NULL_CLASS, NULL_CLASS])
    torch.testing.assert_close(  # the learning rate is too small for any change
        output(trained.network, Condition(labels)), output(origin), rtol=1e-4, atol=1e-4
    )

    path.unlink()  # a resume does not need it
    result = ddpm(*command, "--images", 32, "--out", "run")
    assert result.code == 0, result.err
    assert "Resuming from" in result.err and "Starting from" not in result.err
    assert json.loads(Path("run/config.json").read_text())["origin"] == config["origin"]
    fresh = ["new" if word == "run" else word for word in command]
    result = ddpm(*fresh, "--images", 32, "--resume", "never")
    assert (result.code, "no such run or weights file" in result.err) == (1, True), result.err


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    ddpm: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    save_random(tmp_path / "w.safetensors", PLAIN)
    command = ("train", "--data", photos, "--init-from", tmp_path / "w.safetensors")
    for more in ((), ("--dry-run",)):
        result = ddpm(*command, "--width", 16, "--out", "run", *more)
        assert result.code == 1, result.err
        assert "is of another network than this training's" in result.err
        assert len(result.err.splitlines()) == 1
        assert not Path("run").exists()
    result = ddpm(*command, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert (result.json()["size"], result.json()["channels"]) == ([8, 8], 3)
