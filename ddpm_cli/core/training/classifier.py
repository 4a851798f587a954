"""Training of the classifier whose features serve for local scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.config.fields import above_zero, number
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.loader import prepare
from ddpm_cli.core.data.order import SampleOrder
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.reporting import Reporter

HOLDOUT = 0.1  # share of the images held out to measure the accuracy
MAX_HOLDOUT = 5000  # images
MAX_SIZE = 64  # pixels of height and width
_SHIFT = 2  # pixels, of the random shifts
_EVALUATION_BATCH = 500  # images


@dataclass(frozen=True)
class ClassifierTraining:
    """Hyperparameters: AdamW with a one-cycle learning rate (Smith and Topin 2019)."""

    epochs: int = 3
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        above_zero("--epochs", self.epochs)
        number(most=10**6)("--batch", self.batch)
        above_zero("--lr", self.lr)


def train_classifier(
    data: str,
    recipe: ClassifierTraining,
    device: torch.device,
    reporter: Reporter,
    *,
    skip_bad: bool = False,
) -> tuple[Classifier, ClassifierConfig]:
    """Train on a labelled data set or folder; returns the network and its config with accuracy.

    Raises DdpmError where the images have fewer than two classes or the training diverges.
    """
    source = open_source(data, reporter, training=True)
    for notice in source.notices:
        reporter.say(notice)
    if len(source.classes) < 2:
        raise DdpmError(
            f"{data} has {len(source.classes)} classes; a classifier needs at least two: "
            "a folder of class folders, or a data set with labels"
        )
    height, width = source.native_size
    size = (min(height, MAX_SIZE), min(width, MAX_SIZE))
    channels = 1 if source.native_channels == 1 else 3
    images = prepare(source, Transform(channels, size), reporter, skip_bad=skip_bad)
    holdout = min(MAX_HOLDOUT, int(HOLDOUT * len(images)))
    training, held_out = images.split(holdout, recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(recipe.seed, "weights"))
        config = ClassifierConfig(size, channels, source.classes, data)
        network = Classifier(config).to(device).to(memory_format=torch.channels_last)
    _train(network, training, recipe, device, reporter)
    return network.eval(), replace(config, accuracy=accuracy(network, held_out, device))


def _train(
    network: Classifier,
    data: DecodedImages,
    recipe: ClassifierTraining,
    device: torch.device,
    reporter: Reporter,
) -> None:
    steps = recipe.epochs * math.ceil(len(data) / recipe.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=steps)
    order = SampleOrder(len(data), recipe.seed)
    smooth = math.nan
    network.train()
    with reporter.bar("training the classifier", steps * recipe.batch, "images") as bar:
        for step in range(steps):
            images, labels = data.take(order.indices(step * recipe.batch, recipe.batch))
            images = _shifted(images, seeds.generator(recipe.seed, "shift", step))
            logits = network(to_unit(images.to(device)))
            loss = functional.cross_entropy(logits, labels.to(device), label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            scheduler.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DdpmError(f"the loss became {value} at step {step + 1}; try a smaller --lr")
            smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
            bar.update((step + 1) * recipe.batch, f"loss {smooth:.3f} of smoothed labels")


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift a batch by up to 2 pixels, so that features do not depend on the exact position."""
    down, right = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images.float(), (_SHIFT,) * 4, mode="replicate").to(torch.uint8)
    height, width = images.shape[2:]
    top, left = _SHIFT + down, _SHIFT + right
    return padded[:, :, top : top + height, left : left + width]


@torch.no_grad()
def accuracy(network: Classifier, data: DecodedImages, device: torch.device) -> float:
    """Share of images that are classified correctly; NaN of none."""
    network.eval()
    correct = 0
    for start in range(0, len(data), _EVALUATION_BATCH):
        indices = np.arange(start, min(start + _EVALUATION_BATCH, len(data)))
        images, labels = data.take(indices)
        predictions = network(to_unit(images.to(device))).argmax(dim=1).cpu()
        correct += int((predictions == labels).sum())
    return correct / len(data) if len(data) else math.nan
