"""What scores of real images against real ones say, and what guidance does to scores.

    ddpm train-classifier --data mnist-train.zip --out digits.safetensors
    ddpm train-classifier --data cifar10-train.zip --out colours.safetensors
    python docs/figures/scores.py --digits mnist-train.zip mnist-test.zip digits.safetensors \
        --colours cifar10-train.zip cifar10-test.zip colours.safetensors --run runs/mnist-train-28

The run is that of `ddpm train --data mnist:train --preset mnist --minutes 8` on two CPU cores.

- score-bias.png: the Frechet distance and KID of n training images against the test images, in the
  features of a classifier;
- score-guidance.png: distance, precision and recall of a run's samples by guidance.

The figures are printed as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import IMAGES, Pixels, plots, save_plots
from numpy.typing import NDArray

import ddpm_cli as ddpm
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.networks.extraction import load_local_extractor
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.kid import squared_mmd
from ddpm_cli.core.metrics.statistics import Statistics

OUTPUTS = ("score-bias.png", "score-guidance.png")

COUNTS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
REPEATS = 5  # random subsets of each count
STRENGTHS = (0.0, 1.0, 1.5, 2.0, 4.0, 8.0)
SAMPLES = 300  # for each strength
SETTINGS: dict[str, Any] = {"steps": 10, "sampler": "ipndm"}

Features = NDArray[np.float64]
"""(n, width)."""


def features(images: str, classifier: str) -> Features:
    """The features of all images of a folder, archive or data set."""
    extractor = load_local_extractor(Path(classifier), torch.device("cpu"), 64)
    opened = open_input(images)
    assert not isinstance(opened, Statistics)
    batches = extractor.features(opened.batches(slice(0, len(opened))))
    return torch.cat([found.pool for found in batches]).double().numpy()


def gaussian(x: Features) -> Gaussian:
    """The Gaussian that FID fits."""
    return Gaussian(x.mean(axis=0), np.cov(x, rowvar=False))


def bias(train: str, test: str, classifier: str) -> dict[int, Features]:
    """Distance and KID of n real images from other real images: by n, (REPEATS, 2)."""
    real, other = features(test, classifier), features(train, classifier)
    reference, random = gaussian(real), np.random.default_rng(0)
    scores = {}
    for n in [n for n in COUNTS if n <= len(other)]:
        rows = []
        for _ in range(REPEATS):
            chosen = other[random.choice(len(other), n, replace=False)]
            found, few = gaussian(chosen), min(n, 1000)
            both = torch.from_numpy(random.permutation(real)[:few]), torch.from_numpy(chosen[:few])
            distance = reference.distance(found.mean, found.covariance)
            rows.append((distance, squared_mmd(*both)))
        scores[n] = np.array(rows)
    return scores


def draw_bias(measured: dict[str, dict[int, Features]], path: Path) -> None:
    """Draw means and standard deviations by n, and print them."""
    figure, ((distances, kids),) = plots(1, 2, height=3.6)
    for name, scores in measured.items():
        for n, rows in scores.items():
            (fid, kid), (fid_std, kid_std) = rows.mean(0), rows.std(0)
            print(
                f"{name}, n = {n:,}: {fid:.4f} +/- {fid_std:.4f}, KID {kid:.5f} +/- {kid_std:.5f}"
            )
        mean, std = (np.array([f(rows, 0) for rows in scores.values()]) for f in (np.mean, np.std))
        for axes, column in ((distances, 0), (kids, 1)):
            values = mean[:, column], std[:, column]
            axes.errorbar(list(scores), *values, fmt="o-", ms=4, capsize=3, label=name)
    distances.set(ylabel="Frechet distance of features", xscale="log", yscale="log")
    kids.set(ylabel="KID of features", xscale="log")
    for axes in (distances, kids):
        axes.set_xlabel("n real images, against 10,000 others")
        axes.set_xticks([100, 1000, 10_000], ["100", "1,000", "10,000"])
    distances.legend()
    save_plots(path, figure)


MEASURES = ("fid", "precision", "recall")


def scored(real: str, images: Pixels, classifier: str) -> list[float]:
    """Distance, precision and recall of images, in the features of a classifier."""
    report = ddpm.evaluate(real, images, features=classifier, metrics=["fid", "prdc"])
    document: dict[str, Any] = report.document()
    return [document[name] for name in MEASURES]


def guidance(run: str, train: str, test: str, classifier: str) -> tuple[Features, Features]:
    """The MEASURES of samples by strength, (STRENGTHS, 3), and of real images, (3,)."""
    model, opened = ddpm.load(run), open_input(train)
    assert not isinstance(opened, Statistics)
    others = torch.cat(list(opened.batches(slice(0, len(opened))))).permute(0, 2, 3, 1).numpy()
    random, real = np.random.default_rng(0), []
    for _ in range(REPEATS):
        chosen = random.choice(len(others), SAMPLES, replace=False)
        real.append(scored(test, others[chosen], classifier))
    rows = [
        scored(test, model.sample(SAMPLES, guidance=strength, **SETTINGS), classifier)
        for strength in STRENGTHS
    ]
    return np.array(rows), np.mean(real, axis=0)


def draw_guidance(samples: Features, real: Features, path: Path) -> None:
    """Draw both by strength, and print them."""
    for name, row in zip(("real", *STRENGTHS), (real, *samples), strict=True):
        print(name, ", ".join(f"{key} {x:.3f}" for key, x in zip(MEASURES, row, strict=True)))
    figure, ((distance, shares),) = plots(1, 2, height=3.6)
    distance.plot(STRENGTHS, samples[:, 0], "o-", color="C2", label="samples")
    distance.axhline(real[0], ls="--", color="C2", label="real images")
    for column in (1, 2):
        line = {"color": f"C{column - 1}"}
        shares.plot(STRENGTHS, samples[:, column], "o-", label=MEASURES[column], **line)
        shares.axhline(real[column], ls="--", label="of real images", **line)
    distance.set(xlabel="guidance", ylabel="Frechet distance of features", ylim=(0, None))
    shares.set(xlabel="guidance", ylabel="share", ylim=(0, 1.02))
    distance.legend()
    shares.legend()
    save_plots(path, figure)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--digits", "--colours"):
        parser.add_argument(name, nargs=3, required=True, metavar=("TRAIN", "TEST", "CLASSIFIER"))
    parser.add_argument("--run", required=True, help="a run of the digits")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    chosen = parser.parse_args()
    measured = {"MNIST": bias(*chosen.digits), "CIFAR-10": bias(*chosen.colours)}
    draw_bias(measured, chosen.out / "score-bias.png")
    draw_guidance(*guidance(chosen.run, *chosen.digits), chosen.out / "score-guidance.png")


if __name__ == "__main__":
    main()
