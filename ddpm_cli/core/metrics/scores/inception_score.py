"""The Inception Score (Salimans et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.metrics.feature_store import FeatureStore, shuffled
from ddpm_cli.core.metrics.scores.score import Label
from ddpm_cli.core.runtime.reporting import Reporter

SPLITS = 10


@dataclass(frozen=True)
class InceptionScore:
    """Mean and population deviation over the splits."""

    mean: float
    std: float
    splits: int

    def line(self, label: Label) -> str:
        """The score as a line, of the fakes."""
        score = f"{self.mean:.4f} +/- {self.std:.4f}"
        return f"{label('Inception Score')} {score} (of the fakes, {self.splits} splits)"

    def document(self) -> dict[str, object]:
        """Its keys of --json."""
        names = ("inception_score", "inception_score_std", "splits")
        return dict(zip(names, (self.mean, self.std, self.splits), strict=True))


def score_logits(logits: FeatureStore, splits: int, reporter: Reporter) -> InceptionScore:
    """The Inception Score of stored logits; says where n bounds it."""
    size = len(logits) // splits
    if size < logits.width:
        reporter.say(
            f"the Inception Score of splits of {size} images is at most {size}, whatever they "
            "show: compare it with scores of the same n and splits alone"
        )
    mean, std = inception_score(lambda rows: logits.take(rows).numpy(), len(logits), splits)
    return InceptionScore(mean, std, splits)


def inception_score(
    logits: Callable[[NDArray[np.intp]], NDArray[np.floating]], n: int, splits: int = SPLITS
) -> tuple[float, float]:
    """Inception Score (Salimans et al. 2016): mean and population deviation over equal splits.

    exp(E_x KL(p(y|x) || p(y))) of logits without bias. `logits` maps indices of the n images to
    (len(indices), classes), so that one split is in memory at a time. Images are shuffled first:
    files are often sorted by class, and a split of one class scores 1. Raises DdpmError where
    n < splits.
    """
    if not 1 <= splits <= n:
        raise DdpmError(
            f"{n} images cannot be divided into {splits} splits; choose fewer (--splits)"
        )
    order = shuffled(n)
    bounds = [i * n // splits for i in range(splits + 1)]
    scores = [_split_score(logits(order[start:end])) for start, end in pairwise(bounds)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(logits: NDArray[np.floating]) -> float:
    """exp(E_x KL(p(y|x) || p(y))) of one split's logits (n, classes), in float64.

    Raises DdpmError where they are not finite.
    """
    if not np.isfinite(logits).all():
        raise DdpmError("logits hold NaN or infinity: are the weights damaged?")
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    used = marginal > 0  # a class of probability 0 everywhere contributes 0, not 0 * log 0
    divergence = p[:, used] * (log_p[:, used] - np.log(marginal[used]))
    return float(np.exp(divergence.sum(axis=1).mean()))
