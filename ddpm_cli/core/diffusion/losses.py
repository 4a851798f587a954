"""What training makes small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import ObjectiveConfig
from ddpm_cli.core.diffusion.denoiser import SIGMA_DATA, Denoiser, Prediction
from ddpm_cli.core.diffusion.likelihood import variational_term
from ddpm_cli.core.diffusion.noising import Noised


def training_loss(
    denoiser: Denoiser, noised: Noised, condition: Condition, objective: ObjectiveConfig
) -> Tensor:
    """One number a picture (B,): by default L_simple (Ho et al. 2020, equation 14).

    With a learned variance it is L_hybrid = L_simple + vlb_weight L_vlb, in which the bound trains
    the variance alone (Nichol & Dhariwal 2021, equation 16). Loss "vlb" is L_vlb, in bits/dim.
    """
    x, schedule = noised.x, denoiser.schedule
    if objective.loss == "vlb":
        seen = denoiser.predict(x, noised.sigma, condition)
        return len(schedule) * variational_term(schedule, noised.x0, noised.sigma, seen)

    # Sent to a GPU before the network runs there: sending waits for all that was begun before.
    target = denoiser.target(noised.x0, noised.noise, noised.sigma)
    weights = None
    if objective.weighting != "plain":
        weights = weight(denoiser, noised.sigma, objective).to(target)

    output, fraction = denoiser.output(x, noised.sigma, condition)
    loss = DISTANCES[objective.loss](output.float(), target).mean(dim=(1, 2, 3))
    if weights is not None:
        loss = weights * loss
    if fraction is not None:
        seen = Prediction(denoiser.to_x0(output.detach(), x, noised.sigma), fraction)
        bound = variational_term(schedule, noised.x0, noised.sigma, seen)
        loss = loss + objective.bound_weight * len(schedule) * bound
    return loss


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda output, target: (output - target).square(),
    "l1": lambda output, target: (output - target).abs(),
    "huber": lambda output, target: nnf.huber_loss(output, target, reduction="none"),
}


def weight(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """What the loss of F is multiplied by at noise levels (B,): float64 (B,).

    Weightings are told of the error of x0, of which F's is 1 / c_out^2: so each is one formula,
    whatever the parameterisation.
    """
    return (
        WEIGHTINGS[objective.weighting](denoiser, sigma, objective)
        * denoiser.scalings(sigma).c_out ** 2
    )


def _min_snr(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """min(SNR, gamma) (Hang et al. 2023, equation 7)."""
    return (sigma**-2).clamp(max=objective.gamma)


def _p2(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The error of eps over (k + SNR)^gamma (Choi et al. 2022, equation 8)."""
    snr = sigma**-2
    return snr / (objective.weighting_k + snr) ** objective.gamma


def _edm(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """lambda, with which EDM's F has weight one at every level (Karras et al. 2022, table 1)."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def _vlb(denoiser: Denoiser, sigma: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The bound's own weight T / 2 (SNR_(t - 1) - SNR_t), F's clipped to gamma.

    Kingma et al. (2021), equation 13. It has no limit at t = 0, and grows huge where a schedule
    ends in a leap, as cosine does; unclipped, a few pictures would drown the others.
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
