"""When the network is compiled, that it is one graph with its loss, and training without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config import run as c
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.losses import LossScalars
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.elastic.stopping import StopRequest
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import compilation
from ddpm_cli.core.training.batches import Batch
from ddpm_cli.core.training.compilation import decide
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step
from ddpm_cli.core.training.trainer import Trainer
from tests.support.training import (
    CONFIG,
    CPU,
    NO_IMAGES,
    Messages,
    decoded_images,
    equal_tensors,
    train_run,
)

GPU = torch.device("cuda", 0)
EVERYTHING = NetworkConfig(
    size=(8, 8),
    width=16,
    multipliers=(1, 2),
    blocks=("res,attn", "res,class-attn,text-attn"),
    classes=("one", "two"),
    text=TextConfig(length=8, width=16, heads=2, layers=1),
    modulation="scale-shift",
    learned_variance=True,
    augmented=True,
    dropout=0.0,
)


# Its graph takes seconds less than that of more levels.
SMALL = replace(CONFIG.network, multipliers=(1,), blocks=("res",), dropout=0.0)


def lasting(**budget: float) -> c.RunConfig:
    return replace(CONFIG, budget=c.Budget(**budget))  # type: ignore[arg-type]


def test_on_a_gpu_a_long_training_is_compiled_unless_asked_otherwise() -> None:
    assert decide(None, lasting(minutes=20), 100, GPU).compiled
    assert not decide(None, lasting(minutes=19), 100, GPU).compiled
    assert not decide(False, lasting(minutes=1000), 100, GPU).compiled
    assert decide(True, lasting(minutes=1), 100, GPU).compiled
    assert "roughly 19 min" in decide(None, lasting(minutes=19), 100, GPU).reason
    assert "roughly 20.0 h" in decide(None, lasting(minutes=1200), 100, GPU).reason


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_only_on_request(device: str) -> None:
    assert decide(None, lasting(minutes=1000), 100, torch.device(device)) == (False, "")
    assert decide(True, lasting(minutes=1), 100, torch.device(device)).compiled


def test_a_training_takes_its_minutes_or_less(monkeypatch: pytest.MonkeyPatch) -> None:
    network = CONFIG.network
    seconds = 10**9 * 3 * UNet(network).forward_operations() / 60e12
    assert compilation.expected_seconds(lasting(images=10**9), 100) == pytest.approx(seconds)
    assert compilation.expected_seconds(lasting(images=10**9, minutes=0.1), 100) == 6
    epochs = compilation.expected_seconds(lasting(epochs=10**7), 100)
    assert epochs == pytest.approx(seconds)  # of 100 images
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert compilation.expected_seconds(lasting(images=10**9), 100) == pytest.approx(seconds / 4)


def losses_of(config: c.RunConfig) -> tuple[Callable[[Batch], Tensor], Batch, UNet]:
    """The loss of a network that is not zero, and a batch that has all that it may be given."""
    torch.manual_seed(0)
    state = TrainingState.initial(config, CPU.device)
    with torch.no_grad():
        for parameter in state.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(state.network, schedule, config.diffusion.parameterisation)
    sigma = schedule.sigma_at(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    network = config.network
    scalars = LossScalars.at(denoiser, sigma, config.objective, bound=network.learned_variance)
    condition = Condition(
        torch.tensor([0, 1, -1]) if network.classes else None,
        torch.randint(1, 256, (3, 8)) if network.text else None,
        torch.rand(3, 9) if network.augmented else None,
    )
    noised = Noised(*torch.randn(2, 3, 3, 8, 8), sigma)
    batch = Batch(
        noised, condition, decoded_images().rows[:3], scalars.to(CPU.device, torch.float32), None
    )
    taken = Step(config, state, state.network, denoiser, CPU.device, CPU.precision, None, SILENT)
    return lambda batch: taken.losses(denoiser, batch), batch, state.network


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, network=SMALL),
        replace(CONFIG, network=EVERYTHING),
        replace(
            CONFIG,
            network=replace(SMALL, learned_variance=True),
            objective=replace(CONFIG.objective, loss="huber", weighting="min-snr"),
        ),
    ],
    ids=["plain", "everything", "weighted"],
)
def test_network_and_loss_are_one_graph_without_breaks(config: c.RunConfig) -> None:
    losses, batch, network = losses_of(config)
    found = []
    for function in (losses, torch.compile(losses, backend="aot_eager", fullgraph=True)):
        network.zero_grad()
        loss = function(batch)
        loss.sum().backward()
        gradient = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradient)))
    for one, other in zip(*found, strict=True):  # operators are taken apart: other roundings
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_where_compiling_fails_training_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = train_run(tmp_path / "eager")

    def failing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("no C compiler\nand more")

    compiling = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", partialmethod(compiling, backend=failing))
    run, state, said = (
        RunDirectory(tmp_path / "run"),
        TrainingState.initial(CONFIG, CPU.device),
        Messages(),
    )
    run.path.mkdir()
    execution = replace(CPU, compiled=True)
    Trainer(run, CONFIG, state, decoded_images(), NO_IMAGES, execution, said).train(StopRequest())
    (message,) = (message for message in said.messages if "does not work here" in message)
    assert "no C compiler" in message
    assert "\n" not in message
    assert equal_tensors(eager.network.state_dict(), state.network.state_dict())
