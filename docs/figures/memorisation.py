"""What `ddpm memorisation` draws, of fakes of which one in twenty is a copy.

    ddpm train-classifier --data cifar10-train.zip --out colours.safetensors
    python docs/figures/memorisation.py --train cifar10-train.zip --test cifar10-test.zip \
        --classifier colours.safetensors

The fakes are 950 test images and 50 copies of training images: shifted, mirrored, brightened and
darkened. Held out are other test images.

- memorisation-pairs.png: some of the nearest pairs;
- memorisation-distances.png: both distributions.

The verdict is printed as well.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from drawing import Pixels, options, reduce

from ddpm_cli.core.metrics.inputs.opening import ArrayImages, open_input
from ddpm_cli.core.metrics.memorisation.compare import compare
from ddpm_cli.core.metrics.memorisation.outputs import PLOT, SHEET, write_results
from ddpm_cli.core.metrics.memorisation.report import MemorisationReport
from ddpm_cli.core.metrics.networks.extraction import load_local_extractor
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime.reporting import SILENT

OUTPUTS = ("memorisation-pairs.png", "memorisation-distances.png")

TRAINING, HELD_OUT, FAKES, COPIES = 10_000, 2500, 1000, 50
SHOWN = 24  # pairs, of the nearest 72


def pixels_of(name: str, count: int) -> Pixels:
    """So many images of a folder, archive or data set, evenly chosen: (count, H, W, C)."""
    images = open_input(name)
    assert not isinstance(images, Statistics)
    every = torch.cat(list(images.batches(slice(0, len(images)))))
    return every[np.linspace(0, len(every) - 1, count).astype(int)].permute(0, 2, 3, 1).numpy()


def copied(image: Pixels, kind: int) -> Pixels:
    """Shifted by two pixels, mirrored, brightened or darkened."""
    if kind == 0:
        return np.pad(image, ((2, 0), (0, 2), (0, 0)), mode="edge")[:-2, 2:]
    if kind == 1:
        return image[:, ::-1]
    return (image * (1.2 if kind == 2 else 0.7) + (20 if kind == 2 else 0)).clip(0, 255)


def main() -> None:
    """Draw both."""
    arguments = options(
        __doc__ or "",
        train="the training images: a folder, archive or data set",
        test="images that are not among them",
        classifier="of ddpm train-classifier",
    )
    extractor = load_local_extractor(Path(arguments.classifier), torch.device("cpu"), 64)
    train = pixels_of(arguments.train, TRAINING)
    new = pixels_of(arguments.test, HELD_OUT + FAKES - COPIES)
    order = np.random.default_rng(0).permutation(len(new))
    originals = train[np.linspace(0, TRAINING - 1, COPIES).astype(int)]
    copies = [copied(image, i % 4).astype(np.uint8) for i, image in enumerate(originals)]
    fakes = np.concatenate([new[order[HELD_OUT:]], np.stack(copies)])
    fake, training, held_out = map(ArrayImages, (fakes, train, new[order[:HELD_OUT]]))
    comparison = compare(fake, training, held_out, extractor, SILENT)
    report = MemorisationReport.of(comparison, extractor.origin, fake, training, held_out)
    print(report.lines())
    every = len(report.pairs) // SHOWN
    shown = replace(report, pairs=report.pairs[:: max(1, every)][:SHOWN])
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder), comparison, shown, {})
        for name, output in zip((SHEET, PLOT), OUTPUTS, strict=True):
            shutil.copyfile(Path(folder) / name, arguments.out / output)
            reduce(arguments.out / output)


if __name__ == "__main__":
    main()
