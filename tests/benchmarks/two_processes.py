"""Images per second of two processes of one thread, compared with one process of two threads.

    python tests/benchmarks/two_processes.py [--images 19200] [--pairs 3] [--preset mnist]

Both are `ddpm train` on the CPU, on the same random images of 28x28 with the same global batch. The
speed is that in metrics.jsonl, without the first fifth of the images and the last save.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ddpm_cli.core.data import files
from ddpm_cli.core.runtime.run_directory import RunDirectory


def speed(run: Path, images: int) -> float:
    """Images per second from the first fifth of the training to the last row."""
    rows = [row for row in RunDirectory(run).rows() if row["images"] >= images / 5]
    first, last = rows[0], rows[-1]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def train(folder: Path, name: str, processes: int, options: argparse.Namespace) -> float:
    command = ["train", "--data", folder / "images", "--preset", options.preset, "--preview", 0]
    command += ["--images", options.images, "--snapshot-every", options.images, "--device", "cpu"]
    command += ["--out", folder / name, "--nproc", processes]
    subprocess.run(
        [sys.executable, "-m", "ddpm_cli", *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": str(2 // processes)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return speed(folder / name, options.images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=19_200)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--preset", default="mnist")
    options = parser.parse_args()
    rng, ratios = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for i in range(1_000):
            pixels = rng.integers(0, 256, (1, 28, 28), dtype=np.uint8)
            files.write_png(folder / "images" / f"{i:04}.png", pixels)
        for pair in range(options.pairs):
            order = (1, 2) if pair % 2 else (2, 1)
            speeds = {n: train(folder, f"{pair}-{n}", n, options) for n in order}
            ratios.append(speeds[2] / speeds[1])
            print(
                f"pair {pair + 1}: two processes {speeds[2]:,.0f} images/s, one {speeds[1]:,.0f}, "
                f"ratio {ratios[-1]:.3f}"
            )
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
