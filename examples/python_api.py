"""ddpm from Python: train on arrays, sample, denoise, use a network and a sampler of one's own.

python examples/python_api.py
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import ddpm_cli as ddpm


def squares(count: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Light squares on a dark background (class 0), or the reverse (class 1), with labels."""
    images = np.full((count, side, side), 30, dtype=np.uint8)
    images[:, 4:12, 4:12] = 220
    labels = np.arange(count) % 2
    images[labels == 1] = 255 - images[labels == 1]
    return images, labels


class Network(nn.Module):
    """A small F(x, c_noise, condition); any callable of these three serves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, condition: ddpm.Condition) -> Tensor:
        """x (B, C, H, W) -> F of the same shape."""
        out: Tensor = self.conv(x)
        return out


def euler(denoiser: ddpm.Denoiser, x: Tensor, sigmas: list[float]) -> Iterator[Tensor]:
    """Euler's method on the probability flow (Karras et al. 2022, algorithm 1, lines 1 to 5)."""
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoiser(x, sigma)) / sigma
        x = x + (sigma_next - sigma) * slope
        yield x


def main() -> None:
    """Run each use once."""
    images, labels = squares(64)
    config = ddpm.config("mnist", optimiser={"batch": 16}, budget={"images": 128})
    model = ddpm.train(config, images, labels, classes=["light", "dark"], out="runs/squares")
    drawn = model.sample(8, seed=0, steps=10, guidance=2, classes=["light", "dark"])
    print("sampled", drawn.shape, drawn.dtype)

    noisy = torch.randn(2, 1, 16, 16, requires_grad=True)
    model.denoise(noisy, sigma=1.5, classes=["light", "dark"]).sum().backward()
    print("gradient of D with respect to x:", tuple(noisy.grad.shape))

    denoiser = ddpm.Denoiser(Network(1), ddpm.schedule("edm"), "edm")
    sampling = ddpm.Sampling(steps=5, sampler="heun")
    print("their network, our sampler:", ddpm.sample(denoiser, (2, 1, 16, 16), sampling).shape)
    with torch.no_grad():
        *_, last = euler(denoiser, 80 * torch.randn(2, 1, 16, 16), [80.0, 10.0, 1.0, 0.0])
    print("their network, their sampler:", tuple(last.shape))


if __name__ == "__main__":
    main()
