"""The FID Inception: published keys, every block against plain functions, wrong files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as f

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.networks import weights_file
from ddpm_cli.core.metrics.networks.inception import (
    PUBLISHED,
    FidInception,
    InceptionE,
    LastInceptionE,
    load_inception,
)
from tests.support.inception_standin import CONVOLUTIONS, standin_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return standin_weights()


@pytest.fixture(scope="module")
def network(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> FidInception:
    path = tmp_path_factory.mktemp("weights") / "standin.pth"
    # the format of the published file, which is older than torch's zip files
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return load_inception(path, CPU)


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        fresh = FidInception()
    ours = {
        key: tuple(value.shape)
        for key, value in fresh.state_dict().items()
        if "num_batches" not in key
    }
    assert len(CONVOLUTIONS) == 94
    assert len(ours) == 94 * 5 + 2
    assert ours == {key: tuple(value.shape) for key, value in standin_weights().items()}
    assert sum(value.numel() for value in fresh.parameters()) == 23_850_960


def reference(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Inception-v3 of 2015 in plain functions, from the keys alone: (pool3, unbiased logits)."""

    def conv(x: Tensor, name: str, stride: int = 1, same: bool = True) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)
        parts = ("running_mean", "running_var", "weight", "bias")
        bn = (state[f"{name}.bn.{part}"] for part in parts)
        return f.relu(f.batch_norm(f.conv2d(x, weight, None, stride, padding), *bn, eps=0.001))

    def chain(x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = conv(x, name)
        return x

    def average(x: Tensor) -> Tensor:
        ones = torch.ones_like(x[:1, :1])
        return f.avg_pool2d(x, 3, 1, 1) / f.avg_pool2d(ones, 3, 1, 1)

    def a(x: Tensor, b: str) -> Tensor:
        double = chain(x, f"{b}.branch3x3dbl_1", f"{b}.branch3x3dbl_2", f"{b}.branch3x3dbl_3")
        five = chain(x, f"{b}.branch5x5_1", f"{b}.branch5x5_2")
        pooled = conv(average(x), f"{b}.branch_pool")
        return torch.cat([conv(x, f"{b}.branch1x1"), five, double, pooled], 1)

    def c(x: Tensor, b: str) -> Tensor:
        seven = chain(x, *(f"{b}.branch7x7_{i}" for i in (1, 2, 3)))
        double = chain(x, *(f"{b}.branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        pooled = conv(average(x), f"{b}.branch_pool")
        return torch.cat([conv(x, f"{b}.branch1x1"), seven, double, pooled], 1)

    def e(x: Tensor, b: str, pool: Callable[[Tensor], Tensor]) -> Tensor:
        single = conv(x, f"{b}.branch3x3_1")
        double = chain(x, f"{b}.branch3x3dbl_1", f"{b}.branch3x3dbl_2")
        threes = [conv(single, f"{b}.branch3x3_2{suffix}") for suffix in "ab"]
        threes += [conv(double, f"{b}.branch3x3dbl_3{suffix}") for suffix in "ab"]
        pooled = conv(pool(x), f"{b}.branch_pool")
        return torch.cat([conv(x, f"{b}.branch1x1"), *threes, pooled], 1)

    x = conv(x, "Conv2d_1a_3x3", 2, same=False)
    x = conv(conv(x, "Conv2d_2a_3x3", same=False), "Conv2d_2b_3x3")
    x = conv(f.max_pool2d(x, 3, 2), "Conv2d_3b_1x1")
    x = f.max_pool2d(conv(x, "Conv2d_4a_3x3", same=False), 3, 2)
    x = a(a(a(x, "Mixed_5b"), "Mixed_5c"), "Mixed_5d")
    double = chain(x, "Mixed_6a.branch3x3dbl_1", "Mixed_6a.branch3x3dbl_2")
    x = torch.cat(
        [
            conv(x, "Mixed_6a.branch3x3", 2, same=False),
            conv(double, "Mixed_6a.branch3x3dbl_3", 2, same=False),
            f.max_pool2d(x, 3, 2),
        ],
        1,
    )
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = c(x, block)
    seven = chain(x, *(f"Mixed_7a.branch7x7x3_{i}" for i in (1, 2, 3)))
    x = torch.cat(
        [
            conv(conv(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2, same=False),
            conv(seven, "Mixed_7a.branch7x7x3_4", 2, same=False),
            f.max_pool2d(x, 3, 2),
        ],
        1,
    )
    x = e(x, "Mixed_7b", average)
    x = e(x, "Mixed_7c", lambda x: f.max_pool2d(x, 3, 1, 1))
    pool = x.mean((2, 3))
    return pool, pool @ state["fc.weight"].T


def test_every_layer_against_plain_functions(
    network: FidInception, state: dict[str, Tensor]
) -> None:
    x = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pool, logits = reference(state, x)
    ours = network(x)
    assert pool.std() > 0.5, "the stand-in's activations died out: nothing would be compared"
    assert (ours.pool - pool).abs().max() < 1e-4
    assert (ours.logits - logits).abs().max() < 1e-4
    assert ours.pool.shape == (2, 2048)
    assert ours.logits.shape == (2, 1008)


def test_only_the_last_block_has_a_max_pool() -> None:
    with torch.device("meta"):
        kinds = {name: type(block) for name, block in FidInception().named_children()}
    assert kinds["Mixed_7b"] is InceptionE
    assert kinds["Mixed_7c"] is LastInceptionE


def test_features_match_pytorch_fid(
    network: FidInception, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_module = pytest.importorskip("pytorch_fid.inception")
    from ddpm_cli.core.metrics.networks.protocols import PYTORCH_FID

    monkeypatch.setattr(peer_module, "load_state_dict_from_url", lambda *_, **__: state)
    peer = peer_module.InceptionV3().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    theirs = peer(images / 255)[0].flatten(1)
    assert (network(PYTORCH_FID.prepare(images)).pool - theirs).abs().max() < 1e-4


def test_safetensors_and_half_precision_files(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    small = load_inception(tmp_path / "w.safetensors", CPU)
    assert all(value.dtype == torch.float32 for value in small.parameters())
    assert torch.equal(small.fc.weight, state["fc.weight"].half().float())


def test_files_of_other_networks_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    imagenet = {**state, "fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.bias": torch.zeros(1)}
    torch.save(imagenet, path)
    with pytest.raises(DdpmError, match=r"fc\.weight is \(1000, 2048\), needs \(1008") as got:
        load_inception(path, CPU)
    assert "AuxLogits.fc.bias is not in the network" in str(got.value)
    assert PUBLISHED.url in str(got.value)
    torch.save({"other.weight": torch.zeros(1)}, path)
    with pytest.raises(DdpmError, match=r"Conv2d_1a_3x3\.conv\.weight is missing.* 468 more"):
        load_inception(path, CPU)


class Payload:
    """A malicious pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_nothing_but_tensors_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state": Payload()}, path)
    with pytest.raises(DdpmError, match="no readable weights file"):
        weights_file.read(path, "--weights", PUBLISHED)
    torch.save({"state": {"nested": torch.zeros(1)}}, path)
    with pytest.raises(DdpmError, match="flat state dict"):
        weights_file.read(path, "--weights", PUBLISHED)
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"this is a text file, not weights")
        with pytest.raises(DdpmError, match="no weights file but a text file"):
            weights_file.read(tmp_path / name, "--weights", PUBLISHED)
    with pytest.raises(DdpmError, match="no such file"):
        weights_file.read(tmp_path / "nowhere.pth", "--weights", PUBLISHED)
    assert "executed" not in capsys.readouterr().out
