"""Reading snapshots: damage is one thing, what goes wrong afterwards another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (UNet, "ran out of the GPU's memory"),
        (torch.optim.AdamW, "ran out of the GPU's memory"),
    ],
)
def test_memory_that_runs_out_is_not_a_damaged_snapshot(
    train_tiny: Callable[..., Result],
    tiny_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    part: type,
    message: str,
) -> None:
    """The newest snapshot is whole: no older one is taken, and it is not set aside."""
    tiny_run("run", "--images", 32)
    before = sorted(path.name for path in Path("run/snapshots").iterdir())

    def out_of_memory(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(part, "load_state_dict", out_of_memory)
        result = train_tiny("--out", "run", "--images", 64)
    assert (result.code, message in result.err) == (1, True), result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("Disk: ")]
    assert not any("snapshot" in line for line in lines)
    assert sorted(path.name for path in Path("run/snapshots").iterdir()) == before
    assert train_tiny("--out", "run", "--images", 64, "--json").json()["resumed_at"] == 32


def test_a_snapshot_of_another_network_is_named_as_such(
    train_tiny: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    tiny_run("one", "--images", 16)
    assert train_tiny("--out", "two", "--images", 16, "--width", 16).code == 0
    (newest,) = snapshots.listed(Path("two/snapshots"))[-1:]
    newest.replace(Path("one/snapshots/000000000024.pt"))
    result = train_tiny("--out", "one", "--images", 64)
    assert result.code == 1
    assert "is not a snapshot of this run (it is of another network" in result.err


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_damaged_snapshot_is_skipped(
    train_tiny: Callable[..., Result], tiny_run: Callable[..., Path], content: bytes | None
) -> None:
    tiny_run("run", "--images", 64)
    older, newest = snapshots.listed(Path("run/snapshots"))[-2:]
    if content is None:
        torch.save({"network": {}}, newest)  # a file of torch, but no snapshot
    else:
        newest.write_bytes(content)
    result = train_tiny("--out", "run", "--images", 96, "--json")
    assert (result.code, result.json()["resumed_at"]) == (0, int(older.stem)), result.err
