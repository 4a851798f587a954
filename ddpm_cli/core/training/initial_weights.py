"""The weights that a new training starts from, where they are not random: another network's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints.tensors import listed, misfits
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import WeightsOrigin
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights
from ddpm_cli.core.training.state import State

# What a network may have more: the reading of a condition, and blocks that follow others in their
# stage, which start as the identity.
_ADDED = re.compile(r"(embedding\.(class_map|text|text_map|augmented)|.*\.blocks\.[1-9]\d*)\.")
_CLASSES = "embedding.classes.weight"
_AUGMENTED = "embedding.augmented.weight"  # without effect on pictures that were not moved
_OWN = ("classes", "null_class")  # settings of a network that follow the new training


class Start(NamedTuple):
    """Weights that fit a network, and where they lie."""

    tensors: dict[str, Tensor]
    origin: WeightsOrigin


def settings(path: Path, run: Path | None) -> dict[str, Any]:
    """Network and noise process of the weights to start from, as settings of a RunConfig.

    Where they are gone, those of a run that started from them. Raises DdpmError without either.
    """
    try:
        config = weights.describe(find_weights(path))
    except DdpmError:
        if run is None or not RunDirectory(run).config.is_file():
            raise
        config = RunDirectory(run).read_config()
    network = {k: v for k, v in to_dict(config.network).items() if k not in _OWN}
    return {"network": network, "diffusion": to_dict(config.diffusion)}


def read(path: Path, config: NetworkConfig) -> Start:
    """The weights of a run or a weights file, for the network that this config describes.

    It has to be theirs, but for classes, captions and blocks that they lack. Raises DdpmError with
    what does not fit.
    """
    file = find_weights(path)
    held = weights.load(file)
    tensors = dict(held.network.state_dict())
    with torch.device("meta"):
        wanted = UNet(config).state_dict()
    if _CLASSES in wanted:
        rows = tensors.get(_CLASSES, torch.zeros(1, wanted[_CLASSES].shape[1]))
        tensors[_CLASSES] = _by_name(rows, held.config.network, config)
    if _AUGMENTED not in wanted:
        tensors.pop(_AUGMENTED, None)
    needed = {name: tensor for name, tensor in wanted.items() if not _is_added(name, tensors)}
    if config.skip_scale != 1 and any(".blocks." in name for name in wanted.keys() - needed.keys()):
        raise DdpmError(
            f"--init-from {path} scales its residual sums by {config.skip_scale:g}, and so would a "
            "block more: it cannot start without effect. Leave out captions and --blocks"
        )
    if wrong := misfits(tensors, needed):
        raise DdpmError(
            f"--init-from {path} is of another network than this training's: {listed(wrong)}; "
            "leave out the options and settings that change the network"
        )
    return Start(tensors, WeightsOrigin(str(path), held.sha256))


def give(state: State, start: Start) -> None:
    """Start a fresh state's network and average from these weights; what they lack stays."""
    state.network.load_state_dict(start.tensors, strict=False)
    state.average.load_state_dict(state.network.state_dict())


def _by_name(rows: Tensor, held: NetworkConfig, wanted: NetworkConfig) -> Tensor:
    """The embeddings of the classes wanted; new ones start from the mean of those held."""
    known = dict(zip(_rows(held), rows, strict=False))
    return torch.stack([known.get(name, rows.mean(dim=0)) for name in _rows(wanted)])


def _rows(config: NetworkConfig) -> list[str | None]:
    """Whose embedding each row is; None: no class's."""
    return [*([None] if config.null_class else []), *config.classes]


def _is_added(name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether this tensor is of a part that may be new, of which there is nothing yet."""
    part = _ADDED.match(name)
    return part is not None and not any(known.startswith(part[0]) for known in tensors)
