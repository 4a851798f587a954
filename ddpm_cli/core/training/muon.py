"""Muon: orthogonalised momentum for the matrices of the hidden layers, AdamW for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_cli.core.config.run import OptimiserConfig

MOMENTUM = 0.95
RMS = 0.4  # of an update, in units of lr; 0.2 in Liu et al. (2025), which learns more slowly here
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024): steep at 0, where values start
_ITERATIONS = 5
_NOT_HIDDEN = ("embedding", "inputs", "outputs", "modulation")  # modules that AdamW trains


class Muon(torch.optim.AdamW):
    """AdamW whose second group of parameters, hidden matrices, is updated by Muon.

    A convolution's kernel (M, N, k, k) counts as a matrix (M, k k N). An update's root mean square
    is about RMS lr, near that of AdamW's (Liu et al. 2025, equation 4): both take one learning
    rate.
    `found_inf` skips a step on the device, as it does with fused AdamW.
    """

    found_inf: Tensor

    def __init__(self, network: nn.Module, config: OptimiserConfig) -> None:
        hidden = hidden_matrices(network)
        chosen = set(map(id, hidden))
        rest = [p for p in network.parameters() if id(p) not in chosen]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": hidden, "muon": True}]
        super().__init__(
            groups,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters by their gradients."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        super().step(closure)
        self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._update(group)

    @torch.no_grad()
    def _update(self, group: dict[str, Any]) -> None:
        taken, lr = 1 - self.found_inf, group["lr"]  # 0: the step is skipped
        by_shape = defaultdict(list)  # matrices of one shape are orthogonalised together
        for parameter in group["params"]:
            by_shape[parameter.shape].append(parameter)
        for parameters in by_shape.values():
            gradients = torch.stack([_matrix(p.grad) for p in parameters])
            gradients = torch.where(taken > 0, gradients, 0)
            averages = [self._average(p) for p in parameters]
            momenta = torch.stack(list(map(_matrix, averages)))
            momenta += taken * (1 - MOMENTUM) * (gradients - momenta)
            torch._foreach_copy_(averages, _kernels(momenta, parameters[0]))
            changes = orthogonalised(gradients.lerp(momenta, MOMENTUM))  # Nesterov's
            changes *= taken * lr * RMS * math.sqrt(max(changes.shape[1:]))
            torch._foreach_mul_(parameters, 1 - taken * lr * group["weight_decay"])
            torch._foreach_sub_(parameters, _kernels(changes, parameters[0]))

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # which AdamW looks for where it restores its state
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        return average


def _matrix(kernel: Tensor) -> Tensor:
    """A linear layer's (M, N) as it is, a kernel (M, N, k, k) as (M, k k N): as it lies in memory.

    The order of the columns makes no difference to U V^T.
    """
    return kernel.movedim(1, -1).flatten(1)


def _kernels(matrices: Tensor, like: Tensor) -> list[Tensor]:
    """Matrices (count, ...) in the shape of such a parameter."""
    kernels = matrices.view(-1, len(like), *like.shape[2:], like.shape[1])
    return list(kernels.movedim(-1, 2).unbind())


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of linear layers and convolutions, but for those at the network's ends."""
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not any(part in _NOT_HIDDEN for part in name.split("."))
    ]


def orthogonalised(matrices: Tensor) -> Tensor:
    """About U V^T of each matrix (..., M, N) = U S V^T, by a quintic Newton-Schulz iteration.

    Singular values end between 0.7 and 1.2 (Jordan et al. 2024); those near 0 stay below that.
    The iteration X <- (a + b X X^T + c (X X^T)^2) X is that of its factor and of X X^T alone, which
    are small: X itself is multiplied once, at the end.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    gram = x @ x.mT
    factor = identity = torch.eye(gram.shape[-1], device=x.device, dtype=x.dtype)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        polynomial = a * identity + b * gram + c * gram @ gram
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    orthogonal: Tensor = factor @ x
    return orthogonal.mT if is_tall else orthogonal
