"""How well `ddpm memorisation` finds planted copies, and how often it finds some in new images.

    ddpm train-classifier --data mnist-train.zip --epochs 1 --out digits.safetensors
    python tests/benchmarks/memorisation_calibration.py mnist-train.zip mnist-test.zip \
        digits.safetensors

Every draw splits the test images at random into held-out ones and the fakes of a model that copies
nothing, of which a share is then replaced by copies of training images: exact, JPEG of quality 50,
shifted by 2 pixels, mirrored, brightened (1.2 x + 20), in equal parts.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.metrics.inputs.opening import ArrayImages, open_input
from ddpm_cli.core.metrics.memorisation.compare import Compared, compare
from ddpm_cli.core.metrics.memorisation.report import COPY, Below
from ddpm_cli.core.metrics.memorisation.statistics import auth_pct, c_t, excess, share
from ddpm_cli.core.metrics.networks.extraction import load_local_extractor
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import SILENT

Pixels = NDArray[np.uint8]
"""(N, H, W, C)."""

EACH = 200  # copies of each kind
SHARES = (0.0, 0.01, 0.05, 0.1)
DRAWS = 500


def jpeg(images: Pixels) -> Pixels:
    """Saved as JPEG of quality 50, and read again."""
    found = []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image.squeeze()).save(content, "JPEG", quality=50)
        found.append(np.asarray(Image.open(content)).reshape(image.shape))
    return np.stack(found)


def shifted(images: Pixels) -> Pixels:
    """By 2 pixels in one of eight directions; what comes in repeats the edge."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    places = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4) if (y, x) != (2, 2)]
    chosen = [places[i % len(places)] for i in range(len(images))]
    return np.stack(
        [p[y : y + height, x : x + width] for p, (y, x) in zip(padded, chosen, strict=True)]
    )


def blurred(images: Pixels) -> Pixels:
    """Each pixel the mean of 3x3."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(float)
    height, width = images.shape[1:3]
    parts = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.mean(parts, axis=0).round().astype(np.uint8)


def noisy(images: Pixels) -> Pixels:
    """With noise of 10 grey levels."""
    noise = 10 * np.random.default_rng(1).standard_normal(images.shape)
    return (images + noise).clip(0, 255).round().astype(np.uint8)


KINDS: dict[str, Callable[[Pixels], Pixels]] = {
    "exact": lambda x: x,
    "JPEG": jpeg,
    "shifted": shifted,
    "mirrored": lambda x: x[:, :, ::-1],
    "brightened": lambda x: (1.2 * x + 20).clip(0, 255).astype(np.uint8),
}


class Distances(NamedTuple):
    """What a draw takes rows of."""

    relative: NDArray[np.float64]
    features: NDArray[np.float64]
    own: NDArray[np.float64]

    @classmethod
    def of(cls, found: Compared) -> Distances:
        """Those of compared images."""
        return cls(found.pixels.relative, found.features, found.own)

    def take(self, rows: NDArray[np.intp]) -> Distances:
        """Some of them."""
        return Distances(*(values[rows] for values in self))

    def and_(self, other: Distances) -> Distances:
        """These, then others."""
        return Distances(*map(np.concatenate, zip(self, other, strict=True)))


def found(fakes: Distances, held_out: Distances) -> dict[str, float]:
    """The numbers of one draw."""
    near = [share(int((x.relative < COPY).sum()), len(x.relative)) for x in (fakes, held_out)]
    copied = excess(*near)
    return {
        "share": copied.value,
        "low": copied.low,
        "high": copied.high,
        "below": Below.of(fakes.relative, held_out.relative).fakes.value,
        "auth": auth_pct(fakes.features, fakes.own),
        "c_t": c_t(fakes.features, held_out.features),
    }


def draws(
    new: Distances, held_out: Distances, copies: Distances, planted: float, count: int, half: int
) -> dict[str, NDArray[np.float64]]:
    """The numbers of many draws: new images, of which a share is replaced by copies."""
    random, rows = np.random.default_rng(0), []
    apart = new is not held_out
    for _ in range(DRAWS):
        order = random.permutation(len(held_out.relative))
        pool = random.permutation(len(new.relative)) if apart else order[half:]
        k = round(planted * count)
        fakes = new.take(pool[: count - k])
        chosen = random.choice(len(copies.relative), k, replace=False)
        rows.append(found(fakes.and_(copies.take(chosen)), held_out.take(order[:half])))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def row(name: str, planted: float, x: dict[str, NDArray[np.float64]]) -> str:
    """One line of the table."""
    value, low, high = (100 * x[key] for key in ("share", "low", "high"))
    inside = np.mean((low <= 100 * planted) & (100 * planted <= high))
    return (
        f"| {name} | {100 * planted:g} % | {value.mean():.1f} % | {value.min():.1f} to "
        f"{value.max():.1f} % | {100 * inside:.0f} % | {100 * np.mean(low > 0):.1f} % | "
        f"{100 * x['below'].mean():.1f} % | {x['auth'].mean():.1f} | {x['c_t'].mean():+.1f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--fakes", type=int, default=2000)
    parser.add_argument("--training", type=int, default=10_000, help="training images, at most")
    arguments = parser.parse_args()
    extractor = load_local_extractor(arguments.classifier, torch.device("cpu"), 64)
    every, test = (open_input(name) for name in (arguments.train, arguments.test))
    assert not isinstance(every, Statistics) and not isinstance(test, Statistics)
    train = ArrayImages(pixels_of(every, min(arguments.training, len(every))))
    originals = pixels_of(train, EACH * len(KINDS))
    copies = [make(originals[i * EACH : (i + 1) * EACH]) for i, make in enumerate(KINDS.values())]
    compared = compare(ArrayImages(np.concatenate(copies)), train, test, extractor, SILENT)
    planted, new = Distances.of(compared.fakes), Distances.of(compared.held_out)
    half, count = len(new.relative) // 2, arguments.fakes
    print("| fakes | planted | found, mean | least to most | in the interval | called copies | "
          "nearer than the 1st percentile | AuthPct | C_T |")  # fmt: skip
    print("| --- |" + " ---: |" * 8)
    for value in SHARES:
        print(row("all kinds", value, draws(new, new, planted, value, count, half)), flush=True)
    for i, kind in enumerate(KINDS):
        one = planted.take(np.arange(i * EACH, (i + 1) * EACH))
        print(row(kind, 0.05, draws(new, new, one, 0.05, count, half)), flush=True)
    some = pixels_of(test, count)
    for name, make in (("new, blurred", blurred), ("new, noisy", noisy)):
        changed = compare(ArrayImages(make(some)), train, test, extractor, SILENT)
        other = Distances.of(changed.fakes)
        print(row(name, 0.0, draws(other, new, planted, 0.0, count, half)), flush=True)


def pixels_of(images: object, count: int) -> Pixels:
    """The pixels of some images, evenly chosen, (count, H, W, C)."""
    every = torch.cat(list(images.batches(slice(0, len(images)))))  # type: ignore
    rows = np.linspace(0, len(every) - 1, count).astype(int)
    return every[rows].permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
