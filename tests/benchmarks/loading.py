"""Images per second of reading a data set: against torchvision, and against what training takes.

    python tests/benchmarks/loading.py IMAGES.zip [--images 50000] [--steps 20] [--folders 1000000]

IMAGES.zip holds images in class folders, such as CIFAR-10. They are written as JPEG files, into a
.zip for us and a folder for torchvision's ImageFolder, whose DataLoader has as many processes as
is best (0 to the number of cores). Both decode to uint8 tensors of 32x32.

- first pass: list, decode, and write the cache; torchvision: list and decode.
- second pass: take every image in random order; torchvision: decode again.
- started again: the same, after listing the images and opening the cache.
- loader alone: batches of cached images, noised, against the training of preset `mnist`.
- with --folders: the planning of a training on so many hard links to small images.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor
from training_speed import images_per_second  # beside this file

from ddpm_cli.core.config.presets import preset
from ddpm_cli.core.config.run import Budget, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.threads import cores
from ddpm_cli.core.training.trainer import Execution
from tests.support.training import batches_of

BATCH = 128
TRAINED = 16  # images in a step of training, which takes seconds on a CPU
TRANSFORM = Transform(3, (32, 32))
CPU = torch.device("cpu")

PLAN = """
import sys, time, torch
from pathlib import Path
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.training import session
from ddpm_cli.core.training.preparation.planning import plan_training
def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1000
before, started = megabytes("VmRSS"), time.monotonic()
plan = plan_training(TrainingRequest(sys.argv[1], out=Path("run")), SILENT, "cpu")
print(len(plan.source), time.monotonic() - started, megabytes("VmHWM") - before)
"""


def write_jpegs(archive: Path, count: int, folder: Path, out: Path) -> None:
    """The first `count` images as JPEG files, in class folders and in a .zip of the same names."""
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(out, "w") as written:
        names = [name for name in sorted(given.namelist()) if name.endswith((".png", ".jpg"))]
        for name in names[:: max(1, len(names) // count)][:count]:
            content = io.BytesIO()
            image = Image.open(io.BytesIO(given.read(name))).convert("RGB")
            image.save(content, "JPEG", quality=95)
            path = folder / f"{name[:-4]}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.getvalue())
            written.writestr(path.relative_to(folder).as_posix(), content.getvalue())


def seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def torchvision_pass(folder: Path, workers: int) -> None:
    dataset = ImageFolder(str(folder), PILToTensor())
    for _ in DataLoader(dataset, BATCH, shuffle=True, num_workers=workers):
        pass


def decoded(archive: Path) -> DecodedImages:
    return loader.prepare(open_source(str(archive)), TRANSFORM, SILENT)


def second_pass(images: DecodedImages) -> None:
    order = np.random.default_rng(0).permutation(len(images))
    for start in range(0, len(order), BATCH):
        images.take(order[start : start + BATCH])


def loader_alone(config: RunConfig, steps: int) -> float:
    """Images per second of batches as a training step takes them."""
    shape = (10_000, config.network.channels, *config.network.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = DecodedImages(pixels, np.full(len(pixels), -1), np.arange(len(pixels)))
    batches = batches_of(config, images)
    batch = config.optimiser.batch
    batches.draw(0, None)
    elapsed = seconds(lambda: [batches.draw(batch * step, None) for step in range(1, steps)])
    batches.close()
    return batch * (steps - 1) / elapsed


def mnist() -> RunConfig:
    """The preset, without classes: random images have none."""
    return replace(updated(RunConfig(), preset("mnist").settings), preview=0)


def rows(archive: Path, count: int, steps: int) -> Iterator[tuple[str, float, float, float]]:
    """What is measured, ours and the other's images per second, and the ratio that is wanted."""
    with tempfile.TemporaryDirectory() as place:
        folder, images = Path(place, "jpeg"), Path(place, "jpeg.zip")
        os.environ["DDPM_CACHE"] = str(Path(place, "cache"))
        write_jpegs(archive, count, folder, images)
        decoded_before = ImageFolder(str(folder), PILToTensor())[0]  # whatever is loaded once
        assert decoded_before[0].shape == (3, 32, 32)
        theirs = [count / seconds(lambda w=w: torchvision_pass(folder, w)) for w in workers()]
        print(dict(zip(workers(), [round(speed) for speed in theirs], strict=True)), "by processes")
        first = count / seconds(lambda: decoded(images))
        yield "first pass, against torchvision", first, max(theirs), 1
        opened = decoded(images)
        second = count / seconds(lambda: second_pass(opened))
        yield "second pass, against torchvision", second, max(theirs), 10
        again = count / seconds(lambda: second_pass(decoded(images)))
        yield "started again, against torchvision", again, max(theirs), 1
    config = mnist()
    small = updated(config, {"optimiser": {"batch": TRAINED}, "log_every": TRAINED})
    small = replace(small, budget=Budget(steps=steps), snapshot_every=10**6)
    trained = images_per_second(small, Execution(CPU), steps)
    yield "loader alone, against training", loader_alone(config, 200), trained, 20


def workers() -> list[int]:
    return sorted({0, 1, cores() - 1, cores()})


def plan_of_many(count: int) -> None:
    """Print the time and memory of planning a training on `count` images in 1,000 folders."""
    with tempfile.TemporaryDirectory() as place:
        for number in range(1000):
            folder = Path(place, "many", f"class{number:03}")
            folder.mkdir(parents=True)
            first = folder / "000000.png"
            Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(first)
            for index in range(1, count // 1000):
                os.link(first, folder / f"{index:06}.png")
        command = [sys.executable, "-c", PLAN, "many"]
        printed = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
        images, planning, memory = map(float, printed.stdout.split())
        print(f"{images:,.0f} files: {planning:.1f} s (20 s), {memory:.0f} MB more (300 MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folders", type=int, default=0)
    options = parser.parse_args()
    print(f"{cores()} cores, {options.images:,} images")
    print(f"{'':36}{'ours/s':>10}{'other/s':>10}{'ratio':>8}{'wanted':>8}")
    for what, ours, other, wanted in rows(options.archive, options.images, options.steps):
        print(f"{what:36}{ours:10,.0f}{other:10,.0f}{ours / other:8.2f}{wanted:8}", flush=True)
    if options.folders:
        plan_of_many(options.folders)


if __name__ == "__main__":
    main()
