"""What files, resizing and the number of images do to a distance, of real images alone.

    ddpm train-classifier --data mnist-train.zip --epochs 1 --out digits.safetensors
    ddpm train-classifier --data cifar10-train.zip --epochs 1 --out colours.safetensors
    python docs/figures/score_files.py --digits mnist-train.zip mnist-test.zip digits.safetensors \
        --colours cifar10-train.zip cifar10-test.zip colours.safetensors

- score-files.png: the Frechet distance of test images from themselves, saved as JPEG or resized, in
  the features of a classifier;
- score-infinity.png: FID-infinity, of training images against the test images.

The figures are printed as well.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from drawing import IMAGES, Pixels, plots, save_plots
from PIL import Image

from ddpm_cli.core.metrics.feature_store import FeatureStore
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.metrics.networks.extraction import load_local_extractor
from ddpm_cli.core.metrics.scores.frechet import Gaussian
from ddpm_cli.core.metrics.scores.infinity import FidInfinity, fid_infinity
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import Silent

OUTPUTS = ("score-files.png", "score-infinity.png")

CHANGED = 2000  # images that are changed
QUALITIES = (95, 90, 75, 50)
SMALL = 12  # pixels of a side
BATCH = 64
FAKES = (5000, 20_000)  # real images in the place of fakes
Filter = Image.Resampling

Features = torch.Tensor
"""(N, width)."""


def pixels(images: str, count: int) -> Pixels:
    """So many images of a folder, archive or data set, chosen at random: (N, H, W, C)."""
    opened = open_input(images)
    assert not isinstance(opened, Statistics)
    everything = torch.cat(list(opened.batches(slice(0, len(opened)))))
    chosen = np.random.default_rng(0).choice(len(everything), count, replace=False)
    return everything[torch.from_numpy(chosen)].permute(0, 2, 3, 1).numpy()


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as a JPEG file holds it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def there_and_back(image: Image.Image) -> Image.Image:
    """Twice as large and back, bilinear."""
    width, height = image.size
    double = image.resize((2 * width, 2 * height), Filter.BILINEAR)
    return double.resize((width, height), Filter.BILINEAR)


def shrunk(resampling: Filter) -> Callable[[Image.Image], Image.Image]:
    """Resizing to SMALL as Pillow does it: antialiased, but for the nearest pixel."""
    return lambda image: image.resize((SMALL, SMALL), resampling)


def without_antialiasing(image: Image.Image) -> Image.Image:
    """Resizing to SMALL between the four nearest pixels, as PyTorch's default does it."""
    values = torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(values.float(), (SMALL, SMALL), mode="bilinear")
    found = small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return Image.fromarray(found.squeeze())


FILES: dict[str, Callable[[Image.Image], Image.Image]] = {
    f"JPEG {quality}": lambda image, quality=quality: jpeg(image, quality) for quality in QUALITIES
} | {"twice as large\nand back": there_and_back}
REFERENCE = shrunk(Filter.BICUBIC)
SHRUNK: dict[str, Callable[[Image.Image], Image.Image]] = {
    "Lanczos,\nantialiased": shrunk(Filter.LANCZOS),
    "bilinear,\nantialiased": shrunk(Filter.BILINEAR),
    "bilinear, not\nantialiased": without_antialiasing,
    "nearest\npixel": shrunk(Filter.NEAREST),
}


def changed(images: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Each image changed: (N, h, w, C)."""
    found = [np.asarray(change(Image.fromarray(image.squeeze()))) for image in images]
    return np.stack(found).reshape(len(images), *found[0].shape[:2], -1)


def features(images: Pixels, classifier: str) -> Features:
    """A classifier's features of images (N, H, W, C): (N, width)."""
    extractor = load_local_extractor(Path(classifier), torch.device("cpu"), BATCH)
    batches = [torch.from_numpy(images).permute(0, 3, 1, 2)]
    return torch.cat([found.pool for found in extractor.features(batches)])


def gaussian(found: Features) -> Gaussian:
    """The Gaussian that FID fits."""
    x = found.double().numpy()
    return Gaussian(x.mean(axis=0), np.cov(x, rowvar=False))


def distances(train: str, test: str, classifier: str) -> dict[str, float]:
    """The distances after each change, and of as many other real images ("")."""
    images = pixels(test, CHANGED)

    def fitted(found: Pixels) -> Gaussian:
        return gaussian(features(found, classifier))

    real, small, other = map(fitted, (images, changed(images, REFERENCE), pixels(train, CHANGED)))
    measured = {"": real.distance(other.mean, other.covariance)}
    for first, changes in ((real, FILES), (small, SHRUNK)):
        for name, change in changes.items():
            fake = fitted(changed(images, change))
            measured[name] = first.distance(fake.mean, fake.covariance)
    return measured


def draw_files(measured: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the distances as bars, and print them."""
    figure, ((files, sizes),) = plots(1, 2, height=4.4)
    for place, (data, found) in enumerate(measured.items()):
        print(f"{data}: other real images {found['']:.4f}")
        for axes, names in ((files, FILES), (sizes, SHRUNK)):
            values = [found[name] for name in names]
            rows = np.arange(len(names)) + (place - 0.5) * 0.4
            axes.barh(rows, values, height=0.38, color=f"C{place}", label=data)
            line = {"color": f"C{place}", "ls": "--", "lw": 1.5}
            axes.axvline(found[""], label=f"other real {data}", **line)
            for name, value in zip(names, values, strict=True):
                print(f"{data}, {name.replace(chr(10), ' ')}: {value:.4f}")
    lowest = min(value for found in measured.values() for value in found.values()) / 2
    highest = max(value for found in measured.values() for value in found.values()) * 2
    for axes, names, title in (
        (files, FILES, "saved, or enlarged and back"),
        (sizes, SHRUNK, f"made {SMALL}x{SMALL}, against bicubic"),
    ):
        axes.set_yticks(range(len(names)), list(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set(xscale="log", xlabel="Frechet distance of features", xlim=(lowest, highest))
        axes.set_title(title, fontsize=11)
    figure.legend(*files.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_plots(path, figure)


def lines(train: str, test: str, classifier: str) -> dict[int, FidInfinity]:
    """FID-infinity of so many training images against all test images, by their number."""
    opened = open_input(test)
    assert not isinstance(opened, Statistics)
    real = gaussian(features(pixels(test, len(opened)), classifier))
    found = features(pixels(train, max(FAKES)), classifier)
    scores = {}
    for n in FAKES:
        store = FeatureStore(found.shape[1])
        store.append(found[:n])
        scores[n] = fid_infinity(real, store, Silent())
    return scores


def draw_infinity(measured: Mapping[str, Mapping[int, FidInfinity]], path: Path) -> None:
    """Draw distances by 1/N with their lines, and print where these end."""
    figure, (panels,) = plots(1, len(measured), height=3.6)
    for axes, (data, found) in zip(panels, measured.items(), strict=True):
        for place, (n, score) in enumerate(found.items()):
            sizes, colour = np.array(score.sizes, float), f"C{place}"
            ends = np.array([0, 1 / sizes[0]])
            print(
                f"{data}, {n:,}: distance {score.fids[-1]:.4f}, of {sizes[0]:.0f} "
                f"{score.fids[0]:.4f}, at 0 {score.value:.4f} +/- {score.std:.4f}"
            )
            slope = np.polyfit(1 / sizes, score.fids, 1)[0]
            axes.plot(1 / sizes, score.fids, "o", ms=4, color=colour, label=f"of {n:,} images")
            axes.plot(ends, score.value + slope * ends, "-", lw=1, color=colour)
            marker = {"fmt": "D", "mfc": "white", "ms": 10 - 4 * place, "capsize": 4}
            axes.errorbar(0, score.value, score.std, color=colour, zorder=3, **marker)
        ticks = (2000, 1000, 500)
        axes.set_xticks([0, *(1 / n for n in ticks)], ["0", *(f"1/{n:,}" for n in ticks)])
        axes.set(title=data, xlabel="1/N", ylabel="distance of N images")
        axes.axhline(0, color="black", lw=0.8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_plots(path, figure)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--digits", "--colours"):
        parser.add_argument(name, nargs=3, required=True, metavar=("TRAIN", "TEST", "CLASSIFIER"))
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    chosen = parser.parse_args()
    data = {"MNIST": chosen.digits, "CIFAR-10": chosen.colours}
    draw_files({name: distances(*files) for name, files in data.items()}, chosen.out / OUTPUTS[0])
    draw_infinity({name: lines(*files) for name, files in data.items()}, chosen.out / OUTPUTS[1])


if __name__ == "__main__":
    main()
