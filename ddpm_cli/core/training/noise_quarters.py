"""Losses by quarter of the noise levels of training, each drawn as often as the others."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.noising import training_sigmas

COUNT = 4


class NoiseQuarters:
    """Quarters of the timesteps as improved DDPM logs them, or of a normal's quantiles.

    Those of importance sampling are the quarters that uniform timesteps have.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        schedule = schedules.from_config(config.diffusion)
        shares = torch.arange(1, COUNT, dtype=torch.float64) / COUNT
        self._bounds = training_sigmas(schedule, config.objective, shares).float().to(device)

    def add(self, sums: Tensor, sigma: Tensor, values: Tensor) -> None:
        """Add values (B, K) to the sums (4, K) of the quarters of their noise levels.

        sigma: (B,) float32, on the device.
        """
        sums.index_add_(0, torch.bucketize(sigma, self._bounds, right=True), values)
