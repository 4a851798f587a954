"""A stand-in for a trained classifier, and pictures on disk, for the tests of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ddpm_cli.core.checkpoints import classifier
from ddpm_cli.core.data import files
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig


def shapes(folder: Path, first: int, n: int, noise: float = 0.0, step: int = 1) -> Path:
    """Pictures of the built-in set in class folders, with noise on top; step 0: always the same."""
    source, rng = Shapes(), np.random.default_rng(first)
    for i in range(n):
        shown = first + step * i
        pixels = source.image(shown, 3, (16, 16)) + noise * rng.standard_normal((3, 16, 16))
        name = source.classes[source.labels[shown]]
        files.write_png(folder / name / f"{i}.png", pixels.round().clip(0, 255).astype(np.uint8))
    return folder


def write_classifier(path: Path, seed: int = 0) -> Path:
    """A classifier with seeded weights whose batch norms have seen the shapes."""
    config = ClassifierConfig((16, 16), 3, Shapes.classes, "shapes", width=8, accuracy=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(config)
    source = Shapes()
    seen = torch.from_numpy(np.stack([source.image(i, 3, (16, 16)) for i in range(60)]))
    network.train()
    with torch.no_grad():
        for _ in range(40):
            network(seen / 127.5 - 1)
    classifier.save(path, network.eval(), config)
    return path
