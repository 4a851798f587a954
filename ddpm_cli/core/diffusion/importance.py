"""Loss-based importance sampling of timesteps (Nichol & Dhariwal 2021, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_cli.core.diffusion.schedules import Schedule

_HISTORY = 10  # losses kept per timestep
_UNIFORM = 0.001  # weight of the uniform distribution in the mixture


class LossHistory:
    """The last losses of every timestep, and the sampling distribution they define.

    The distribution is uniform until every timestep has the full number of losses.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._sigma = schedule, torch.from_numpy(schedule.sigma)
        self._losses = torch.zeros(len(schedule), _HISTORY, dtype=torch.float64)
        self._counts = torch.zeros(len(schedule), dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p_t (T,), proportional to sqrt(E[L_t^2]) (Nichol & Dhariwal 2021, equation 18)."""
        uniform = torch.full((len(self._sigma),), 1 / len(self._sigma), dtype=torch.float64)
        rms = self._losses.square().mean(dim=1).sqrt()
        if self._counts.min() < _HISTORY or rms.sum() == 0:
            return uniform
        return (1 - _UNIFORM) * rms / rms.sum() + _UNIFORM * uniform

    def sample_sigmas(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Noise levels for uniform u (B,) in (0, 1), and importance weights 1 / (T p_t)."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u).clamp_(max=len(p) - 1)
        return self._sigma[t], 1 / (len(p) * p[t])

    def record(self, sigma: Tensor, losses: Tensor) -> None:
        """Add the unweighted losses (B,) at noise levels (B,); non-finite losses are left out.

        A new loss replaces the oldest of its timestep.
        """
        for t, loss in zip(self._schedule.index(sigma).tolist(), losses.tolist(), strict=True):
            if abs(loss) < float("inf"):
                self._losses[t, self._counts[t] % _HISTORY] = loss
                self._counts[t] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The state for a snapshot."""
        return {"losses": self._losses, "seen": self._counts}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Copy the state that `state_dict` returned."""
        self._losses.copy_(state_dict["losses"])
        self._counts.copy_(state_dict["seen"])
