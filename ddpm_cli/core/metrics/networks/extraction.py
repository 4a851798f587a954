"""uint8 images -> features, from any iterable of batches: files and generators alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import classifier
from ddpm_cli.core.config import choices, paths
from ddpm_cli.core.config.choices import INCEPTION, LOCAL
from ddpm_cli.core.config.fields import did_you_mean, one_of
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.networks import protocols
from ddpm_cli.core.metrics.networks.inception import FidInception
from ddpm_cli.core.metrics.networks.named import NETWORKS
from ddpm_cli.core.metrics.networks.network import FeatureNetwork, Features
from ddpm_cli.core.metrics.statistics import FeatureOrigin
from ddpm_cli.core.models.classifier import Classifier
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.downloads import fetch, sha256_of
from ddpm_cli.core.runtime.reporting import Reporter

# images through the network at a time; elsewhere so few of a large network that the activations of
# its first layers (5 MB an image in Inception) do not leave the processor's cache
_ON_GPU, _ELSEWHERE, _LOCAL_ELSEWHERE = 256, 16, 64


@dataclass(frozen=True)
class Extractor:
    """A feature network and the protocol by which images are prepared for it."""

    network: FeatureNetwork
    weights_sha256: str
    protocol: protocols.Protocol
    device: torch.device
    batch: int = 64  # images through the network at a time; changes speed and memory only
    precision: torch.dtype = torch.float32
    weights: str = ""  # the weights file's name
    name: str = INCEPTION  # the network's

    @property
    def origin(self) -> FeatureOrigin:
        """Everything that the features depend on."""
        return FeatureOrigin(
            self.protocol.name,
            self.weights_sha256,
            devices.precision_name(self.precision),
            self.protocol.resize,
            self.weights or None,
            self.name,
        )

    def features(self, batches: Iterable[Tensor], *, spatial: bool = False) -> Iterator[Features]:
        """Features of uint8 batches (n, 1 or 3, H, W), of any n and any sizes, in order.

        spatial: also those of sFID, which only the Inception network has. Raises DdpmError where
        memory runs out.
        """
        network: Callable[[Tensor], Features] = self.network
        if spatial:
            assert isinstance(network, FidInception), "sFID is of the Inception network"
            network = partial(network, spatial=True)
        prepared = (
            self.protocol.prepare(part, self.device)
            for batch in batches
            for part in torch.split(batch, self.batch)
        )
        rebatched = _rebatched(prepared, self.batch)
        fix = f"it holds features of {self.batch} images at once; free some, or use --device cpu"
        while True:
            with devices.enough_memory(fix):
                if (x := next(rebatched, None)) is None:
                    return
                with devices.without_tf32(), devices.autocast(self.device, self.precision):
                    features = network(x.contiguous(memory_format=torch.channels_last))
            optional = (features.logits, features.spatial)
            logits, places = (None if part is None else part.float() for part in optional)
            yield Features(features.pool.float(), logits, places)


@dataclass(frozen=True)
class ExtractorSettings:
    """Which network extracts features, as the options name it: checked here, then loaded.

    Raises UsageError for unknown names and for options that contradict each other.
    """

    weights: Path | None = None  # a copy of the network's weights; None: the published ones
    features: str | Path | None = None  # a network's name, or a classifier; None: inception
    protocol: str | None = None  # None: the network's first
    batch: int | None = None  # images at a time; None: as many as keep the device busy
    precision: str = "fp32"  # or "bf16"
    prefix: str = "--"  # of the options --weights and --features, for messages

    def __post_init__(self) -> None:
        if self.network != LOCAL:
            protocols.protocol(self.protocol, self.network)
        else:
            self._check_classifier()
        one_of("--precision", self.precision, ("fp32", "bf16"))

    @property
    def network(self) -> str:
        """The network's name; LOCAL: a classifier's file."""
        if self.features is None:
            return INCEPTION
        return self.features if isinstance(self.features, str) and self._is_named else LOCAL

    @property
    def expected(self) -> FeatureOrigin:
        """What is known of the features before the network is loaded, or downloaded."""
        if self.network == LOCAL:
            return FeatureOrigin(choices.LOCAL_PROTOCOL, arithmetic=self.precision, features=LOCAL)
        published = NETWORKS[self.network].published.sha256 if self.weights is None else None
        name = protocols.protocol(self.protocol, self.network).name
        return FeatureOrigin(name, published, self.precision, features=self.network)

    @property
    def _is_named(self) -> bool:
        return self.features in NETWORKS

    def _check_classifier(self) -> None:
        for option, value in (("--weights", self.weights), ("--protocol", self.protocol)):
            if value is not None:
                raise UsageError(
                    f"{option} is of the networks {', '.join(NETWORKS)}, and has no meaning with a "
                    f"classifier as {self.prefix}features"
                )
        name = str(self.features)
        if not self._file.suffix and self._file.name == name and not self._file.exists():
            meant = did_you_mean(name, NETWORKS).removeprefix("; ")
            raise UsageError(
                f"{self.prefix}features {name}: no such file, nor a network's name; "
                f"{f'{meant} Or ' if meant else ''}choose one of {', '.join(NETWORKS)}, or a file "
                "of ddpm train-classifier"
            )

    @property
    def _file(self) -> Path:
        return paths.expanded(self.features or "")

    def load(self, device: torch.device, reporter: Reporter) -> Extractor:
        """Load the network on every rank; local rank 0 downloads it. Raises DdpmError."""
        precision = devices.choose_precision(self.precision, device)
        elsewhere = _LOCAL_ELSEWHERE if self.network == LOCAL else _ELSEWHERE
        batch = self.batch or (_ON_GPU if device.type == "cuda" else elsewhere)
        with distributed.local_rank0_first():
            if self.network == LOCAL:
                option = f"{self.prefix}features"
                return load_local_extractor(self._file, device, batch, precision, option)
            protocol = protocols.protocol(self.protocol, self.network)
            option = f"{self.prefix}weights"
            return load_extractor(
                self.weights, protocol, device, batch, reporter, precision, option, self.network
            )


def load_extractor(
    weights: Path | None,
    protocol: protocols.Protocol,
    device: torch.device,
    batch: int,
    reporter: Reporter,
    precision: torch.dtype = torch.float32,
    option: str = "--weights",
    name: str = INCEPTION,
) -> Extractor:
    """Load a named network from a weights file, or the published one, downloaded once.

    Raises DdpmError, which names the option of the file, where it is of another network or cannot
    be downloaded.
    """
    known = NETWORKS[name]
    path = weights or fetch(replace(known.published, option=f"{option} FILE"), reporter)
    network = known.load(path, device, option)
    sha256, file, published = sha256_of(path), path.name, known.published
    if sha256 in known.same:
        file = published.cache_path.name
        reporter.say(f"{path} (sha256 {sha256[:8]}…) holds the weights of {file}, and counts as it")
        sha256 = published.sha256
    elif sha256 != published.sha256:
        reporter.say(
            f"{path} (sha256 {sha256[:8]}…) is not the published weights file "
            f"({published.sha256[:8]}…): its scores compare only with scores of the same file"
        )
    return Extractor(network, sha256, protocol, device, batch, precision, file, name)


def load_local_extractor(
    path: Path,
    device: torch.device,
    batch: int,
    precision: torch.dtype = torch.float32,
    option: str = "--features",
) -> Extractor:
    """Load a classifier of `ddpm train-classifier` as the feature network.

    Its scores are not FID, and compare only with scores of the same file. Raises DdpmError where
    the file is no such classifier.
    """
    loaded = classifier.load(path, option)
    network = LocalFeatures(loaded.network.to(device))
    protocol = protocols.local_protocol(loaded.config.size, loaded.config.channels)
    return Extractor(network, sha256_of(path), protocol, device, batch, precision, path.name, LOCAL)


class LocalFeatures:
    """A classifier as a FeatureNetwork: its last hidden layer and its logits."""

    def __init__(self, network: Classifier) -> None:
        self._network = network.eval().requires_grad_(False)
        self.width, self.classes = network.width, network.classes

    def __call__(self, x: Tensor) -> Features:
        """Run the classifier on (N, C, H, W)."""
        hidden = self._network.features(x)
        return Features(hidden, self._network.head(hidden))


def _rebatched(chunks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup chunks of any lengths into batches of `size`; the last may be smaller."""
    pending: list[Tensor] = []
    count = 0
    for chunk in chunks:
        while len(chunk):
            part, chunk = chunk[: size - count], chunk[size - count :]
            pending.append(part)
            count += len(part)
            if count == size:
                yield torch.cat(pending)
                pending, count = [], 0
    if pending:
        yield torch.cat(pending)
