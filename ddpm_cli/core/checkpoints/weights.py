"""A weights file: a network's parameters and, in the metadata, the config that rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ddpm_cli.core.checkpoints import tensors
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.downloads import sha256_of

_KEY = "ddpm"  # of the metadata


class Weights(NamedTuple):
    """A trained network, read from a weights file."""

    network: UNet  # in evaluation mode, on the CPU
    config: RunConfig
    images: int  # images seen in training
    sha256: str  # of the file


def save(path: Path, state: dict[str, Tensor], config: RunConfig, images: int) -> None:
    """Write a weights file, atomically."""
    document = {"config": to_dict(config), "images": images}
    tensors.write(path, state, _KEY, tensors.as_text(document))


def describe(path: Path) -> RunConfig:
    """The config in a weights file, without its tensors. Raises DdpmError for any other file."""
    return _read(path, tensors.describe(path))[0]


def load(path: Path) -> Weights:
    """Read a weights file and build its network. Raises DdpmError for any other file."""
    file = tensors.read(path)
    config, images = _read(path, file.metadata)
    network = UNet(config.network)
    state = {tensors.current_name(name): tensor for name, tensor in file.tensors.items()}
    tensors.fill(network, state, path)
    return Weights(network.eval(), config, images, sha256_of(path))


def _read(path: Path, metadata: dict[str, str]) -> tuple[RunConfig, int]:
    """The config, and the images seen in training, of a weights file."""
    if _KEY not in metadata:
        raise DdpmError(
            f"{path} holds tensors but not the config of a ddpm run, so it cannot be sampled; "
            "weights of other tools have to be imported with ddpm convert"
        )
    document = tensors.document(path, metadata[_KEY])
    return from_dict(RunConfig, document["config"], f"the config in {path}"), document["images"]
