"""A weights file: a network's tensors and, inside, the config that rebuilds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from ddpm_cli.core.config import RunConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.plain import from_dict, to_dict
from ddpm_cli.core.runtime.atomic import replacing
from ddpm_cli.core.runtime.downloads import sha256_of

_KEY = "ddpm"  # of the metadata


class Weights(NamedTuple):
    """A trained network and where it comes from."""

    network: UNet  # in evaluation mode, on the CPU
    config: RunConfig
    images: int  # images seen in training
    sha256: str  # of the file


def save(path: Path, tensors: dict[str, Tensor], config: RunConfig, images: int) -> None:
    """Write a weights file, whole or not at all."""
    about = json.dumps({"config": to_dict(config), "images": images})
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        partial.write_bytes(serialised(stored, metadata={"format": "pt", _KEY: about}))


def load(path: Path) -> Weights:
    """Read a weights file and build its network. Raises DdpmError for a file of something else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DdpmError(f"{path} is not a weights file of ddpm (safetensors): {error}") from error
    if about is None:
        raise DdpmError(
            f"{path} holds tensors but not the config of a ddpm run, so it cannot be sampled"
        )
    document = json.loads(about)
    config = from_dict(RunConfig, document["config"], f"the config in {path}")
    network = UNet(config.network)
    _fill(network, tensors, path)
    return Weights(network.eval(), config, int(document["images"]), sha256_of(path))


def _fill(network: UNet, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        name for name in sorted(wanted.keys() | held.keys()) if wanted.get(name) != held.get(name)
    ]
    if wrong:
        first = "; ".join(f"{name}: {held.get(name)}, not {wanted.get(name)}" for name in wrong[:3])
        raise DdpmError(f"{path} does not fit the network its config describes: {first}")
    network.load_state_dict(tensors)
