"""CMMD: the maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter

BANDWIDTH = 10.0  # sigma of the kernel
SCALE = 1000.0  # by which the papers multiply the squared discrepancy


@dataclass(frozen=True)
class Cmmd:
    """The squared discrepancy, times 1000."""

    value: float

    def line(self, label: Label) -> str:
        """The distance."""
        return f"{label('CMMD')} {self.value:.4f}"

    def document(self) -> dict[str, object]:
        """Its key of --json."""
        return {"cmmd": self.value}


def cmmd(
    real: FeatureStore,
    fake: FeatureStore,
    reporter: Reporter,
    device: torch.device | None = None,
    of_real: float | None = None,
) -> Cmmd:
    """CMMD of embeddings (n, d) of length 1: the biased squared MMD with a Gaussian kernel, x 1000.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), each over all pairs, those of an image with
    itself included (Gretton et al. 2012, eq. 5), k = exp(-|x - y|^2 / (2 sigma^2)), sigma 10.
    of_real: `kernel_mean` of real and real, where it is known.
    """
    if of_real is None:
        of_real = kernel_mean(real, real, reporter, device)
    of_fake = kernel_mean(fake, fake, reporter, device)
    return Cmmd(SCALE * (of_real + of_fake - 2 * kernel_mean(real, fake, reporter, device)))


def kernel_mean(
    x: FeatureStore, y: FeatureStore, reporter: Reporter, device: torch.device | None = None
) -> float:
    """The mean of k - 1 over all pairs of a row of x and one of y."""
    done, total = 0, 0.0
    with reporter.bar("CMMD", len(x) * len(y), "pairs") as bar, devices.without_tf32():
        for rows in x.blocks():
            for columns in y.blocks():
                total += _kernel_less_one(rows.to(device), columns.to(device))
                done += len(rows) * len(columns)
                bar.update(done)
    return total / (len(x) * len(y))


def _kernel_less_one(x: Tensor, y: Tensor) -> float:
    """The sum of k(x, y) - 1 over all pairs.

    The ones cancel in the score, which is a thousandth or less of them: without them float32 keeps
    its digits.
    """
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    distances = torch.addmm(norms, x, y.T, alpha=-2).clamp_(min=0)
    return float(torch.expm1(distances / (-2 * BANDWIDTH**2)).double().sum())
