"""FID, precision and recall where features have two dimensions and can be drawn. Needs no run.

    python docs/figures/gaussians.py

- frechet.png: two sets of points, the Gaussians fitted to them, and the two parts of the distance;
- precision-recall.png: good samples, too little diversity, and poor fidelity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from drawing import options, plots, save_plots
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.scores.frechet import frechet_distance
from ddpm_cli.core.metrics.scores.prdc import prdc
from ddpm_cli.core.runtime.reporting import Silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTPUTS = ("frechet.png", "precision-recall.png")

COUNT = 150  # points of each set
REAL, FAKE = "C0", "C1"

Points = NDArray[np.float64]
"""(n, 2)."""


def moments(points: Points) -> tuple[Points, Points]:
    """Mean (2,) and covariance (2, 2)."""
    return points.mean(axis=0), np.cov(points, rowvar=False)


def ellipse(axes: Axes, points: Points, colour: str) -> None:
    """The Gaussian of points: its mean, and an ellipse at two standard deviations."""
    mean, covariance = moments(points)
    values, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(*vectors[::-1, 1]))
    width, height = 4 * np.sqrt(values[::-1])
    shape = Ellipse((mean[0], mean[1]), width, height, angle=angle, fill=False, ec=colour, lw=2)
    axes.add_patch(shape)
    axes.plot(*mean, "+", color=colour, ms=12, mew=2.5)


def scattered(axes: Axes, real: Points, fake: Points) -> None:
    """Both sets of points."""
    axes.plot(*real.T, "o", ms=3.5, color=REAL, alpha=0.45, mew=0, label="real")
    axes.plot(*fake.T, "o", ms=3.5, color=FAKE, alpha=0.6, mew=0, label="samples")
    axes.set(aspect="equal", xlim=(-4, 4), ylim=(-3.4, 3.4), xticks=[], yticks=[])


def frechet(random: np.random.Generator) -> dict[str, tuple[Points, Points]]:
    """Real and sampled points that differ in the mean, in the covariance, and not at all."""

    def drawn(mean: tuple[float, float], covariance: list[list[float]]) -> Points:
        return random.multivariate_normal(mean, covariance, COUNT)

    round_, narrow = [[1.0, 0.5], [0.5, 0.7]], [[0.25, -0.05], [-0.05, 0.12]]
    return {
        "another mean": (drawn((-1, 0), round_), drawn((1.4, 0.3), round_)),
        "another covariance": (drawn((0, 0), round_), drawn((0, 0), narrow)),
        "the same": (drawn((0, 0), round_), drawn((0, 0), round_)),
    }


def modes(random: np.random.Generator, places: Points, deviation: float) -> Points:
    """Points around some places."""
    at = places[np.arange(COUNT) % len(places)]
    return at + deviation * random.standard_normal((COUNT, 2))


def shares(real: Points, fake: Points) -> tuple[float, float]:
    """Precision and recall as `ddpm fid` computes them, of points in place of features."""
    stores = FeatureStore(2), FeatureStore(2)
    for store, points in zip(stores, (real, fake), strict=True):
        store.append(torch.from_numpy(points))
    found = prdc(*stores, Silent())
    return found.precision, found.recall


def main() -> None:
    """Draw both."""
    folder, random = options(__doc__).out, np.random.default_rng(0)

    figure, (row,) = plots(1, 3, height=2.9)
    for axes, (name, (real, fake)) in zip(row, frechet(random).items(), strict=True):
        scattered(axes, real, fake)
        ellipse(axes, real, REAL)
        ellipse(axes, fake, FAKE)
        (mean1, sigma1), (mean2, sigma2) = moments(real), moments(fake)
        gap = float(np.square(mean1 - mean2).sum())
        whole = frechet_distance(mean1, sigma1, mean2, sigma2)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel(f"means {gap:.2f} + spread {whole - gap:.2f} = {whole:.2f}", fontsize=10)
    row[0].legend(loc="lower right", fontsize=9, handletextpad=0.1)
    save_plots(folder / "frechet.png", figure)

    angles = np.arange(6) * np.pi / 3
    places = 2.2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    figure, (row,) = plots(1, 3, height=2.9)
    real = modes(random, places, 0.3)
    cases = {
        "good": modes(random, places, 0.3),
        "too little diversity": modes(random, places[:2], 0.2),
        "poor fidelity": modes(random, places, 1.0),
    }
    for axes, (name, fake) in zip(row, cases.items(), strict=True):
        scattered(axes, real, fake)
        precision, recall = shares(real, fake)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel(f"precision {precision:.2f}, recall {recall:.2f}", fontsize=10)
    row[0].legend(loc="center", fontsize=9, handletextpad=0.1)
    save_plots(folder / "precision-recall.png", figure)


if __name__ == "__main__":
    main()
