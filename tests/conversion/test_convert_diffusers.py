"""diffusers' networks and schedulers, to ours and back: compared with diffusers itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.conversion import diffusers, layout, reference, scheduler
from ddpm_cli.core.conversion.exporting import export
from ddpm_cli.core.conversion.importing import ImportOptions, convert
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers' own imports
    pytest.importorskip("diffusers")
    from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
DDPM = {  # as google/ddpm-cifar10-32 has it
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
RES = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "block_out_channels": (8, 8, 16),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "ddpm": DDPM,
    "ddpm-two-layers": DDPM | {"layers_per_block": 2, "dropout": 0.1},
    "their-defaults": {},
    "cosines-first": {"freq_shift": 1},
    "sines-first": {"flip_sin_to_cos": False, "time_embedding_dim": 20},
    "scale-shift-classes": {
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
        "num_class_embeds": 5,
    },
    "resnet-resampling": RES,
    "no-middle-attention": {"add_attention": False, "resnet_time_scale_shift": "scale_shift"},
    "other-way-up": {"up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
    "grey-oblong": {"in_channels": 1, "out_channels": 1, "sample_size": (8, 16)},
    "learned-variance": {"out_channels": 6},
}


def unet(**changes: Any) -> UNet2DModel:
    """A UNet2DModel with random weights, large in q and k, so that the heads matter."""
    torch.manual_seed(0)
    network = UNet2DModel(**(SMALL | changes))
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.normal_(std=1.0 if "to_q" in name or "to_k" in name else 0.3)
    return network.eval()


def saved(folder: Path, network: UNet2DModel, **changes: Any) -> Path:
    """The folder of a pipeline with it."""
    variance = "learned_range" if network.config.out_channels == 6 else "fixed_large"
    noise = DDPMScheduler(**{"variance_type": variance} | changes)
    DDPMPipeline(network, noise).save_pretrained(folder)
    return folder


def output(network: UNet2DModel, classes: torch.Tensor | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return network(*inputs(network), class_labels=classes).sample


def inputs(network: UNet2DModel) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, network.config.in_channels, 8, 12, generator=generator)
    return x, torch.tensor([0.0, 17.0, 999.0])


def assert_alike(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max() / other.abs().max()) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_their_networks_become_ours_and_come_back(name: str, tmp_path: Path) -> None:
    theirs = unet(**NETWORKS[name])
    folder = saved(tmp_path / "theirs", theirs)
    classes = torch.tensor([0, 2, 4]) if theirs.config.num_class_embeds else None
    expected = output(theirs, classes)

    settings = diffusers.read(json.loads((folder / "unet" / "config.json").read_text()), "")
    x, t = inputs(theirs)
    with torch.inference_mode():
        again = reference.diffusers_unet(theirs.state_dict(), settings, x, t, classes)
    assert_alike(again, expected)  # conversions are verified against this

    options = ImportOptions(null_class=None if classes is None else 2)
    done = convert(folder, tmp_path / "ours.safetensors", options)
    assert 0 <= done["largest_difference"] < 1e-5
    assert done["parameters"] == sum(p.numel() for p in theirs.parameters())
    loaded = weights.load(tmp_path / "ours.safetensors")
    labels = None if classes is None else torch.tensor([0, NULL_CLASS, 3])
    with torch.inference_mode():
        assert_alike(loaded.network(x, t, Condition(labels)), expected)

    export(tmp_path / "ours.safetensors", tmp_path / "back")
    back = UNet2DModel.from_pretrained(tmp_path / "back" / "unet").eval()
    last = None if classes is None else torch.tensor([0, 4, 3])  # the null class is last now
    assert_alike(output(back, last), expected)

    options = ImportOptions(null_class=None if classes is None else 4)
    convert(tmp_path / "back", tmp_path / "again.safetensors", options)
    twice = weights.load(tmp_path / "again.safetensors")
    first, second = loaded.network.state_dict(), twice.network.state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert first.keys() == second.keys()
    assert twice.config.diffusion == loaded.config.diffusion
    if classes is None:  # whose names are numbers
        assert twice.config.network == loaded.config.network


def test_the_cifar10_network_is_the_default() -> None:
    """The config of google/ddpm-cifar10-32."""
    down = ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]
    document = (
        SMALL
        | DDPM
        | {
            "_class_name": "UNet2DModel",
            "sample_size": 32,
            "block_out_channels": [128, 256, 256, 256],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "dropout": 0.1,
            "down_block_types": down,
            "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        }
    )
    found = diffusers.to_network_config(diffusers.read(document, "it"), (32, 32), None)
    assert found == NetworkConfig(null_class=False, groups=32)
    with torch.device("meta"):
        network = UNet(found)
    assert parameter_count(network) == 35_746_307
    again = diffusers.read(diffusers.document(diffusers.from_network(network)), "it")
    assert diffusers.to_network_config(again, (32, 32), None) == found


def test_old_names_flat_folders_and_bin_files(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 was uploaded: attention's old names, its layers as convolutions."""
    theirs = unet(**DDPM)
    theirs.save_config(tmp_path)
    DDPMScheduler().save_config(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        state[name] = (
            tensor[..., None, None] if "attentions" in name and tensor.ndim == 2 else tensor
        )
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    convert(tmp_path, tmp_path / "ours.safetensors", ImportOptions())
    network = weights.load(tmp_path / "ours.safetensors").network
    with torch.inference_mode():
        assert_alike(network(*inputs(theirs)), output(theirs))


@pytest.mark.parametrize("learned", [False, True])
def test_pipelines_sample_with_our_weights(tmp_path: Path, learned: bool) -> None:
    config = RunConfig(
        network=NetworkConfig(
            size=(8, 8),
            width=16,
            multipliers=(1, 1),
            blocks=("res", "res,attn"),
            groups=4,
            learned_variance=learned,
        ),
        diffusion=DiffusionConfig(schedule="cosine", parameterisation="v"),
    )
    torch.manual_seed(0)
    network = UNet(config.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(tmp_path / "ours.safetensors", network.state_dict(), config, 1)
    export(tmp_path / "ours.safetensors", tmp_path / "folder")
    pipelines = [DDPMPipeline] if learned else [DDPMPipeline, DDIMPipeline]  # DDIM's learns none
    for kind in pipelines:
        pipeline = kind.from_pretrained(tmp_path / "folder")
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
        assert drawn.shape == (2, 8, 8, 3)
        assert np.isfinite(drawn).all() and drawn.std() > 0.01
        ours = schedules.from_config(config.diffusion).alpha_bar
        np.testing.assert_allclose(pipeline.scheduler.alphas_cumprod, ours, rtol=1e-3, atol=1e-7)
        assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_class_names_are_exported_and_come_back(tmp_path: Path) -> None:
    names = ("2", "10", "caf\u00e9")
    network = NetworkConfig(
        size=(8, 8), width=16, multipliers=(1,), blocks=("res",), groups=4, classes=names
    )
    config = RunConfig(network=network)
    unet = UNet(network)
    torch.manual_seed(0)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights.save(tmp_path / "ours.safetensors", unet.state_dict(), config, 1)
    export(tmp_path / "ours.safetensors", tmp_path / "folder")
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["id2label"] == dict(zip("012", names, strict=True))
    assert isinstance(DDPMPipeline.from_pretrained(tmp_path / "folder"), DDPMPipeline)
    null_class = ImportOptions(null_class=3)
    convert(tmp_path / "folder", tmp_path / "back.safetensors", null_class)
    assert weights.load(tmp_path / "back.safetensors").config.network.classes == names


SCHEDULERS: list[tuple[dict[str, Any], str]] = [
    ({}, "linear"),
    ({"beta_start": 0.0015, "beta_end": 0.0195}, "linear"),
    ({"num_train_timesteps": 200}, "linear-fixed"),
    ({"num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}, "linear"),
    ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "quadratic"),
    ({"beta_schedule": "sigmoid"}, "sigmoid"),
    ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, "cosine"),
    ({"trained_betas": np.linspace(1e-4, 0.03, 50).tolist()}, "linear-fixed"),
]


@pytest.mark.parametrize(("settings", "name"), SCHEDULERS)
def test_their_schedulers_become_our_schedules(settings: dict[str, Any], name: str) -> None:
    theirs = DDPMScheduler(**settings)
    ours = scheduler.to_diffusion(scheduler.read(dict(theirs.config), "it"))
    assert ours.schedule == name
    table = schedules.from_config(ours)
    np.testing.assert_allclose(table.beta, theirs.betas, rtol=2e-5)  # float32
    np.testing.assert_allclose(table.alpha_bar, theirs.alphas_cumprod, rtol=1e-3)


@pytest.mark.parametrize("steps", [1000, 300])
@pytest.mark.parametrize("name", schedules.BETAS)
def test_our_schedules_become_their_schedulers_and_come_back(name: str, steps: int) -> None:
    ours = DiffusionConfig(schedule=name, timesteps=steps, parameterisation="x0")
    written = scheduler.from_diffusion(ours, learned_variance=False)
    theirs = DDPMScheduler(**diffusers.to_dict(written))
    table = schedules.from_config(ours)
    np.testing.assert_allclose(theirs.betas, table.beta, rtol=2e-5)
    assert theirs.config.prediction_type == "sample"
    back = schedules.from_config(scheduler.to_diffusion(written))
    np.testing.assert_allclose(back.sigma, table.sigma, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'"),
        ({"act_fn": "gelu"}, "act_fn 'gelu'"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor 2"),
        ({"center_input_sample": True}, "center_input_sample True"),
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"freq_shift": 2}, "freq_shift 2"),
        ({"out_channels": 4}, "out_channels 4"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups None"),
        ({"down_block_types": ["DownBlock2D", "AttnSkipDownBlock2D"]}, "AttnSkipDownBlock2D"),
        ({"downsample_type": "resnet", "upsample_type": "resnet"}, "resample by convolutions"),
        ({"block_out_channels": [8, 12]}, "block_out_channels"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [0, 8]}, "block_out_channels"),
        ({"in_channels": 2, "out_channels": 2}, "channels 2"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
        ({"norm_num_groups": 3}, "groups"),
        ({"layers_per_block": "two"}, "layers_per_block"),
        ({"layers_per_block": 2}, "resnets.1.norm1.weight is missing.* more"),
        ({"block_out_channels": [16, 16]}, r"conv_in.weight is \(8, 3, 3, 3\), needs \(16"),
        ({"add_attention": False}, "mid_block.attentions.0.* is not in the network"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    ],
)  # fmt: skip
def test_unsupported_networks_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "theirs", unet())
    place = folder / "unet" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    with pytest.raises(DdpmError, match=message):
        convert(folder, tmp_path / "ours.safetensors", ImportOptions())
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"beta_schedule": "laplace"}, "laplace"),
        ({"trained_betas": [0.1, 0.3, 0.2]}, "trained_betas gives the betas of none of our"),
    ],
)
def test_unsupported_schedulers_are_refused(changes: dict[str, Any], message: str) -> None:
    document = dict(DDPMScheduler().config) | changes
    with pytest.raises(DdpmError, match=message):
        scheduler.to_diffusion(scheduler.read(document, "scheduler_config.json"))
    with pytest.raises(DdpmError, match="has no betas"):
        scheduler.read({"_class_name": "ScoreSdeVeScheduler"}, "it")


@pytest.mark.parametrize(
    ("network", "diffusion", "message"),
    [
        ({"patch": 2}, {}, "pixels folded by 2; to export, train with --patch 1"),
        ({"blocks": ("conv", "conv")}, {}, "conv blocks"),
        ({"blocks": ("res,linear-attn",)}, {}, "linear-attn blocks"),
        ({"blocks": ("res", "res,res")}, {}, "levels with 1 and 2 res blocks"),
        (
            {"blocks": ("res,attn,res", "res,res")},
            {},
            "levels with 0 and 1 attn after a res; to export.*--blocks",
        ),
        ({"resample": "pool"}, {}, "pooling"),
        ({"skip_scale": 0.5}, {}, "scaled by 0.5"),
        ({"size": (9, 8)}, {}, "pads"),
        (
            {"width": 32},
            {},
            "8 and 16 and 32 groups of .*; to export, train with groups 8 in",
        ),
        (
            {"blocks": ("res,attn",), "heads": 2},
            {},
            "levels with 8 and 16 channels in a head of attention",
        ),
        ({"middle": "res"}, {}, "a middle of res"),
        ({"blocks": ("res,attn,attn",)}, {}, "several attn after one res"),
        (
            {"patch": 2, "width": 32, "blocks": ("res", "res,res")},  # all of it at once
            {},
            "folded by 2, levels with .* groups of normalisation, levels with 1 and 2 res blocks; "
            "to export, train with --patch 1, groups 8 in --config, --blocks",
        ),
        ({}, {}, "output is zero for any image"),  # fresh weights
        ({}, {"schedule": "edm", "parameterisation": "edm"}, "schedule edm"),
        ({}, {"time_scale": 0.5}, "time_scale 0.5"),
    ],
)
def test_exports_without_a_counterpart_are_refused(
    network: dict[str, Any], diffusion: dict[str, Any], message: str, tmp_path: Path
) -> None:
    shape = {"size": (8, 8), "width": 16, "multipliers": (1, 2), "blocks": ("res",), "groups": 4}
    if "width" in network:
        del shape["groups"]  # which then differ from level to level
    config = RunConfig(
        network=NetworkConfig(**(shape | network)), diffusion=DiffusionConfig(**diffusion)
    )
    weights.save(tmp_path / "w.safetensors", UNet(config.network).state_dict(), config, 1)
    with pytest.raises(DdpmError, match=message):
        export(tmp_path / "w.safetensors", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir() if "folder" in path.name] == []


def test_a_conversion_with_other_outputs_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "theirs", unet(**DDPM))
    convert(folder, tmp_path / "ours.safetensors", ImportOptions())

    def swapped_attention(*arguments: Any) -> dict[str, torch.Tensor]:
        state = original(*arguments)
        name = "middle.0.blocks.1.qkv.weight"
        return state | {name: state[name].roll(16, dims=0)}  # keys in the place of queries

    original = layout.import_tensors
    monkeypatch.setattr("ddpm_cli.core.conversion.importing.import_tensors", swapped_attention)
    with pytest.raises(DdpmError, match="differ from the original's by"):
        convert(folder, tmp_path / "wrong.safetensors", ImportOptions())
    monkeypatch.setattr("ddpm_cli.core.conversion.exporting.export_tensors", lambda ours, *rest: {
        name: tensor.flip(0) if name == "conv_in.bias" else tensor
        for name, tensor in layout.export_tensors(ours, *rest).items()
    })  # fmt: skip
    with pytest.raises(DdpmError, match="differ from the original's by"):
        export(tmp_path / "ours.safetensors", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "here") == [
        "ours.safetensors",
        "theirs",
    ]


class Payload:
    """A malicious pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_no_code_is_run_and_damage_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = saved(tmp_path / "theirs", unet()), tmp_path / "ours.safetensors"
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DdpmError, match="no readable weights file"):
        convert(folder, out, ImportOptions())
    file.unlink()
    with pytest.raises(DdpmError, match="holds no diffusion_pytorch_model"):
        convert(folder, out, ImportOptions())
    torch.save({"a": Payload()}, file.with_suffix(".bin"))
    with pytest.raises(DdpmError, match="no readable weights file"):
        convert(folder, out, ImportOptions())
    torch.save({"ema": {"a": torch.zeros(1)}}, tmp_path / "nested.pt")
    with pytest.raises(DdpmError, match="flat state dict"):
        convert(tmp_path / "nested.pt", out, ImportOptions())
    (tmp_path / "edm.pkl").write_bytes(b"")
    with pytest.raises(DdpmError, match="is a pickle, which may run any code"):
        convert(tmp_path / "edm.pkl", out, ImportOptions())
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(DdpmError, match="no readable JSON"):
        convert(folder, out, ImportOptions())
    with pytest.raises(DdpmError, match="no such file"):
        convert(tmp_path, out, ImportOptions())
    out.write_text("mine")
    with pytest.raises(DdpmError, match="exists; choose"):
        convert(folder, out, ImportOptions())
    assert out.read_text() == "mine"
    assert "executed" not in capsys.readouterr().out


def test_without_a_scheduler_the_options_give_the_noise_schedule(tmp_path: Path) -> None:
    unet(sample_size=None).save_pretrained(tmp_path / "unet")
    out = tmp_path / "ours.safetensors"
    with pytest.raises(UsageError, match="give --size"):
        convert(tmp_path, out, ImportOptions())
    with pytest.raises(UsageError, match="give --schedule and --timesteps"):
        convert(tmp_path, out, ImportOptions(size=(16, 8)))
    with pytest.raises(UsageError, match="--heads has no meaning"):
        convert(tmp_path, out, ImportOptions(heads=2))
    with pytest.raises(UsageError, match="has no classes"):
        convert(tmp_path, out, ImportOptions(size=(16, 8), null_class=2))
    convert(tmp_path, out, ImportOptions(size=(16, 8), schedule="cosine", timesteps=50))
    config = weights.load(out).config
    assert config.network.size == (16, 8)
    assert config.diffusion == DiffusionConfig(schedule="cosine", timesteps=50)
    saved(tmp_path / "whole", unet())
    with pytest.raises(UsageError, match="--timesteps has no meaning"):
        convert(tmp_path / "whole", tmp_path / "other.safetensors", ImportOptions(timesteps=50))


def test_the_commands(ddpm: Callable[..., Result], tmp_path: Path) -> None:
    folder = saved(tmp_path / "theirs", unet(num_class_embeds=3), num_train_timesteps=20)
    result = ddpm("convert", folder, "--out", "plain.safetensors", "--json")
    assert result.code == 0, result.err
    assert result.json()["largest_difference"] < 1e-5
    assert (result.json()["out"], result.json()["classes"]) == ("plain.safetensors", 3)

    result = ddpm("sample", "plain.safetensors", "-n", 4, "--steps", 2, "--out", "drawn")
    assert result.code == 0, result.err
    assert f"the weights of {folder}" in result.err
    rows = Path("drawn/manifest.jsonl").read_text().splitlines()
    classes = [json.loads(row)["class"] for row in rows]
    assert classes == ["0", "1", "2", "0"]
    result = ddpm("sample", "plain.safetensors", "--guidance", 2)
    assert (result.code, "no null class" in result.err) == (1, True), result.err
    result = ddpm("nll", "plain.safetensors")
    assert (result.code, "give --data" in result.err) == (2, True), result.err

    assert ddpm("convert", folder, "--out", "w.safetensors", "--null-class", 0).code == 0
    result = ddpm("sample", "w.safetensors", "-n", 2, "--steps", 2, "--guidance", 2)
    assert result.code == 0, result.err

    assert ddpm("convert", "w.safetensors", "--to", "diffusers", "--out", "back").code == 0
    result = ddpm("convert", "w.safetensors", "--to", "diffusers", "--out", "back")
    assert (result.code, "exists; choose" in result.err) == (1, True)
    result = ddpm("convert", "w.safetensors", "--to", "diffusers", "--out", "b", "--heads", 2)
    assert result.code == 2
    assert ddpm("convert", "w.safetensors", "--to", "jax", "--out", "b").code == 2
    result = ddpm("convert", "w.safetensors", "--out", "b.safetensors")
    assert (result.code, len(result.err.splitlines())) == (1, 1), result.err
    assert "add --to" in result.err
