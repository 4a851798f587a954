"""Training objectives: distances, weightings and the variational bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import ObjectiveConfig
from ddpm_cli.core.diffusion.denoiser import SIGMA_DATA, Denoiser, Prediction
from ddpm_cli.core.diffusion.likelihood import variational_term
from ddpm_cli.core.diffusion.noising import Noised


def training_loss(
    denoiser: Denoiser, noised: Noised, condition: Condition, objective: ObjectiveConfig
) -> Tensor:
    """The loss of each image, (B,): by default L_simple (Ho et al. 2020, equation 14).

    With a learned variance it is L_hybrid = L_simple + vlb_weight L_vlb, where the gradient of the
    bound reaches the variance only (Nichol & Dhariwal 2021, equation 16). Loss "vlb" is L_vlb, in
    bits/dim.
    """
    x, schedule = noised.x, denoiser.schedule
    if objective.loss == "vlb":
        prediction = denoiser.predict(x, noised.sigma, condition)
        return len(schedule) * variational_term(schedule, noised.x0, noised.sigma, prediction)

    # Copied to the GPU before the network's kernels are queued: the copy waits for queued work.
    target = denoiser.target(noised.x0, noised.noise, noised.sigma)
    weights = None
    if objective.weighting != "plain":
        weights = weight(denoiser, noised.sigma, objective).to(target)

    output, fraction = denoiser.output(x, noised.sigma, condition)
    loss = DISTANCES[objective.loss](output.float(), target).mean(dim=(1, 2, 3))
    if weights is not None:
        loss = weights * loss
    if fraction is not None:
        prediction = Prediction(denoiser.to_x0(output.detach(), x, noised.sigma), fraction)
        bound = variational_term(schedule, noised.x0, noised.sigma, prediction)
        loss = loss + objective.bound_weight * len(schedule) * bound
    return loss


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
    "vlb": _vlb,
}
