"""Memory while training: its peak in the metrics, microbatches that fit, checkpointing."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cli.core.config import run as c
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import step
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.trainer import Execution, Trainer
from tests.support.training import (
    CONFIG,
    CPU,
    NO_IMAGES,
    Messages,
    decoded_images,
    equal_tensors,
    train_run,
)


def table(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_row_has_the_peak_of_the_process(tmp_path: Path) -> None:
    train_run(tmp_path, replace(CONFIG, budget=c.Budget(images=16)))
    resource = pytest.importorskip("resource")
    peak = RunDirectory(tmp_path).rows()[-1]["peak_memory"]
    assert peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, rel=0.1)
    assert table(RunDirectory(tmp_path))[-1]["peak_memory"] == str(peak)


def test_a_gpu_is_asked_anew_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter starts again; nothing waits for the GPU."""
    resets: list[object] = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    gpu = torch.device("cuda", 1)
    assert (devices.peak_memory(gpu), resets) == (7, [gpu])
    assert devices.peak_memory(torch.device("mps")) is None


def test_a_run_without_the_column_is_resumed(tmp_path: Path) -> None:
    """The table gets the column when a row has it, and earlier rows have nothing there."""
    config, run = replace(CONFIG, budget=c.Budget(images=16)), RunDirectory(tmp_path)
    state = train_run(tmp_path, config)
    earlier = [{k: v for k, v in row.items() if k != "peak_memory"} for row in run.rows()]
    lines = (json.dumps(row) + "\n" for row in earlier)
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    run.rewind_rows(16)
    assert "peak_memory" not in table(run)[0]

    train_run(tmp_path, replace(config, budget=c.Budget(images=32)), state)
    rows = table(run)
    assert [bool(row["peak_memory"]) for row in rows] == [False, False, True, True]
    assert [row["images"] for row in rows] == ["8", "16", "24", "32"]
    assert all(None not in row for row in rows)  # no row is longer than the header


NETWORK = replace(CONFIG.network, dropout=0.2)


def running_out(monkeypatch: pytest.MonkeyPatch, largest: int, after: int = 0) -> None:
    """Let every forward pass of more images fail, once there were so many of any size."""
    loss, calls = step.training_loss, [0]

    def limited(denoiser: Denoiser, noised: Noised, *arguments: Any) -> torch.Tensor:
        losses = loss(denoiser, noised, *arguments)
        calls[0] += 1
        if len(noised.x0) > largest and calls[0] > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
        return losses

    monkeypatch.setattr(step, "training_loss", limited)


def train(folder: Path, execution: Execution, config: c.RunConfig) -> tuple[TrainingState, str]:
    folder.mkdir()
    said, run = Messages(), RunDirectory(folder)
    state = TrainingState.initial(config, CPU.device)
    trainer = Trainer(run, config, state, decoded_images(), NO_IMAGES, execution, said)
    trainer.train(StopRequest())
    return state, "\n".join(said.messages)


def test_out_of_memory_at_the_first_step_halves_the_microbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are, bit for bit, those of the microbatch that fits: dropout is drawn anew."""
    config = replace(CONFIG, network=NETWORK, budget=c.Budget(images=24))
    expected, _ = train(tmp_path / "given", replace(CPU, microbatch=2), config)
    running_out(monkeypatch, largest=3)
    for name, given in (("auto", None), ("more", 64)):
        state, said = train(tmp_path / name, replace(CPU, microbatch=given), config)
        assert equal_tensors(state.network.state_dict(), expected.network.state_dict())
        assert equal_tensors(state.average.state_dict(), expected.average.state_dict())
        assert re.findall(r"with (\d+) images .* --microbatch (\d+),", said) == [
            ("8", "4"),
            ("4", "2"),
        ]
    assert "(CUDA out of memory): going on" in said


def test_memory_that_ends_later_or_for_one_image_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_out(monkeypatch, largest=3, after=1)
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path / "later", CPU, CONFIG)
    running_out(monkeypatch, largest=0)
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path / "one", CPU, CONFIG)


def test_several_processes_do_not_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may wait for this one in the backward pass."""
    state = TrainingState.initial(CONFIG, CPU.device)
    run, said = RunDirectory(tmp_path), Messages()
    trainer = Trainer(run, CONFIG, state, decoded_images(), NO_IMAGES, CPU, said)
    batch = trainer.batches.draw(0, None)
    trainer.batches.close()
    running_out(monkeypatch, largest=3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step.gradient(batch)
    assert said.messages == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "the GPU's memory (CUDA out of"),
        (MemoryError(), "memory (MemoryError)"),
        (RuntimeError("CUDA error: out of memory"), "memory (CUDA error: out of memory)"),
    ],
)
def test_every_lack_of_memory_is_named(error: Exception, said: str) -> None:
    with pytest.raises(DdpmError, match=re.escape(said)), devices.enough_memory("use less"):
        raise error


def test_a_tensor_larger_than_the_memory_is_such_an_error() -> None:
    """torch's message on a CPU, as this version writes it; other errors pass."""
    message = r"out of memory \([^\[]*; use less"
    with pytest.raises(DdpmError, match=message), devices.enough_memory("use less"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), devices.enough_memory("use less"):
        torch.zeros(2).reshape(3)


@pytest.mark.parametrize("microbatch", [None, 3])
def test_checkpointed_activations_give_the_same_weights(
    tmp_path: Path, microbatch: int | None
) -> None:
    """Bit for bit, with dropout, and under the same names."""
    config = replace(CONFIG, network=NETWORK, budget=c.Budget(images=24))
    execution = replace(CPU, microbatch=microbatch)
    kept, _ = train(tmp_path / "kept", execution, config)
    again, _ = train(tmp_path / "again", replace(execution, checkpoint_activations=True), config)
    assert equal_tensors(kept.network.state_dict(), again.network.state_dict())
    assert equal_tensors(kept.average.state_dict(), again.average.state_dict())


def gradients(network: UNet, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    output = network(x, x[:, 0, 0, 0])
    return list(torch.autograd.grad(output.square().sum(), list(network.parameters())))


def test_checkpointed_layers_are_computed_again_compiled_too() -> None:
    """In training, once more each in the backward pass; the compiler takes it as one graph."""
    small = {"multipliers": (1,), "blocks": ("res",), "dropout": 0.0}  # it compiles in seconds
    network = UNet(replace(CONFIG.network, **small))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    calls: list[object] = []
    handle = network.middle[0].register_forward_pre_hook(lambda *_: calls.append(None))
    x = torch.randn(2, 3, 8, 8)
    plain = gradients(network, x)
    assert len(calls) == 1
    network.checkpointed = True
    assert all(map(torch.equal, gradients(network, x), plain))
    assert len(calls) == 3
    network.eval()
    gradients(network, x)
    assert len(calls) == 4
    handle.remove()
    network.train().compile(backend="aot_eager", fullgraph=True)
    for one, other in zip(gradients(network, x), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # sums in another order
