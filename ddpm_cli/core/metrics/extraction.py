"""uint8 pictures -> features: any iterable of batches, files and generators alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_cli.core.metrics.inception import PUBLISHED, Features, FidInception, load_inception
from ddpm_cli.core.metrics.protocols import Protocol
from ddpm_cli.core.runtime.downloads import fetch, sha256_of
from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class Extractor:
    """The network, and how pictures are put into it."""

    network: FidInception
    weights_sha256: str
    protocol: Protocol
    device: torch.device
    batch: int = 64  # pictures through the network at a time; changes speed and memory only

    def features(self, pictures: Iterable[Tensor]) -> Iterator[Features]:
        """Turn uint8 batches (n, 1 or 3, H, W), of any n and any sizes, into features, in order."""
        prepared = (
            self.protocol.prepare(part.to(self.device))
            for batch in pictures
            for part in torch.split(batch, self.batch)
        )
        for x in _rebatched(prepared, self.batch):
            # TF32 would round what goes into a convolution to 10 bits; features must agree to 1e-4
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
                features = self.network(x.contiguous(memory_format=torch.channels_last))
            yield features


def load_extractor(
    weights: Path | None, protocol: Protocol, device: torch.device, batch: int, reporter: Reporter
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
    return Extractor(network, sha256, protocol, device, batch)


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
