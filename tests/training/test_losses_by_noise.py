"""The columns loss_q0 to loss_q3: mean losses by quarter of the noise levels of training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import trainer
from ddpm_cli.core.training.batches import Batch
from tests.support.training import CONFIG, train_run

UNIFORM: dict[str, Any] = {"diffusion": {"schedule": "cosine", "timesteps": 100}}
EDM = {"schedule": "edm", "parameterisation": "edm"}
FLOW = {"schedule": "flow", "parameterisation": "flow"}
CHOICES: dict[str, dict[str, Any]] = {
    "uniform timesteps": UNIFORM,
    "importance": {
        "diffusion": {"schedule": "cosine", "timesteps": 4},
        "objective": {"noise_levels": "importance"},
    },
    "log-normal": {"diffusion": EDM, "objective": {"noise_levels": "log-normal"}},
    "flow": {"diffusion": FLOW},
    "logit-normal": {"diffusion": FLOW, "objective": {"noise_levels": "logit-normal"}},
}


def quarters(name: str, sigma: np.ndarray, config: RunConfig | None = None) -> np.ndarray:
    """The quarters of noise levels, by the distribution's own formula."""
    if name == "flow":
        return np.floor(4 * sigma / (1 + sigma))
    if name.endswith("normal"):
        mean, std = (-1.2, 1.2) if name == "log-normal" else (0, 1)
        return np.floor(4 * norm.cdf(np.log(sigma), mean, std))
    config = config or updated(CONFIG, CHOICES[name])
    table = schedules.from_config(config.diffusion).sigma
    t = abs(table[None] / sigma[:, None] - 1).argmin(axis=1)
    return 4 * t // len(table)  # as improved-diffusion's log_loss_dict


@pytest.mark.parametrize("name", CHOICES)
def test_they_are_means_over_quarters_of_the_noise_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[torch.Tensor] = []
    weighted = trainer.weighted

    def record(losses: torch.Tensor, shard: Batch) -> torch.Tensor:
        weights = torch.ones(len(losses)) if shard.importance is None else shard.importance
        seen.append(torch.stack([shard.noised.sigma, losses.double(), weights.double()]))
        return weighted(losses, shard)

    monkeypatch.setattr(trainer, "weighted", record)
    images = 320 if name == "importance" else 64  # ten losses of each timestep come first
    config = replace(updated(CONFIG, CHOICES[name]), log_every=16, budget=Budget(images=images))
    train_run(tmp_path, replace(config, validate_every=10**6, snapshot_every=10**6))
    rows, each = RunDirectory(tmp_path).rows(), 16 // config.optimiser.batch
    assert len(rows) == images // 16
    for i, row in enumerate(rows):
        sigma, losses, weights = torch.cat(seen[each * i : each * (i + 1)], dim=1).numpy()
        quarter = quarters(name, sigma)
        for q in range(4):
            own = quarter == q
            found = row[f"loss_q{q}"]
            if not own.any():
                assert found is None
                continue
            mean = (weights * losses)[own].sum() / weights[own].sum()
            assert found == pytest.approx(mean, rel=1e-5)
    if name == "importance":
        assert weights.std() > 0


def test_skipped_steps_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls, sigma = trainer.weighted, [], []

    def broken_once(losses: torch.Tensor, shard: Batch) -> torch.Tensor:
        calls.append(losses.clone())
        sigma.append(shard.noised.sigma)
        return loss(losses * (math.nan if len(calls) == 2 else 1), shard)

    # The step itself is finite: so what is skipped is decided here as well.
    count = trainer.MetricsLog.count

    def counted(self: Any, losses: Any, sigma: Any, skipped: Any, weights: Any) -> None:
        count(self, losses, sigma, (~losses.isfinite().all()).float(), weights)

    monkeypatch.setattr(trainer, "weighted", broken_once)
    monkeypatch.setattr(trainer.MetricsLog, "count", counted)
    config = replace(CONFIG, log_every=24, budget=Budget(images=24))
    train_run(tmp_path, replace(config, validate_every=10**6))
    (row,) = RunDirectory(tmp_path).rows()
    assert row["loss"] == pytest.approx(float(torch.stack([calls[0], calls[2]]).mean()))
    counted_losses = torch.cat([calls[0], calls[2]]).double().numpy()
    quarter = quarters("uniform timesteps", torch.cat([sigma[0], sigma[2]]).numpy(), config)
    assert len(set(quarter)) > 1
    for q in range(4):
        own = counted_losses[quarter == q]
        assert row[f"loss_q{q}"] == (pytest.approx(own.mean()) if len(own) else None)
