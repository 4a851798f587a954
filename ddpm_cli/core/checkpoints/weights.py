"""A weights file: a network's tensors and, inside, the config that rebuilds it."""

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
    """A trained network and where it comes from."""

    network: UNet  # in evaluation mode, on the CPU
    config: RunConfig
    images: int  # images seen in training
    sha256: str  # of the file


def save(path: Path, state: dict[str, Tensor], config: RunConfig, images: int) -> None:
    """Write a weights file, whole or not at all."""
    tensors.write(path, state, {_KEY: {"config": to_dict(config), "images": images}})


def describe(path: Path) -> RunConfig:
    """The config in a weights file, without its tensors. Raises DdpmError for another file."""
    return _read(path, tensors.describe(path))[0]


def load(path: Path) -> Weights:
    """Read a weights file and build its network. Raises DdpmError for a file of something else."""
    held = tensors.read(path)
    config, images = _read(path, held.about)
    network = UNet(config.network)
    tensors.fill(network, held.tensors, path)
    return Weights(network.eval(), config, images, sha256_of(path))


def _read(path: Path, about: dict[str, str]) -> tuple[RunConfig, int]:
    """The config and the images seen in training, from a weights file's metadata."""
    if _KEY not in about:
        raise DdpmError(
            f"{path} holds tensors but not the config of a ddpm run, so it cannot be sampled; "
            "other people's weights go through ddpm convert"
        )
    document = tensors.document(path, about[_KEY])
    return from_dict(RunConfig, document["config"], f"the config in {path}"), document["images"]
