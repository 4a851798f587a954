"""uint8 pictures -> features: any iterable of batches, files and generators alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import classifier
from ddpm_cli.core.metrics.inception import PUBLISHED, Features, load_inception
from ddpm_cli.core.metrics.protocols import Protocol as PictureProtocol
from ddpm_cli.core.metrics.protocols import local_protocol
from ddpm_cli.core.metrics.statistics import FeatureOrigin
from ddpm_cli.core.models.classifier import Classifier
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.downloads import fetch, sha256_of
from ddpm_cli.core.runtime.reporting import Reporter


class FeatureNetwork(Protocol):
    """What turns prepared pictures into features."""

    width: int  # numbers in Features.pool
    classes: int  # numbers in Features.logits

    def __call__(self, x: Tensor) -> Features:
        """Run on prepared pictures (N, C, H, W)."""


@dataclass(frozen=True)
class Extractor:
    """The network, and how pictures are put into it."""

    network: FeatureNetwork
    weights_sha256: str
    protocol: PictureProtocol
    device: torch.device
    batch: int = 64  # pictures through the network at a time; changes speed and memory only
    precision: torch.dtype = torch.float32
    weights: str = ""  # the weights file's name

    @property
    def origin(self) -> FeatureOrigin:
        """All that its features depend on."""
        how = self.protocol
        arithmetic = "bf16" if self.precision == torch.bfloat16 else "fp32"
        return FeatureOrigin(
            how.name, self.weights_sha256, arithmetic, how.resize, self.weights or None
        )

    def features(self, pictures: Iterable[Tensor]) -> Iterator[Features]:
        """Turn uint8 batches (n, 1 or 3, H, W), of any n and any sizes, into features, in order."""
        prepared = (
            self.protocol.prepare(part.to(self.device))
            for batch in pictures
            for part in torch.split(batch, self.batch)
        )
        for x in _rebatched(prepared, self.batch):
            # TF32 would round what goes into a convolution to 10 bits; features must agree to 1e-4
            with (
                torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
                devices.autocast(self.device, self.precision),
            ):
                found = self.network(x.contiguous(memory_format=torch.channels_last))
            yield Features(found.pool.float(), found.logits.float())


def load_extractor(
    weights: Path | None,
    protocol: PictureProtocol,
    device: torch.device,
    batch: int,
    reporter: Reporter,
    precision: torch.dtype = torch.float32,
) -> Extractor:
    """Load the network from a weights file, or from the published one, downloaded once.

    Raises DdpmError where the file is another's or cannot be had.
    """
    path = weights or fetch(PUBLISHED, reporter)
    network = load_inception(path, device)
    sha256 = sha256_of(path)
    if sha256 != PUBLISHED.sha256:
        reporter.say(
            f"{path} (sha256 {sha256[:8]}…) is not the published weights file "
            f"({PUBLISHED.sha256[:8]}…): its scores compare only with scores of the same file"
        )
    return Extractor(network, sha256, protocol, device, batch, precision, path.name)


def load_local_extractor(
    path: Path, device: torch.device, batch: int, precision: torch.dtype = torch.float32
) -> Extractor:
    """Take a classifier of `ddpm train-classifier` in the Inception network's place.

    Its scores say how alike pictures are to that classifier: they are not FID, and compare only
    with scores of the same file. Raises DdpmError where the file is no such classifier.
    """
    held = classifier.load(path)
    network = LocalFeatures(held.network.to(device))
    config = held.config
    how = local_protocol(config.size, config.channels)
    return Extractor(network, sha256_of(path), how, device, batch, precision, path.name)


class LocalFeatures:
    """A classifier's last hidden layer and its logits, under the names that scores know."""

    def __init__(self, network: Classifier) -> None:
        self._network = network.eval().requires_grad_(False)
        self.width, self.classes = network.width, network.classes

    def __call__(self, x: Tensor) -> Features:
        """Run the classifier on (N, C, H, W)."""
        hidden = self._network.features(x)
        return Features(hidden, self._network.head(hidden))


def _rebatched(chunks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    count = 0
    for chunk in chunks:
        while len(chunk):
            part, chunk = chunk[: size - count], chunk[size - count :]
            held.append(part)
            count += len(part)
            if count == size:
                yield torch.cat(held)
                held, count = [], 0
    if held:
        yield torch.cat(held)
