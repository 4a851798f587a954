"""The learned loss weight: what it converges to, and that it is trained, saved and restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddpm_cli.core.checkpoints import snapshots
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.training import resuming
from ddpm_cli.core.training.learned_weight import LearnedWeight, balanced
from ddpm_cli.core.training.state import TrainingState
from tests.support.training import CONFIG, CPU, train_run

LEARNED = updated(CONFIG, {"objective": {"weighting": "learned"}, "optimiser": {"lr": 2e-2}})


def test_u_becomes_the_logarithm_of_the_mean_loss() -> None:
    """For a fixed network the minimum of L e^-u + u is at u = ln E[L], at each noise level.

    Losses are their mean, sigma^2 / (1 + sigma^2) as of a unit Gaussian, times an exponential
    variable. Tolerance 0.15: the noise of 400 steps of 256 such losses, averaged by the features.
    """
    random = torch.Generator().manual_seed(0)
    weight = LearnedWeight()
    optimiser = torch.optim.Adam(weight.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, 400)
    for _ in range(400):
        sigma = torch.exp(1.5 * torch.randn(256, generator=random))
        mean = sigma.square() / (1 + sigma.square())
        losses = mean * torch.empty(256).exponential_(generator=random)
        optimiser.zero_grad()
        balanced(losses, weight(sigma)).mean().backward()
        optimiser.step()
        schedule.step()
    sigma = torch.logspace(-0.9, 0.9, 10)  # within 1.4 deviations
    mean = sigma.square() / (1 + sigma.square())
    torch.testing.assert_close(weight(sigma).detach(), mean.log(), atol=0.15, rtol=0)


def test_the_weight_starts_as_plain_and_its_gradient_is_balanced() -> None:
    losses = torch.tensor([2.0, 0.5])
    assert torch.equal(balanced(losses, LearnedWeight()(torch.tensor([0.1, 20.0]))), losses)
    u = losses.log().requires_grad_()
    balanced(losses, u).sum().backward()
    torch.testing.assert_close(u.grad, torch.zeros(2))  # 1 - L e^-u


def test_what_has_two_losses_is_refused() -> None:
    with pytest.raises(UsageError, match="--weighting learned is of one loss"):
        updated(LEARNED, {"network": {"learned_variance": True}}).check()
    with pytest.raises(UsageError, match="--loss vlb"):
        updated(LEARNED, {"objective": {"loss": "vlb"}}).check()
    LEARNED.check()


def test_it_is_trained_with_the_network_and_resumed_exactly(tmp_path: Path) -> None:
    config = updated(LEARNED, {"budget": {"images": 48}, "snapshot_every": 24})
    whole = train_run(tmp_path / "whole", config)
    assert whole.weight is not None
    assert whole.weight.weight.abs().max() > 0.01
    assert "weight" in snapshots.read(snapshots.snapshot_path(tmp_path / "whole/snapshots", 24))
    resumed = TrainingState.initial(config, CPU.device)
    resuming.load_snapshot(tmp_path / "whole/snapshots/000000000024.pt", resumed)
    train_run(tmp_path / "resumed", config, resumed)
    assert resumed.weight is not None
    assert torch.equal(resumed.weight.weight, whole.weight.weight)
    plain = train_run(tmp_path / "plain", updated(config, {"objective": {"weighting": "plain"}}))
    assert "weight" not in plain.state_dict()  # snapshots of others are what they were
