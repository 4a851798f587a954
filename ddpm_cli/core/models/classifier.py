"""A small convolutional classifier, whose last hidden layer serves as features for scores.

Where the FID Inception says little (digits, drawings, scans) or its weights are out of reach, a
network that learned to tell the classes of such pictures apart gives features that do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ddpm_cli.core.checkpoints import tensors
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError

_KEY = "ddpm-classifier"  # of the metadata


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that rebuilds a classifier, and what it learned from."""

    size: tuple[int, int]  # height, width in pixels
    channels: int  # 1 or 3
    labels: tuple[str, ...]  # class names
    data: str  # as given to --data
    width: int = 32  # channels of the first level; features: four times as many
    accuracy: float = 0.0  # on pictures kept out of its training


class Classifier(nn.Module):
    """Three levels of two convolutions each; pictures (N, C, H, W) in [-1, 1] -> logits (N, K)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        widths = (config.channels, config.width, 2 * config.width, 4 * config.width)
        levels = [_level(widths[i], widths[i + 1], last=i == 2) for i in range(3)]
        self.body = nn.Sequential(*levels, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], len(config.labels))
        self.width, self.classes = widths[-1], len(config.labels)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (N, width): means of activations, at least 0."""
        hidden: Tensor = self.body(x)
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _level(inputs: int, outputs: int, *, last: bool) -> nn.Sequential:
    """Two convolutions with batch norm (Ioffe and Szegedy 2015), then half the resolution."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, *([] if last else [nn.MaxPool2d(2)]))


class LoadedClassifier(NamedTuple):
    """A classifier read from its file."""

    network: Classifier  # in evaluation mode, on the CPU
    config: ClassifierConfig


def save(path: Path, network: Classifier, config: ClassifierConfig) -> None:
    """Write a classifier with what rebuilds it, whole or not at all."""
    tensors.write(path, network.state_dict(), {_KEY: to_dict(config)})


def load(path: Path) -> LoadedClassifier:
    """Read a classifier. Raises DdpmError for a file of something else."""
    if not path.is_file():
        raise DdpmError(f"--features {path}: no such file; ddpm train-classifier makes one")
    held = tensors.read(path)
    if _KEY not in held.about:
        raise DdpmError(
            f"--features {path} holds no classifier of ddpm train-classifier; "
            "FID Inception weights go to --weights"
        )
    about = tensors.document(path, held.about[_KEY])
    config = from_dict(ClassifierConfig, about, f"the config in {path}")
    network = Classifier(config)
    tensors.fill(network, held.tensors, path)
    return LoadedClassifier(network.eval(), config)
