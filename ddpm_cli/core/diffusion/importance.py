"""Timesteps drawn the more often the larger their losses are (Nichol & Dhariwal 2021, eq. 18)."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule

_KEPT = 10  # losses remembered of a timestep
_UNIFORM = 0.001  # share of the draws that stays uniform


class LossHistory:
    """The last losses of every timestep; it is uniform until all have been seen often enough."""

    def __init__(self, schedule: Schedule) -> None:
        self._sigma = torch.from_numpy(schedule.sigma)
        self._losses = torch.zeros(len(schedule), _KEPT, dtype=torch.float64)
        self._seen = torch.zeros(len(schedule), dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """Of the timesteps (T,): proportional to the root of their losses' mean square."""
        uniform = torch.full((len(self._sigma),), 1 / len(self._sigma), dtype=torch.float64)
        size = self._losses.square().mean(dim=1).sqrt()
        if self._seen.min() < _KEPT or size.sum() == 0:
            return uniform
        return (1 - _UNIFORM) * size / size.sum() + _UNIFORM * uniform

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """For uniform numbers u (B,): noise levels, and the 1 / (T p_t) to weigh losses by."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u).clamp_(max=len(p) - 1)
        return self._sigma[t], 1 / (len(p) * p[t])

    def record(self, sigma: Tensor, losses: Tensor) -> None:
        """Remember the unweighted losses (B,) at these levels (B,); those not finite are left out.

        The oldest loss of a timestep makes room.
        """
        timesteps = torch.searchsorted(self._sigma, sigma)
        for t, loss in zip(timesteps.tolist(), losses.tolist(), strict=True):
            if abs(loss) < float("inf"):
                self._losses[t, self._seen[t] % _KEPT] = loss
                self._seen[t] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """What a snapshot holds."""
        return {"losses": self._losses, "seen": self._seen}

    def load_state_dict(self, held: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self._losses.copy_(held["losses"])
        self._seen.copy_(held["seen"])
