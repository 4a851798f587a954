"""Training on a GPU: the CPU's numbers, exact resumes, skipped steps, compiled and eager alike."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.config import run as c
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import step as training_step
from ddpm_cli.core.training.batches import Batch, Batches
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step
from ddpm_cli.core.training.trainer import Execution
from tests.support.cli import start, stdout_of
from tests.support.training import CONFIG, CPU, Messages, decoded_images, equal_tensors, train_run

pytestmark = pytest.mark.gpu
EPS = replace(CONFIG, diffusion=c.DiffusionConfig("linear", 1000, "eps"))


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Convolutions in fp32 proper, by algorithms that add in one order."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def gradients(config: c.RunConfig, execution: Execution) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (B,) and gradient, on the CPU, of one batch that was drawn on the CPU."""
    state = TrainingState.initial(config, execution.device)
    with torch.no_grad():
        for parameter in state.network.parameters():  # the last layers are zero at first
            parameter += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            ).to(parameter)
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(state.network, schedule, config.diffusion.parameterisation)
    batches = Batches(config, denoiser, decoded_images(), CPU.device)
    noised, condition, rows, scalars, _ = batches.draw(0, None)
    batches.close()
    device = execution.device
    moved = Noised(*(part.to(device) for part in noised))
    batch = Batch(moved, condition.to(device), rows, scalars.to(device, torch.float32), None)
    step = Step(config, state, state.network, denoiser, device, execution.precision, None, SILENT)
    losses = step.gradient(batch)
    found = [p.grad.flatten() for p in state.network.parameters() if p.grad is not None]
    return losses.cpu(), torch.cat(found).cpu()


@pytest.mark.parametrize("config", [CONFIG, EPS], ids=["v", "eps"])
def test_loss_and_gradient_are_those_of_the_cpu(gpu: torch.device, config: c.RunConfig) -> None:
    for ours, theirs in zip(
        gradients(config, Execution(gpu)), gradients(config, CPU), strict=True
    ):  # both sum in float32, in other orders
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * torch.linalg.vector_norm(theirs)


def test_an_update_is_that_of_the_cpu(gpu: torch.device) -> None:
    _, gradient = gradients(CONFIG, CPU)
    updated = []
    for device in (CPU.device, gpu):
        state = TrainingState.initial(CONFIG, device)
        for _ in range(3):
            rest = gradient
            for parameter in state.network.parameters():
                part, rest = rest[: parameter.numel()], rest[parameter.numel() :]
                parameter.grad = part.view(parameter.shape).to(parameter)
            step = Step(
                CONFIG, state, state.network, lambda *_: None, device, torch.float32, None, SILENT
            )  # type: ignore[arg-type]
            step.update(0.9, torch.zeros((), device=device))
        updated.append(
            [p.cpu() for p in (*state.network.parameters(), *state.average.parameters())]
        )
    for one, other in zip(*updated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # rounding of float32


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_uninterrupted_one(
    gpu: torch.device, tmp_path: Path, precision: torch.dtype
) -> None:
    execution = Execution(gpu, precision)
    optimiser = replace(CONFIG.optimiser, decay=0.0)  # which would depend on the budget
    network = replace(CONFIG.network, dropout=0.2)
    config = replace(CONFIG, optimiser=optimiser, network=network, budget=c.Budget(images=96))
    whole = train_run(tmp_path / "whole", config, execution=execution)
    half = replace(config, budget=c.Budget(images=48))
    first = train_run(tmp_path / "first", half, execution=execution)
    second = TrainingState.initial(config, gpu)
    second.load_state_dict(first.copied_state_dict())
    train_run(tmp_path / "second", config, second, execution=execution)
    assert equal_tensors(whole.network.state_dict(), second.network.state_dict())
    assert equal_tensors(whole.average.state_dict(), second.average.state_dict())


def test_a_non_finite_step_changes_nothing_and_is_counted(
    gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training_step.training_loss

    def non_finite(*arguments: object) -> torch.Tensor:
        return loss(*arguments) * math.nan  # type: ignore[arg-type]

    config = replace(CONFIG, optimiser=replace(CONFIG.optimiser, decay=0.0))
    state = train_run(tmp_path / "run", config, execution=Execution(gpu))
    before = state.copied_state_dict()
    with monkeypatch.context() as patched:
        patched.setattr(training_step, "training_loss", non_finite)
        longer = replace(config, budget=c.Budget(images=64 + 3 * 8))
        train_run(tmp_path / "bad", longer, state, execution=Execution(gpu))
    after = state.copied_state_dict()
    assert (state.progress.skipped, state.progress.bad_steps, state.progress.steps) == (3, 3, 11)
    for part in ("network", "average"):
        assert equal_tensors(before[part], after[part])
    moments = before["optimiser"]["state"]
    for index, values in after["optimiser"]["state"].items():
        assert equal_tensors(moments[index], values)


@pytest.mark.parametrize(
    "changes",
    [{"compiled": True}, {"cuda_graph": True}, {"compiled": True, "cuda_graph": True}],
    ids=["compiled", "graph", "compiled, graph"],
)
def test_other_ways_to_execute_the_step_train_alike(
    gpu: torch.device, tmp_path: Path, changes: dict[str, object]
) -> None:
    rows, said = [], Messages()
    for name, execution in (("eager", Execution(gpu)), ("other", Execution(gpu, **changes))):  # type: ignore[arg-type]
        train_run(tmp_path / name, execution=execution, reporter=said)
        rows.append([row["loss"] for row in RunDirectory(tmp_path / name).rows()])
    # Fused kernels round elsewhere, and Adam amplifies that where a gradient is near 0.
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)
    assert not [message for message in said.messages if "without: " in message]


def test_one_process_over_nccl_trains_as_without(
    gpu: torch.device, tiny: Path, photos: Path
) -> None:
    command = ["train", "--data", photos, "--config", tiny, "--preview", 0, "--device", gpu.type]
    stdout_of(start(*command, "--out", "alone"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        rank = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(probe.getsockname()[1])}
    rank |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    stdout_of(start(*command, "--out", "nccl", **rank))
    one, other = (load_file(f"{name}/model.safetensors") for name in ("alone", "nccl"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=2e-4, msg=name)
