"""A small convolutional classifier, whose last hidden layer gives features for metrics.

For data far from ImageNet (digits, drawings, scans), or where the weights of the FID Inception
network cannot be downloaded, a classifier trained on the data's own classes replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is built from, and what it was trained on."""

    size: tuple[int, int]  # height, width in pixels
    channels: int  # 1 or 3
    labels: tuple[str, ...]  # class names
    data: str  # as passed to --data
    width: int = 32  # channels of the first level; the features are four times as many
    accuracy: float = 0.0  # on held-out images


class Classifier(nn.Module):
    """Three levels of two convolutions each; images (N, C, H, W) in [-1, 1] -> logits (N, K)."""

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
    """Two convolutions with batch norm (Ioffe and Szegedy 2015), and max pooling but at the end."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, *([] if last else [nn.MaxPool2d(2)]))
