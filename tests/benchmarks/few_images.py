"""From how many epochs on a model copies few images: the table of docs/training.md.

    python tests/benchmarks/few_images.py mnist-train.zip --counts 24:16000 100:44000 500:110000

Each training is of so many random images of the archive for so many images seen, with the preset
`mnist` at 16x16 and a constant learning rate; 1,000 others are held out. 64 samples of every kept
snapshot are compared with the images trained on, by the Euclidean distance of pixels: a sample is a
copy where its nearest image is less than a third as far as the next (Yoon et al. 2023).
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import ddpm_cli
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory

HELD_OUT, SAMPLES, COPY = 1000, 64, 1 / 3


def extract(archive: Path, names: list[str], folder: Path) -> Path:
    """Write images of an archive into one folder, without their classes."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as source:
        for name in names:
            (folder / name.replace("/", "_")).write_bytes(source.read(name))
    return folder


def train(images: Path, held_out: Path, budget: int, out: Path, more: list[str]) -> None:
    """Train, or go on; a validation and a snapshot that is kept at each sixteenth."""
    constant = out.parent / "constant.toml"
    constant.write_text("[optimiser]\ndecay = 0.0\n")
    every = str(budget // 16)
    command = [sys.executable, "-m", "ddpm_cli", "train", "--data", str(images), "--out", str(out)]
    command += ["--holdout-data", str(held_out), "--preset", "mnist", "--size", "16"]
    command += ["--config", str(constant), "--images", str(budget), "--preview", "0", "--quiet"]
    for option in ("--validate-every", "--snapshot-every", "--keep-every"):
        command += [option, every]
    subprocess.run([*command, *more], check=True)


def pixels(folder: Path, run: RunDirectory) -> NDArray[np.float64]:
    """The images of a folder as a run sees them, (N, pixels)."""
    source, transform = open_source(str(folder), SILENT), Transform.of(run.read_config())
    images = [source.image(i, transform).reshape(-1) for i in range(len(source))]
    return np.array(images, dtype=float)


def report(count: int, run: RunDirectory, images: NDArray[np.float64]) -> None:
    """Print a row of the table for each kept snapshot."""
    rows = {row["images"]: row for row in run.rows()}
    for snapshot in sorted(run.snapshots.glob("*.pt")):
        row = rows[int(snapshot.stem)]
        model = ddpm_cli.load(snapshot, device="cpu")
        samples = model.sample(SAMPLES, steps=25, eta=0).reshape(SAMPLES, -1).astype(float)
        nearest, second = np.sort(cdist(samples, images), axis=1)[:, :2].T
        ratios = [row[f"loss_holdout_q{q}"] / row[f"loss_trained_q{q}"] for q in range(4)]
        print(
            f"| {count} | {row['images'] / count:.0f} | {row['loss_holdout']:.4f} | "
            f"{row['loss_trained']:.4f} | {', '.join(f'{ratio:.2f}' for ratio in ratios)} | "
            f"{np.median(nearest):.0f} | {100 * np.mean(nearest < COPY * second):.0f} % |",
            flush=True,
        )


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--counts", nargs="+", metavar="N:IMAGES", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/few-images"))
    given, more = parser.parse_known_args()
    with zipfile.ZipFile(given.archive) as source:
        names = sorted(source.namelist())
    random.Random(0).shuffle(names)
    held_out = extract(given.archive, names[-HELD_OUT:], given.out / "held-out")
    for count, budget in (map(int, each.split(":")) for each in given.counts):
        folder = extract(given.archive, names[:count], given.out / f"images-{count}")
        run = RunDirectory(given.out / f"run-{count}")
        train(folder, held_out, budget, run.path, more)
        images = pixels(folder, run)
        others = cdist(pixels(held_out, run), images).min(axis=1)
        print(f"{count} images; images held out are {np.median(others):.0f} from the nearest")
        report(count, run, images)


if __name__ == "__main__":
    main()
