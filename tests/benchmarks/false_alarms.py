"""How often `ddpm sample` finds something odd: about good samples, real images, planted faults.

    python tests/benchmarks/false_alarms.py RUN=DATA [RUN=DATA ...] [--draws 20] [--faults]

DATA: the images that the run was trained on, as --data. Their statistics are computed as a training
does, so runs of earlier versions serve too. Real images are those that were not looked at for them.
Of each draw, the finding that is told first is counted; `1 class` are draws of one class alone.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from ddpm_cli.core.conditioning.requests import ConditionPlan, ConditionRequest
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.sources import labels_for, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation.checks.findings import Inspection
from ddpm_cli.core.generation.generate import GenerationRequest, resolve_request, sample_batches
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.runtime.reporting import SILENT
from ddpm_cli.core.runtime.run_directory import find_weights
from ddpm_cli.core.training.appearance import chosen, statistics

Images = NDArray[np.uint8]  # (B, C, H, W)


def scaled(images: Images, factor: float, centre: float) -> Images:
    """Contrast times a factor about a grey level."""
    return np.clip((images - centre) * factor + centre, 0, 255).astype(np.uint8)


def noisy(images: Images) -> Images:
    """White noise of 16 grey levels."""
    noise = np.random.default_rng(0).normal(0, 16, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def one_colour(images: Images) -> Images:
    """Each image's mean colour everywhere."""
    return np.broadcast_to(images.mean(axis=(2, 3), keepdims=True), images.shape).astype(np.uint8)


def alike(images: Images) -> Images:
    """Close to the first image, all of them."""
    return (0.9 * images[:1] + 0.1 * images).astype(np.uint8)


FAULTS: dict[str, Callable[[Images], Images]] = {
    "dark": lambda images: scaled(images, 0.4, 0),
    "bright": lambda images: 255 - scaled(255 - images, 0.4, 0),
    "low contrast": lambda images: scaled(images, 0.4, images.mean()),
    "saturated": lambda images: scaled(images, 4, 127.5),
    "noise": noisy,
    "one colour": one_colour,
    "alike": alike,
}


def model_of(run: str, data: str) -> tuple[Model, Images, NDArray[np.int64]]:
    """The model with its statistics, and real images that these do not know, with labels."""
    model = load_model(find_weights(Path(run)), torch.device("cpu"), torch.float32)
    source = open_source(data, SILENT)
    images = loader.prepare(source, Transform.of(model.config), SILENT)
    images = replace(images, labels=labels_for(source, model.config.network, data, run))
    document = statistics(images, model.config).document()
    others = np.setdiff1d(np.arange(len(images)), chosen(images, model.config))
    others = np.random.default_rng(1).permutation(others)[:4000]
    pixels, labels = images.take(others)
    return model._replace(statistics=document), pixels.numpy(), labels.numpy()


def first_finding(model: Model, images: Images, labels: NDArray[np.int64]) -> str:
    """What is told of these images of these classes; "" for nothing."""
    plan = ConditionPlan(tuple(map(int, labels)) if model.config.network.classes else ())
    inspection = Inspection(model, GenerationRequest(len(images), 0, plan, Sampling(50)))
    inspection.add(range(len(images)), images)
    found = [finding.name for finding in inspection.findings() if finding.samples is not None]
    return found[0] if found else ""


def draws(labels: NDArray[np.int64], count: int, each: int, kind: str) -> Iterator[NDArray]:
    """Indices of images, `each` of them `count` times."""
    random = np.random.default_rng(0)
    for number in range(count):
        of_class = np.flatnonzero(labels == labels[number])
        if kind == "all":
            yield (np.arange(each) + number * each) % len(labels)
        elif len(of_class) >= each:
            yield random.choice(of_class, each, replace=False)


def report(model: Model, images: Images, labels: NDArray[np.int64], what: str, count: int) -> None:
    """Print how many draws of 1, 4, 16 and 64 images give a finding, and which."""
    for each, kind in ((1, "all"), (4, "all"), (16, "all"), (64, "all"), (16, "1 class")):
        most = len(labels) // each if kind == "all" else count
        sets = list(draws(labels, min(count * max(1, 16 // each), most), each, kind))
        found = Counter(first_finding(model, images[i], labels[i]) for i in sets)
        silent = found.pop("", 0)
        print(f"  {what:14} {each:3} {kind:8} {len(sets) - silent:3} of {len(sets)} {dict(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--faults", action="store_true", help="plant some in the samples, too")
    arguments = parser.parse_args()
    for run, _, data in (text.partition("=") for text in arguments.runs):
        model, real, labels = model_of(run, data)
        print(f"{run}: {model.images:,} images seen", flush=True)
        report(model, real, labels, "real", 10 * arguments.draws)
        count = arguments.draws * 16
        request = resolve_request(model, count, 0, ConditionRequest(), Sampling(), SILENT)
        batches = sample_batches(model, request, range(count), 64, SILENT)
        sampled = np.concatenate([images for _, images in batches])
        of = np.array([request.label_and_prompt(index)[0] or 0 for index in range(count)])
        report(model, sampled, of, "samples", arguments.draws)
        for name, fault in FAULTS.items() if arguments.faults else ():
            for each in (1, 4, 16):
                sets = list(draws(of, arguments.draws, each, "all"))
                found = Counter(first_finding(model, fault(sampled[i]), of[i]) for i in sets)
                print(f"  {name:14} {each:3} {dict(found)}")


if __name__ == "__main__":
    main()
