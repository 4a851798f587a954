"""ddpm inspect: runs, weights, snapshots, classifiers, other programs' files, and what is none."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runs import inspection
from tests.support.cli import Result, config_of, refused


def inspected(ddpm: Callable[..., Result], *arguments: object) -> Any:
    result = ddpm("inspect", *arguments, "--json")
    assert result.code == 0, result.err
    return result.json()


def test_a_run(tiny_run: Callable[..., Path], ddpm: Callable[..., Result]) -> None:
    run = tiny_run("run")
    found = inspected(ddpm, run)
    assert (found["kind"], found["images"], found["mismatches"]) == ("run", 64, [])
    assert found["config"] == config_of("run")
    assert found["network"]["parameters"] == found["stored"]["parameters"]
    assert found["classes"] == ["dark", "light"]
    assert found["data"]["fingerprint"] == config_of("run")["data"]["fingerprint"]
    assert found["schedule"]["name"] == "cosine" and found["schedule"]["sigma_max"] > 1000
    assert found["objective"]["parameterisation"] == "v"
    average = {"halflife": 64, "rampup": 0.05, "sigma_rel": None, "stored": 0}
    assert found["ema"] == average
    assert [start["ddpm"] for start in found["starts"]]
    assert found["run"]["state"] == "finished"
    text = ddpm("inspect", run).out
    for words in ("encoder 2", "total", "2 classes (dark, light)", "64 images seen", "half-life"):
        assert words in text


def test_files_of_a_run(tiny_run: Callable[..., Path], ddpm: Callable[..., Result]) -> None:
    run = tiny_run("run")
    of_run = inspected(ddpm, run)["network"]
    moved = Path(shutil.copy(run / "model.safetensors", "moved.safetensors"))
    weights = inspected(ddpm, moved)
    assert (weights["kind"], weights["images"]) == ("weights", 64)
    assert weights["network"] == of_run
    snapshot = inspected(ddpm, run / "snapshots" / "000000000032.pt")
    assert (snapshot["kind"], snapshot["images"]) == ("snapshot", 32)
    assert snapshot["progress"]["steps"] == 4
    assert snapshot["network"] == of_run
    assert inspected(ddpm, run / "snapshots")["images"] == 64  # the newest


def test_no_weights_are_read(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "read", lambda _: pytest.fail("the tensors are read"))
    run = tiny_run("run")
    header = tensors.header(run / "model.safetensors").tensors
    assert all(tensor.is_meta for tensor in header.values())
    assert inspected(ddpm, run / "model.safetensors")["images"] == 64


def test_the_newest_run(tiny_run: Callable[..., Path], ddpm: Callable[..., Result]) -> None:
    Path("runs").mkdir()
    tiny_run("run").rename("runs/one")
    assert inspected(ddpm)["path"] == "runs/one"


def test_weights_that_do_not_fit(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result]
) -> None:
    run = tiny_run("run")
    config = json.loads((run / "config.json").read_text())
    config["network"]["width"] = 16
    (run / "config.json").write_text(json.dumps(config))
    assert inspected(ddpm, run)["mismatches"]
    assert "does not fit its own config" in ddpm("inspect", run).out


def test_a_classifier(trained: Path, ddpm: Callable[..., Result]) -> None:
    found = inspected(ddpm, trained)
    assert found["kind"] == "classifier" and found["network"] is None
    assert found["classifier"]["labels"]
    assert "of held-out images" in ddpm("inspect", trained).out
    refused(ddpm("inspect", trained, "--plot", "net.png"), "--plot")


def test_a_folder_of_diffusers(ddpm: Callable[..., Result]) -> None:
    network = NetworkConfig(
        size=(8, 8), width=8, multipliers=(1, 2), blocks=("res", "res,attn"), resample="conv",
        groups=4, heads=1, head_width=None,
    )  # fmt: skip
    run, unet = Path("exportable.safetensors"), UNet(network)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights.save(run, unet.state_dict(), RunConfig(network=network), 8)
    done = ddpm("convert", run, "--to", "diffusers", "--out", "pipeline")
    assert done.code == 0, done.err
    found = inspected(ddpm, "pipeline")
    assert found["kind"] == "diffusers" and "UNet2DModel" in found["what"]
    assert found["next"] == "ddpm convert pipeline --out FILE"
    theirs, ours = (inspected(ddpm, one)["network"] for one in ("pipeline", run))
    names = ("name", "size", "width", "stages")
    assert [[part[name] for name in names] for part in theirs["parts"]] == [
        [part[name] for name in names] for part in ours["parts"]
    ]
    alone = inspected(ddpm, "pipeline/unet/diffusion_pytorch_model.safetensors")
    assert alone["kind"] == "diffusers" and "ddpm convert FOLDER" in alone["next"]


class Anything:
    """An object whose class a pickle names."""


def test_files_of_other_programs(ddpm: Callable[..., Result]) -> None:
    save_file({"x": torch.zeros(3)}, "other.safetensors")
    assert inspected(ddpm, "other.safetensors")["kind"] == "unknown"
    names = ("module.input_blocks.0.0.weight", "module.time_embed.0.weight")
    torch.save({name: torch.zeros(2) for name in names}, "openai.pt")
    assert inspected(ddpm, "openai.pt")["kind"] == "openai"
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, "features.pth")
    assert inspected(ddpm, "features.pth")["kind"] == "inception"
    torch.save({"state_dict": {"net.a": torch.zeros(2)}, "epoch": 3}, "plain.ckpt")
    assert "state_dict.net.a" in inspected(ddpm, "plain.ckpt")["what"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("objects.ckpt", "more than tensors"),
        ("old.pkl", "more than tensors"),
        ("lfs.safetensors", "git lfs pull"),
        ("page.pt", "web page"),
        ("empty.safetensors", "empty file"),
        ("numbers.pt", "no tensors by name"),
        ("cut.safetensors", "cut short"),
        ("nowhere", "no such run"),
        ("bare", "is not a run"),
    ],
)
def test_what_is_none(
    name: str, words: str, ddpm: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    Path("bare").mkdir()
    torch.save({"x": torch.zeros(2), "object": Anything()}, "objects.ckpt")
    Path("old.pkl").write_bytes(pickle.dumps({"x": Anything()}))
    Path("lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    Path("page.pt").write_text("<!DOCTYPE html><html>not found</html>")
    Path("empty.safetensors").touch()
    torch.save({"x": 3}, "numbers.pt")
    whole = (tiny_run("run") / "model.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(ddpm("inspect", name), words)


def test_nothing_is_unpickled(ddpm: Callable[..., Result]) -> None:
    """A pickle that would write a file when it is loaded."""

    class Writes:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("written"),)

    torch.save({"x": Writes()}, "evil.pt")
    Path("evil.pkl").write_bytes(pickle.dumps(Writes()))
    for name in ("evil.pt", "evil.pkl"):
        refused(ddpm("inspect", name), "more than tensors")
    assert not Path("written").exists()


def test_the_plot(tiny_run: Callable[..., Path], ddpm: Callable[..., Result]) -> None:
    run = tiny_run("run")
    assert inspected(ddpm, run, "--plot", "net.png")["plot"] == "net.png"
    assert Path("net.png").read_bytes().startswith(b"\x89PNG")
    refused(ddpm("inspect", run, "--plot", "net.png"), "exists", "--overwrite")
    refused(ddpm("inspect", run, "--plot", "net.jpg"), ".png")


def test_a_run_without_weights_yet(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result]
) -> None:
    run = tiny_run("run")
    (run / "model.safetensors").unlink()
    found = inspection.inspect(run)
    assert found.stored is None and found.next.startswith("ddpm train")
