"""Folders of diffusers as they are met: averages, half precision, shards; and refusals in words."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.conversion import diffusers as theirs
from ddpm_cli.core.conversion.diffusers_folder import network_files
from ddpm_cli.core.conversion.exporting import export, why_not_exportable
from ddpm_cli.core.conversion.importing import ImportOptions, convert
from ddpm_cli.core.conversion.scheduler import read, to_diffusion
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result

NETWORK = NetworkConfig(
    size=(8, 8), width=8, multipliers=(1, 2), blocks=("res", "res,attn"), groups=4, head_width=4
)
FILE = "diffusion_pytorch_model.safetensors"
AVERAGE = {"decay": 0.99, "min_decay": 0.0, "optimization_step": 3, "update_after_step": 0,
           "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder, whose network is random and not of zeros."""
    config, network = RunConfig(network=NETWORK), UNet(NETWORK)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights.save(tmp_path / "w.safetensors", network.state_dict(), config, 1)
    export(tmp_path / "w.safetensors", tmp_path / "theirs")
    return tmp_path / "theirs"


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return all(torch.equal(first[name], second[name]) for name in second)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_average_is_taken_and_said(folder: Path, ddpm: Callable[..., Result]) -> None:
    average = folder / "unet_ema"
    shutil.copytree(folder / "unet", average)
    edit(average / "config.json", **AVERAGE)
    worse = {name: 2 * tensor for name, tensor in load_file(folder / "unet" / FILE).items()}
    save_file(worse, folder / "unet" / FILE)
    result = ddpm("convert", folder, "--out", "whole.safetensors", "--json")
    assert result.code == 0, result.err
    assert f"{average} is taken, the average of the weights, not {folder / 'unet'}" in result.err
    assert result.json()["source"] == str(average / FILE)
    assert same(Path("whole.safetensors"), folder.parent / "w.safetensors")
    alone = ("convert", average, "--out", "alone.safetensors")
    result = ddpm(*alone, "--schedule", "linear", "--timesteps", 1000)
    assert result.code == 0, result.err
    assert same(Path("alone.safetensors"), Path("whole.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_variants_are_read_and_said(
    variant: str, folder: Path, ddpm: Callable[..., Result]
) -> None:
    place = folder / "unet"
    full = load_file(place / FILE)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(variant, torch.float32)
    named = place / f"diffusion_pytorch_model.{variant}.safetensors"
    save_file({name: tensor.to(kind) for name, tensor in full.items()}, named)
    assert network_files(place).paths == (place / FILE,)  # full precision first
    (place / FILE).unlink()
    result = ddpm("convert", folder, "--out", "w.safetensors")
    assert result.code == 0, result.err
    assert f"{named}: weights" in result.err
    assert "as the folder holds no others" in result.err


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_read(variant: str, folder: Path, tmp_path: Path) -> None:
    place, out = folder / "unet", tmp_path / "ours.safetensors"
    full = load_file(place / FILE)
    names = list(full)
    (place / FILE).unlink()
    for i in range(3):
        shard = place / f"diffusion_pytorch_model{variant}-0000{i + 1}-of-00003.safetensors"
        save_file({name: full[name] for name in names[i::3]}, shard)
    convert(folder, out, ImportOptions())
    assert same(out, tmp_path / "w.safetensors")
    shard.unlink()
    with pytest.raises(DdpmError, match="of 3 shards number 3 is missing: download"):
        convert(folder, tmp_path / "other.safetensors", ImportOptions())


def test_other_files_are_named(folder: Path) -> None:
    (folder / "unet" / FILE).rename(folder / "unet" / "model.ckpt")
    with pytest.raises(DdpmError, match=r"or in shards; it holds config\.json, model\.ckpt"):
        convert(folder, folder / "w.safetensors", ImportOptions())
    (folder / "unet" / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid 0\n")
    with pytest.raises(DdpmError, match="a Git LFS pointer, not the file itself"):
        convert(folder, folder / "w.safetensors", ImportOptions())


def test_schedulers_without_a_variance(folder: Path, tmp_path: Path) -> None:
    """As DPM-Solver's are by default."""
    edit(folder / "scheduler" / "scheduler_config.json", variance_type=None)
    convert(folder, tmp_path / "ours.safetensors", ImportOptions())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"beta_end": 20.0},
            r"'linear' with beta_start .* betas from .* to 20; those of a",
        ),
        ({"trained_betas": [0.5, 2.0]}, "its trained_betas gives betas from 0.5 to 2"),
        ({"trained_betas": [0.0, 0.1]}, "lie between 0 and 1"),
        ({"trained_betas": [0.2, float("nan")]}, "lie between 0 and 1"),
    ],
)
def test_betas_that_are_none_are_named(changes: dict[str, Any], message: str) -> None:
    document = {"beta_schedule": "linear"} | changes
    with pytest.raises(DdpmError, match=message):
        to_diffusion(read(document, "scheduler_config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm_num_groups": None, "time_embedding_type": "fourier",
             "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"]},
            r"'fourier' of its config.json .* \(it is a network of score SDEs, NCSN\+\+\)",
        ),
        ({"norm_num_groups": None}, "norm_num_groups None of its config.json has no counterpart"),
        ({"norm_num_groups": 3}, "norm_num_groups 3 of its config.json"),
        ({"attention_head_dim": 5}, "attention_head_dim 5 of its config.json does not divide the"),
    ],
)  # fmt: skip
def test_networks_are_refused_by_their_own_settings(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    document = json.loads((folder / "unet" / "config.json").read_text()) | changes
    with pytest.raises(DdpmError, match=message):
        theirs.to_network_config(theirs.read(document, "config.json"), (8, 8), None)


def test_overwrite(folder: Path, ddpm: Callable[..., Result]) -> None:
    out = Path("ours.safetensors")
    out.write_text("mine")
    result = ddpm("convert", folder, "--out", out)
    assert (result.code, "add --overwrite" in result.err, out.read_text()) == (1, True, "mine")
    assert ddpm("convert", folder, "--out", out, "--overwrite").code == 0
    assert same(out, folder.parent / "w.safetensors")
    inside = folder / "unet" / FILE
    result = ddpm("convert", folder, "--out", inside, "--overwrite")
    assert (result.code, "is what is converted" in result.err) == (1, True), result.err
    result = ddpm("convert", folder, "--out", folder, "--overwrite")
    assert (result.code, "is no file" in result.err) == (1, True), result.err

    back = ("convert", out, "--to", "diffusers", "--out", "back")
    assert ddpm(*back).code == 0
    assert ddpm(*back).code == 1
    assert ddpm(*back, "--overwrite").code == 0
    Path("back/notes.txt").write_text("mine")
    result = ddpm(*back, "--overwrite")
    assert (result.code, "does not delete it" in result.err) == (1, True), result.err
    assert Path("back/notes.txt").read_text() == "mine"


def test_a_dry_run_says_whether_a_run_can_be_exported(
    train_tiny: Callable[..., Result], tiny: Path
) -> None:
    folded = train_tiny("--dry-run", "--json")
    reason = folded.json()["no_export_because"]
    assert "pixels folded by 2" in reason and "train with --patch 1" in reason
    assert "diffusers" not in folded.err  # it has no need to be, and few runs on a CPU can
    plain = {"width": 8, "multipliers": [1], "blocks": ["res"], "groups": 4, "patch": 1}
    edit(tiny, network=plain)
    result = train_tiny("--dry-run", "--json")
    assert (result.code, result.json()["no_export_because"]) == (0, None), result.err
    assert "Export to diffusers: possible" in result.err


def test_what_can_be_exported_is_known_beforehand() -> None:
    assert why_not_exportable(RunConfig(network=NETWORK)) is None
    flow = {"schedule": "flow", "parameterisation": "flow"}
    config = RunConfig(network=NETWORK, diffusion=type(RunConfig().diffusion)(**flow))
    assert "to export, train with --schedule" in str(why_not_exportable(config))


def test_their_own_files_convert(tmp_path: Path) -> None:
    """Written by diffusers itself, where it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers' own imports
        diffusers = pytest.importorskip("diffusers")
        from diffusers.training_utils import EMAModel
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    average = EMAModel(
        network.parameters(), model_cls=diffusers.UNet2DModel, model_config=network.config
    )
    average.save_pretrained(tmp_path / "both" / "unet_ema")
    network.save_pretrained(tmp_path / "both" / "unet", max_shard_size="20KB")
    diffusers.DPMSolverMultistepScheduler().save_config(tmp_path / "both" / "scheduler")
    done = convert(tmp_path / "both", tmp_path / "a.safetensors", ImportOptions())
    assert "unet_ema" in done["source"]
    shutil.rmtree(tmp_path / "both" / "unet_ema")
    done = convert(tmp_path / "both", tmp_path / "b.safetensors", ImportOptions())
    assert "-00001-of-" in done["source"]
    assert same(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    pipeline = diffusers.DDPMPipeline(network.half(), diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    convert(tmp_path / "half", tmp_path / "c.safetensors", ImportOptions())
