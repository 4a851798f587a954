"""The short training of the classifier whose features serve as a local metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.data.loader import DecodedImages, SampleOrder, prepare
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.reporting import Reporter

HOLDOUT = 0.1  # share of the pictures kept out to measure the accuracy on, at most
HOLDOUT_MOST = 5000  # pictures
LARGEST = 64  # pixels a side
_SHIFT = 2  # pixels by which pictures are moved at random
_AT_A_TIME = 500  # pictures in an evaluation


@dataclass(frozen=True)
class Recipe:
    """How the classifier learns: AdamW, a learning rate that rises and falls once."""

    epochs: int = 3
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name} must be more than 0, not {getattr(self, name)}")


def train_classifier(
    data: str, recipe: Recipe, device: torch.device, reporter: Reporter, *, skip_bad: bool = False
) -> tuple[Classifier, ClassifierConfig]:
    """Train on a labelled data set or folder; the network, and its config with the accuracy.

    Raises DdpmError where the pictures have fewer than two classes or the training diverges.
    """
    source = open_source(data)
    if len(source.classes) < 2:
        raise DdpmError(
            f"{data} has {len(source.classes)} classes; a classifier needs two at least: "
            "a folder of class folders, or a data set with labels"
        )
    height, width = source.native_size
    size = (min(height, LARGEST), min(width, LARGEST))
    channels = 1 if source.native_channels == 1 else 3
    pictures = prepare(source, channels, size, reporter, skip_bad=skip_bad)
    kept_out = min(HOLDOUT_MOST, int(HOLDOUT * len(pictures)))
    training, held_out = pictures.split(kept_out, recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(recipe.seed, "weights"))
        config = ClassifierConfig(size, channels, source.classes, data)
        network = Classifier(config).to(device).to(memory_format=torch.channels_last)
    _learn(network, training, recipe, device, reporter)
    return network.eval(), replace(config, accuracy=accuracy(network, held_out, device))


def _learn(
    network: Classifier,
    pictures: DecodedImages,
    recipe: Recipe,
    device: torch.device,
    reporter: Reporter,
) -> None:
    steps = recipe.epochs * math.ceil(len(pictures) / recipe.batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=steps)
    order = SampleOrder(len(pictures), recipe.seed)
    smooth = math.nan
    network.train()
    with reporter.bar("learning classes", steps * recipe.batch, "images") as bar:
        for step in range(steps):
            images, labels = pictures.take(order.indices(step * recipe.batch, recipe.batch))
            images = _moved(images, seeds.generator(recipe.seed, "shift", step))
            logits = network(to_unit(images.to(device)))
            loss = functional.cross_entropy(logits, labels.to(device), label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            rate.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DdpmError(f"the loss became {value} at step {step + 1}; try a smaller --lr")
            smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
            bar.update((step + 1) * recipe.batch, f"loss {smooth:.3f}")


def _moved(images: Tensor, random: torch.Generator) -> Tensor:
    """Move a batch by up to 2 pixels, so that features do not hang on a picture's very place."""
    down, right = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=random).tolist()
    padded = functional.pad(images.float(), (_SHIFT,) * 4, mode="replicate").to(torch.uint8)
    height, width = images.shape[2:]
    top, left = _SHIFT + down, _SHIFT + right
    return padded[:, :, top : top + height, left : left + width]


@torch.no_grad()
def accuracy(network: Classifier, pictures: DecodedImages, device: torch.device) -> float:
    """Share of pictures whose class the network names; NaN of none."""
    network.eval()
    right = 0
    for start in range(0, len(pictures), _AT_A_TIME):
        chosen = np.arange(start, min(start + _AT_A_TIME, len(pictures)))
        images, labels = pictures.take(chosen)
        answers = network(to_unit(images.to(device))).argmax(dim=1).cpu()
        right += int((answers == labels).sum())
    return right / len(pictures) if len(pictures) else math.nan
