"""Errors of few-step solvers of the probability flow on Gaussian mixtures.

The exact D of a mixture is known, and 1,500 steps of Heun's method are the reference. Besides the
samplers of `ddpm` it measures some that were considered and left out. Prints the tables of
docs/samplers.md: python tests/benchmarks/few_step_solvers.py
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_cli.core.diffusion import samplers
from ddpm_cli.core.diffusion.denoiser import Denoise, Prediction

Solver = Callable[[Denoise, Tensor, Tensor], Tensor]
MIXTURES = ((8, 2, 0.1), (24, 16, 0.08), (60, 64, 0.2))  # components, dimensions, std
EVALUATIONS = (5, 8, 10, 20)
SEEDS = 3


def mixture(components: int, dimensions: int, std: float, seed: int) -> Denoise:
    """E[x0 | x] of a random mixture within [-0.9, 0.9]; x: (B, dimensions, 1, 1)."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.8 * torch.rand(components, dimensions, generator=generator, dtype=torch.float64) - 0.9
    logits = 0.5 * torch.randn(components, generator=generator, dtype=torch.float64)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        variance = std**2 + sigma**2
        squared_distance = (x[:, None, :, 0, 0] - means).square().sum(-1)
        responsibilities = (logits - squared_distance / (2 * variance)).softmax(1)
        mean = (responsibilities @ means)[..., None, None]
        return (sigma**2 * mean + std**2 * x) / variance

    return denoise


def karras(steps: int) -> Tensor:
    """Noise levels from 80 to 0.01, and 0."""
    roots = torch.linspace(80 ** (1 / 7), 0.01 ** (1 / 7), steps, dtype=torch.float64)
    return torch.cat([roots**7, torch.zeros(1, dtype=torch.float64)])


def multistep(order: int, in_log_sigma: bool) -> Solver:
    """Integrate the polynomial through the last `order` evaluations exactly.

    The polynomial of x0 in log sigma is DPM-Solver++ of that order, of the slope in sigma DEIS.
    """

    def solve(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
        history: list[tuple[float, Tensor]] = []
        for sigma, after in itertools.pairwise(sigmas.tolist()):
            x0 = denoise(x, torch.full((1,), sigma))
            if after == 0:
                return x0
            node, value = (-math.log(sigma), x0) if in_log_sigma else (sigma, (x - x0) / sigma)
            history = [(node, value), *history][:order]
            weights = _weights([n - node for n, _ in history], sigma, after, in_log_sigma)
            integral = sum(w * v for w, (_, v) in zip(weights, history, strict=True))
            x = (after / sigma) * x + integral if in_log_sigma else x + integral
        return x

    return solve


def _weights(nodes: list[float], sigma: float, after: float, in_log_sigma: bool) -> list[float]:
    """Integrals over one step of the Lagrange polynomials at the nodes."""
    if in_log_sigma:  # of e^(u - h) u^k from 0 to h
        h = math.log(sigma / after)
        moments = [-math.expm1(-h)]
        for k in range(1, len(nodes)):
            moments.append(h**k - k * moments[-1])
    else:
        moments = [(after - sigma) ** (k + 1) / (k + 1) for k in range(len(nodes))]
    powers = torch.tensor([[node**k for node in nodes] for k in range(len(nodes))]).double()
    weights: list[float] = torch.linalg.solve(powers, torch.tensor(moments).double()).tolist()
    return weights


def corrected_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) whose steps are corrected by the next evaluation, as UniPC does."""
    before: tuple[float, Tensor, Tensor] | None = None
    predicted = x
    for sigma, after in itertools.pairwise(sigmas.tolist()):
        x0 = denoise(predicted, torch.full((1,), sigma))
        if before is not None:  # correct the last step with the x0 of both of its ends
            above, start, x0_start = before
            weights = _weights([0.0, math.log(above / sigma)], above, sigma, True)
            predicted = (sigma / above) * start + weights[0] * x0_start + weights[1] * x0
        if after == 0:
            return x0
        slope = 0 * x0
        if before is not None:
            slope = (x0 - before[2]) * math.log(sigma / after) / (2 * math.log(before[0] / sigma))
        before = (sigma, predicted, x0)
        predicted = (after / sigma) * predicted + (1 - after / sigma) * (x0 + slope)
    return predicted


def sampler(name: str) -> Solver:
    """A sampler of `ddpm` as a Solver."""

    def solve(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
        steps = {
            "euler (ddim)": lambda: samplers.ddim(
                lambda x, s: Prediction(denoise(x, s)), x, sigmas, eta=0, noise=lambda: x
            ),
            "heun": lambda: samplers.heun(denoise, x, sigmas, noise=lambda: x),
            "dpmpp-2m": lambda: samplers.dpmpp(denoise, x, sigmas, order=2, noise=lambda: x),
            "dpmpp-3m": lambda: samplers.dpmpp(denoise, x, sigmas, order=3, noise=lambda: x),
            "ipndm": lambda: samplers.ipndm(denoise, x, sigmas),
        }[name]()
        return list(steps)[-1].x

    return solve


SOLVERS: dict[str, Solver] = {
    name: sampler(name) for name in ("euler (ddim)", "heun", "dpmpp-2m", "dpmpp-3m")
}
SOLVERS |= {
    "full order 3": multistep(3, in_log_sigma=True),
    "UniPC, order 2": corrected_2m,
    "DEIS, order 3": multistep(3, in_log_sigma=False),
    "ipndm": sampler("ipndm"),
}


def main() -> None:
    """Print the mean error of every solver on every mixture."""
    torch.set_num_threads(1)
    for components, dimensions, std in MIXTURES:
        errors = {name: [0.0] * len(EVALUATIONS) for name in SOLVERS}
        for seed in range(SEEDS):
            denoise = mixture(components, dimensions, std, seed)
            generator = torch.Generator().manual_seed(100 + seed)
            shape = (400, dimensions, 1, 1)
            x = 80 * torch.randn(shape, generator=generator, dtype=torch.float64)
            exact = SOLVERS["heun"](denoise, x, karras(1500))
            for name, solve in SOLVERS.items():
                for i, count in enumerate(EVALUATIONS):
                    steps = (count + 1) // 2 if name == "heun" else count  # 2 N - 1 <= count
                    error = (solve(denoise, x, karras(steps)) - exact).square().mean((1, 2, 3))
                    errors[name][i] += error.sqrt().mean().item() / SEEDS
        print(f"\n{components} components of standard deviation {std} in {dimensions} dimensions\n")
        print("| evaluations | " + " | ".join(map(str, EVALUATIONS)) + " |")
        print("| --- |" + " --- |" * len(EVALUATIONS))
        for name, row in errors.items():
            print(f"| {name} | " + " | ".join(f"{error:.3f}" for error in row) + " |")


if __name__ == "__main__":
    main()
