"""A stand-in for a trained classifier, and images on disk, for the tests of metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ddpm_cli.core.checkpoints import classifier
from ddpm_cli.core.data import files
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig


def shapes(folder: Path, first: int, n: int, noise: float = 0.0, step: int = 1) -> Path:
    """Write images of the built-in data set, plus noise, into class folders; step 0 repeats one."""
    source, rng = Shapes(), np.random.default_rng(first)
    for i in range(n):
        index = first + step * i
        pixels = source.image(index, Transform(3, (16, 16))) + noise * rng.standard_normal(
            (3, 16, 16)
        )
        name = source.classes[source.labels[index]]
        files.write_png(folder / name / f"{i}.png", pixels.round().clip(0, 255).astype(np.uint8))
    return folder


def write_classifier(path: Path, seed: int = 0) -> Path:
    """Write a classifier with seeded weights and batch-norm statistics of the shapes."""
    config = ClassifierConfig((16, 16), 3, Shapes.classes, "shapes", width=8, accuracy=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(config)
    source = Shapes()
    images = torch.from_numpy(
        np.stack([source.image(i, Transform(3, (16, 16))) for i in range(60)])
    )
    network.train()
    with torch.no_grad():
        for _ in range(40):
            network(images / 127.5 - 1)
    classifier.save(path, network.eval(), config)
    return path
