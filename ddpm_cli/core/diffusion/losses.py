"""Training objectives: distances, weightings and the variational bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import ObjectiveConfig
from ddpm_cli.core.diffusion.denoiser import SIGMA_DATA, Denoiser, Prediction
from ddpm_cli.core.diffusion.likelihood import StepScalars, step_scalars, term
from ddpm_cli.core.diffusion.noising import Noised
from ddpm_cli.core.runtime import devices


class LossScalars(NamedTuple):
    """What the loss needs of the noise levels of B images: each (B,).

    They are computed on the CPU, in float64, and moved together with the batch: so that the loss
    is a function of tensors on one device, and never waits for it.
    """

    sigma: Tensor
    c_in: Tensor
    c_noise: Tensor
    of_x0: Tensor  # F's target is of_x0 x0 + of_noise n
    of_noise: Tensor
    weight: Tensor | None = None  # None: all are 1, or learned
    c_skip: Tensor | None = None  # of D; these for a learned variance and the loss vlb alone
    c_out: Tensor | None = None
    log_small: Tensor | None = None  # likelihood.StepScalars
    log_ratio: Tensor | None = None
    snr_gain: Tensor | None = None
    below: Tensor | None = None

    @classmethod
    def at(
        cls, denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig, *, bound: bool
    ) -> LossScalars:
        """The scalars at noise levels float64 (B,) on the CPU; `bound`: with those of the bound."""
        c_skip, c_out, c_in = denoiser.scalings(sigma)
        scalars = cls(
            sigma,
            c_in,
            denoiser.schedule.c_noise(sigma),
            *denoiser.target_scalars(sigma),
            weight(denoiser, sigma, objective) if objective.weighting in WEIGHTINGS else None,
        )
        if not bound and objective.loss != "vlb":
            return scalars
        return cls(*scalars[:6], c_skip, c_out, *step_scalars(denoiser.schedule, sigma))

    def to(self, device: torch.device, dtype: torch.dtype) -> LossScalars:
        """Move all in one copy, which does not wait for the device."""
        together = torch.stack([field.to(dtype) for field in self if field is not None])
        moved = iter(devices.to_device(together, device))
        return self._map(lambda _: next(moved))

    def select(self, rows: slice) -> LossScalars:
        """Those of some of the images."""
        return self._map(lambda field: field[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> LossScalars:
        return LossScalars(*(field if field is None else change(field) for field in self))  # type: ignore[arg-type]


def training_loss(
    denoiser: Denoiser,
    noised: Noised,
    condition: Condition,
    objective: ObjectiveConfig,
    scalars: LossScalars | None = None,
) -> Tensor:
    """The loss of each image, (B,): by default L_simple (Ho et al. 2020, equation 14).

    With a learned variance it is L_hybrid = L_simple + vlb_weight L_vlb, where the gradient of the
    bound reaches the variance only (Nichol & Dhariwal 2021, equation 16). Loss "vlb" is L_vlb, in
    bits/dim. scalars: those of the noise levels, where they are on the device already.
    """
    x0, noise, sigma = noised
    at = scalars
    if at is None:
        at = LossScalars.at(denoiser, sigma, objective, bound=False).to(x0.device, x0.dtype)
    x = x0 + _over_image(at.sigma) * noise
    output, fraction = denoiser.evaluate(_over_image(at.c_in) * x, at.c_noise.float(), condition)
    if objective.loss == "vlb":
        return _bound(denoiser, x0, x, output, fraction, at)

    target = _over_image(at.of_x0) * x0 + _over_image(at.of_noise) * noise
    loss = DISTANCES[objective.loss](output.float(), target).mean(dim=(1, 2, 3))
    if at.weight is not None:
        loss = at.weight * loss
    if fraction is not None:
        if at.below is None:
            at = LossScalars.at(denoiser, sigma, objective, bound=True).to(x0.device, x0.dtype)
        bound = _bound(denoiser, x0, x, output.detach(), fraction, at)
        loss = loss + objective.bound_weight * bound
    return loss


def _bound(
    denoiser: Denoiser,
    x0: Tensor,
    x: Tensor,
    output: Tensor,
    fraction: Tensor | None,
    at: LossScalars,
) -> Tensor:
    """The variational bound of each image, (B,), from one of its T terms."""
    c_skip, c_out, *step = (field for field in at[6:] if field is not None)
    denoised = _over_image(c_skip) * x + _over_image(c_out) * output.to(x.dtype)
    prediction = Prediction(denoised, fraction)
    return len(denoiser.schedule) * term(x0, StepScalars(*step), prediction)


def _over_image(scalar: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return scalar[:, None, None, None]


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda output, target: (output - target).square(),
    "l1": lambda output, target: (output - target).abs(),
    "huber": lambda output, target: nnf.huber_loss(output, target, reduction="none"),
}


def weight(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Weights of the loss of F at noise levels (B,): float64 (B,).

    Weightings are defined on the squared error of x0, which is c_out^2 times that of F: so each is
    one formula for all parameterisations.
    """
    return (
        WEIGHTINGS[objective.weighting](denoiser, sigma, objective)
        * denoiser.scalings(sigma).c_out ** 2
    )


def _min_snr(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """min(SNR, gamma) (Hang et al. 2023, equation 7)."""
    return (sigma**-2).clamp(max=objective.gamma)


def _p2(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """1 / (k + SNR)^gamma on the error of eps (Choi et al. 2022, equation 8)."""
    snr = sigma**-2
    return snr / (objective.weighting_k + snr) ** objective.gamma


def _edm(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """lambda(sigma), which gives EDM's F weight 1 at every level (Karras et al. 2022, table 1)."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def _velocity(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """1 / t^2 at flow's t, which makes the error of x0 that of the velocity, at most gamma.

    For x0 it is the v-loss of JiT (Li & He 2025, section 4.3), whose largest weight is 1 / .05^2.
    """
    return ((1 + sigma) / sigma).square().clamp(max=objective.gamma)


def _vlb(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """T / 2 (SNR_(t - 1) - SNR_t) (Kingma et al. 2021, equation 13), clipped to gamma on F.

    The weight is infinite at t = 0, and huge where a schedule ends with a jump, as cosine does:
    unclipped, a few images would dominate the batch.
    """
    below = denoiser.schedule.below(sigma)
    exact = len(denoiser.schedule) / 2 * (below**-2 - sigma**-2)
    return torch.minimum(exact, objective.gamma * denoiser.scalings(sigma).c_out ** -2)


WEIGHTINGS: dict[str, Callable[[Denoiser, Tensor, ObjectiveConfig], Tensor]] = {
    "min-snr": _min_snr,
    "p2": _p2,
    "edm": _edm,
    "velocity": _velocity,
    "vlb": _vlb,
}
