"""Files of weights: equal bytes of equal contents, and files that are no weights."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm_cli.core.checkpoints import classifier, tensors, weights
from ddpm_cli.core.checkpoints.tensors import NotOnlyTensorsError
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.networks import inception, weights_file
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result

NETWORK = NetworkConfig(size=(8, 8), width=8, multipliers=(1,), blocks=("res",))
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\nsize 95628359\n"
)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return UNet(NETWORK).state_dict()


def test_equal_weights_have_equal_bytes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """The order of several metadata entries would differ from save to save."""
    path, config = tmp_path / "w.safetensors", RunConfig(network=NETWORK)
    small = ClassifierConfig((8, 8), 3, ("a", "b"), "x", 4)
    network = Classifier(small)
    saved, classifiers = set(), set()
    for _ in range(10):
        weights.save(path, OrderedDict(reversed(list(state.items()))), config, 5)
        saved.add(path.read_bytes())
        weights.save(path, state, config, 5)
        saved.add(path.read_bytes())
        classifier.save(path, network, small)
        classifiers.add(path.read_bytes())
    assert (len(saved), len(classifiers)) == (1, 1)


def test_files_with_a_second_entry_of_metadata_are_read(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    """As files were written before."""
    config = RunConfig(network=NETWORK)
    text = json.dumps({"config": to_dict(config), "images": 7})
    save_file(state, tmp_path / "old.safetensors", {"format": "pt", "ddpm": text})
    loaded = weights.load(tmp_path / "old.safetensors")
    assert (loaded.config, loaded.images) == (config, 7)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (POINTER.encode(), "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", r"a web page \(HTML\)"),
        (b"404: Not Found", "a server's error message"),
        (b"Entry not found", "a server's error message"),
        (b"", "an empty file"),
        (bytes(3000), "a file of zeros"),
        (b"\x89HDF\r\n\x1a\n" + bytes(300), "an HDF5 file"),
        (b"PK\x03\x04" + bytes(300), "cut short"),
        (b"\x80\x02}" + bytes(300), "no readable weights file"),
        (b"\x93\x12" * 400, "download it again"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pt"])
def test_what_is_no_weights_file_is_named(
    contents: bytes, message: str, suffix: str, tmp_path: Path, ddpm: Callable[..., Result]
) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(contents)
    network = partial(weights_file.read, option="--weights", published=inception.PUBLISHED)
    for read in (tensors.read_flat, weights.load, weights.describe, classifier.load, network):
        with pytest.raises(DdpmError, match=message) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        assert "trust" not in str(raised.value)
    result = ddpm("convert", path, "--out", "w.safetensors")
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    if not contents.startswith(b"\x80"):
        assert "trust" not in result.err


def test_objects_are_told_from_damage(tmp_path: Path) -> None:
    whole = tmp_path / "objects.pt"
    torch.save({"model": Classifier}, whole)
    with pytest.raises(NotOnlyTensorsError, match="may run any code") as raised:
        tensors.read_flat(whole)
    assert "trust" not in str(raised.value)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(RunConfig()))
    with pytest.raises(NotOnlyTensorsError, match="may run any code"):
        tensors.read_flat(tmp_path / "old.pt")
    torch.save({"model": {"a": torch.zeros(1)}}, whole)
    with pytest.raises(NotOnlyTensorsError, match="flat state dict"):
        tensors.read_flat(whole)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_refused(
    value: float, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    bad = {name: tensor.clone() for name, tensor in state.items()}
    bad["outputs.weight"].view(-1)[3] = value
    path = tmp_path / "w.safetensors"
    weights.save(path, bad, RunConfig(network=NETWORK), 5)
    with pytest.raises(DdpmError, match=r"NaN or infinite weights: 1 of \d+ in outputs\.weight"):
        weights.load(path)
    torch.save(bad, tmp_path / "w.pt")
    with pytest.raises(DdpmError, match=r"1 of \d+ in outputs\.weight"):
        tensors.read_flat(tmp_path / "w.pt")


def test_tensors_of_any_type_are_checked(tmp_path: Path) -> None:
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64)
    several = {str(kind): torch.ones(3).to(kind) for kind in kinds} | {"none": torch.zeros(0)}
    torch.save(several, tmp_path / "w.pt")
    assert tensors.read_flat(tmp_path / "w.pt").keys() == several.keys()
    torch.save({"half": torch.tensor([1e6]).half()}, tmp_path / "w.pt")  # overflows
    with pytest.raises(DdpmError, match="1 of 1 in half"):
        tensors.read_flat(tmp_path / "w.pt")


def unusual() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings(action="ignore"):  # of prototypes
        return {
            "sparse": torch.eye(4).to_sparse(),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "quantised": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
            "complex": torch.ones(4, dtype=torch.complex64),
            "meta": torch.empty(4, device="meta"),
        }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "nested", "quantised", "complex", "meta"])
def test_tensors_that_are_no_weights_are_refused(
    kind: str, tmp_path: Path, ddpm: Callable[..., Result]
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"good": torch.ones(2), "cls_token": unusual()[kind]}, path)
    with pytest.raises(DdpmError, match=f"cls_token is a {kind} tensor"):
        tensors.read_flat(path)
    result = ddpm("convert", path, "--out", "w.safetensors")
    assert (result.code, f"a {kind} tensor" in result.err) == (1, True), result.err


def test_every_command_refuses_them(
    ddpm: Callable[..., Result], tiny_run: Callable[..., Path], photos: Path, trained: Path
) -> None:
    tiny_run("run", "--images", 8, "--preview", 0)
    file = tensors.read(Path("run/model.safetensors"))
    bad = file.tensors | {"norm.weight": file.tensors["norm.weight"] * math.nan}
    save_file(bad, "bad.safetensors", file.metadata)
    for arguments in (
        ("sample", "bad.safetensors", "-n", 1),
        ("gif", "bad.safetensors", "-n", 1),
        ("nll", "bad.safetensors", "-n", 1),
        ("convert", "bad.safetensors", "--to", "diffusers", "--out", "folder"),
        ("train", "--data", photos, "--init-from", "bad.safetensors", "--dry-run"),
        ("fid", photos, "bad.safetensors", "-n", 4, "--features", trained),
    ):
        result = ddpm(*arguments)
        assert (result.code, "in norm.weight" in result.err) == (1, True), result.err
    assert not Path("folder").exists()


def test_a_header_that_begins_as_an_archive_is_no_snapshot(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    """A safetensors file begins with the length of its header, here 0x4b50: "PK"."""
    path = tmp_path / "w.safetensors"
    text = tensors.as_text({"config": to_dict(RunConfig(network=NETWORK)), "images": 7})
    tensors.write(path, state, "ddpm", text)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    tensors.write(path, state, "ddpm", text + " " * (0x14B50 - length))
    assert path.read_bytes()[:2] == b"PK"
    assert weights.load(path).images == 7
