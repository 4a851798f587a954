"""Muon: orthogonalised momentum for the matrices of the hidden layers, AdamW for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
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
        taken, lr, parameters = 1 - self.found_inf, group["lr"], group["params"]
        gradients = [torch.where(taken > 0, p.grad, 0) for p in parameters]  # else: a skipped step
        averages = list(map(self._average, parameters))
        changes = torch._foreach_sub(gradients, averages)
        torch._foreach_mul_(changes, taken * (1 - MOMENTUM))
        torch._foreach_add_(averages, changes)
        directions = torch._foreach_lerp(gradients, averages, MOMENTUM)  # Nesterov's
        orthogonal = orthogonalised(list(map(_matrix, directions)))
        updates = [
            _kernel(matrix, parameter).mul_(taken * lr * RMS * math.sqrt(max(matrix.shape)))
            for matrix, parameter in zip(orthogonal, parameters, strict=True)
        ]
        torch._foreach_mul_(parameters, 1 - taken * lr * group["weight_decay"])
        torch._foreach_sub_(parameters, updates)

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


def _kernel(matrix: Tensor, like: Tensor) -> Tensor:
    """A matrix in the shape of such a parameter."""
    return matrix.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of linear layers and convolutions, but for those at the network's ends."""
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not any(part in _NOT_HIDDEN for part in name.split("."))
    ]


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About U V^T of each matrix (M, N) = U S V^T, by a quintic Newton-Schulz iteration.

    Singular values end between 0.7 and 1.2 (Jordan et al. 2024); those near 0 stay below that.
    """
    wide = [matrix.mT if len(matrix) > matrix.shape[1] else matrix for matrix in matrices]
    norms = torch._foreach_norm(wide)
    wide = [x / (norm + 1e-7) for x, norm in zip(wide, norms, strict=True)]
    by_size = defaultdict(list)
    for index, x in enumerate(wide):
        by_size[len(x)].append(index)
    factors = dict[int, Tensor]()
    for alike in by_size.values():
        grams = torch.stack([wide[index] @ wide[index].mT for index in alike])
        factors |= zip(alike, _factors(grams), strict=True)
    orthogonal = [factors[index] @ x for index, x in enumerate(wide)]
    return [
        x if x.shape == matrix.shape else x.mT
        for x, matrix in zip(orthogonal, matrices, strict=True)
    ]


def _factors(grams: Tensor) -> Tensor:
    """The matrices that make each X orthogonal from the left, of X X^T (count, M, M).

    The iteration X <- (a + b X X^T + c (X X^T)^2) X is that of its factor and of X X^T alone, which
    are small.
    """
    a, b, c = _COEFFICIENTS
    factors = grams
    for iteration in range(_ITERATIONS):
        polynomials = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        polynomials.diagonal(dim1=-2, dim2=-1).add_(a)
        factors = polynomials @ factors if iteration else polynomials
        if iteration + 1 < _ITERATIONS:
            grams = polynomials @ grams @ polynomials
    return factors
