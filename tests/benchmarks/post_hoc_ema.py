"""Averages rebuilt after a training, against those tracked directly in it: a table of errors.

    python -m tests.benchmarks.post_hoc_ema mnist mnist-train.zip --out runs/averages

Trains a preset with --ema-every, which also tracks power averages of other lengths; then rebuilds
these from 4, 8, … of the stored pairs. The error is |rebuilt - tracked| / |tracked| over all
weights; beside it that of the stored average of .10, and the error of the profile, which
`ddpm ema` says. With a run in --out that is there, the training is left out. --step measures
instead what the averages cost: processor time of a step with them and without, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import ddpm_cli as ddpm
from ddpm_cli.core.checkpoints import post_hoc, tensors
from ddpm_cli.core.checkpoints.profiles import Profile
from ddpm_cli.core.data.loader import prepare
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training import state
from ddpm_cli.core.training.batches import Batches
from ddpm_cli.core.training.state import TrainingState
from ddpm_cli.core.training.step import Step

LENGTHS = (0.02, 0.03, 0.07, 0.15, 0.2, 0.25)
CPU = torch.device("cpu")
DIRECT = "tracked"  # a folder in the run


def train(options: argparse.Namespace) -> None:
    """Train once, with all lengths tracked, of which those that are no default are stored last."""
    store = post_hoc.store

    def stored(run: RunDirectory, averages: Any, config: Any, images: int, *rest: Any) -> None:
        usual = {x: average for x, average in averages.items() if x in post_hoc.TRACKED}
        store(run, usual, config, images, *rest)
        if images >= options.images:
            others = {x: average for x, average in averages.items() if x not in usual}
            store(RunDirectory(run.path / DIRECT), others, config, images, *rest)

    budget = {"images": options.images}
    every, narrow = options.images // options.stores, {"width": options.width}
    config = ddpm.config(
        options.preset,
        preview=0,
        budget=budget,
        ema_every=every,
        network=narrow if options.width else {},
    )
    with (
        mock.patch.object(state, "TRACKED", (*post_hoc.TRACKED, *LENGTHS)),
        mock.patch.object(post_hoc, "store", stored),
    ):
        ddpm.train(config, options.data, out=options.out, progress=True)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """|one - other| / |other|, over all weights."""
    total = sum(float((one[name] - x).double().square().sum()) for name, x in other.items())
    norm = sum(float(x.double().square().sum()) for x in other.values())
    return (total / norm) ** 0.5


def thinned(run: RunDirectory, count: int, folder: Path) -> RunDirectory:
    """A run with `count` of the stored pairs, at equal intervals until the end."""
    there = sorted({one.profile.images for one in post_hoc.stored(run)})
    kept = there[len(there) // count - 1 :: len(there) // count]
    chosen = RunDirectory(folder)
    chosen.power_averages.mkdir()
    for images in kept:
        for length in post_hoc.TRACKED:
            path = post_hoc.path_of(run, Profile(images, length))
            (chosen.power_averages / path.name).symlink_to(path.absolute())
    return chosen


def table(run: RunDirectory, stores: int) -> None:
    """Print a row for each number of stored pairs."""
    direct = {
        one.profile.sigma_rel: tensors.read(one.path).tensors
        for one in post_hoc.stored(RunDirectory(run.path / DIRECT))
    }
    print("| stored pairs |", " | ".join(f"{x:g}" for x in direct), "|")
    print("| ---: |", " | ".join("---:" for _ in direct), "|")
    usual = post_hoc.rebuilt(run, 0.1).tensors
    apart = (f"{difference(usual, exact):.1e}" for exact in direct.values())
    print("| the average of .10 |", " | ".join(apart), "|")
    count = 4
    while count <= stores:
        cells = []
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(post_hoc, "USELESS", 9.0):
            chosen = thinned(run, count, Path(folder))
            for length, exact in direct.items():
                found = post_hoc.rebuilt(chosen, length)
                cells.append(f"{difference(found.tensors, exact):.1e} ({found.error:.1%})")
        print(f"| {count} |", " | ".join(cells), "|", flush=True)
        count *= 2


def measure_step(options: argparse.Namespace) -> None:
    """Print milliseconds of a step on one thread, with the averages of --ema-every and without."""
    torch.set_num_threads(1)
    source = open_source(options.data, SILENT, training=True)
    config = ddpm.config(options.preset, ema_every=1000)
    size, network = source.native_size, config.network
    network = replace(network, size=size, channels=source.native_channels, classes=source.classes)
    config = replace(config, network=network)
    training = TrainingState.initial(config, CPU)
    schedule = schedules.from_config(config.diffusion)
    denoiser = Denoiser(training.network, schedule, config.diffusion.parameterisation)
    images = prepare(source, Transform.of(config), SILENT)
    with closing(Batches(config, denoiser, images, CPU)) as batches:
        shard = batches.draw(0, None)
    step = Step(config, training, training.network, denoiser, CPU, torch.float32, None, SILENT)
    training.progress.images = 100 * config.optimiser.batch
    kept, seconds = training.power_averages, dict[bool, list[float]]({True: [], False: []})
    for _ in range(24):
        for on, found in seconds.items():
            training.power_averages = kept if on else {}
            started = time.thread_time()
            step(shard, training.decays(config.optimiser))
            found.append(time.thread_time() - started)
    for on, found in seconds.items():
        print(f"{'with' if on else 'without'}: {1000 * median(found[2:]):.1f} ms")


def main() -> None:
    """Read the options, train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=20_480)
    parser.add_argument("--stores", type=int, default=64)
    parser.add_argument("--width", type=int, help="of the network, instead of the preset's")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", action="store_true")
    options = parser.parse_args()
    if options.step:
        measure_step(options)
        return
    if options.out is None:
        parser.error("--out is missing")
    if not (options.out / DIRECT).is_dir():
        train(options)
    with torch.no_grad():
        table(RunDirectory(options.out), options.stores)


if __name__ == "__main__":
    main()
