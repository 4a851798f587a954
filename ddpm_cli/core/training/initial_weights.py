"""Initial weights of a training from another run or file (--init-from)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.checkpoints.tensors import mismatches
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import WeightsOrigin
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights
from ddpm_cli.core.training.state import TrainingState

# Parts that the new network may have in addition: the embedding of a condition, blocks after the
# first of their stage, a transformer's last blocks and its attention to captions, which start as
# the identity; and its tokens of classes, which its attention gets used to.
_ADDED = re.compile(
    r"(embedding\.(class_map|text|text_map|augmented|given_noise|guidance)"
    r"|blocks\.\d+\.text|(.*\.)?blocks\.[1-9]\d*)\.|context$"
)
_CLASSES = "embedding.classes.weight"
_AUGMENTED = "embedding.augmented.weight"  # no effect without augmentation
_INPUTS = "inputs.weight"  # of which a given image adds columns, which start at 0
_OF_THE_TRAINING = ("classes", "multi_label", "null_class")  # network settings not taken over


class InitialWeights(NamedTuple):
    """Tensors that fit the new network, and the file they come from."""

    tensors: dict[str, Tensor]
    origin: WeightsOrigin


def settings(path: Path, run: Path | None) -> dict[str, Any]:
    """Network and noise process of the weights to start from, as settings of a RunConfig.

    Where the file is gone, those of a run that started from it. Raises DdpmError without either.
    """
    try:
        config = weights.describe(find_weights(path))
    except DdpmError:
        if run is None or not RunDirectory(run).config.is_file():
            raise
        config = RunDirectory(run).read_config()
    network = {k: v for k, v in to_dict(config.network).items() if k not in _OF_THE_TRAINING}
    data = {name: getattr(config.data, name) for name in ("given", "given_noise")}
    return {"network": network, "diffusion": to_dict(config.diffusion)} | {"data": data}


def read(path: Path, config: NetworkConfig) -> InitialWeights:
    """The weights of a run or a weights file, for the network that this config describes.

    The networks must be the same but for classes, captions and added blocks. Raises DdpmError with
    what does not fit.
    """
    file = find_weights(path)
    source = weights.load(file)
    tensors = dict(source.network.state_dict())
    with torch.device("meta"):
        expected = build(config).state_dict()
    if _CLASSES in expected:
        embeddings = tensors.get(_CLASSES, torch.zeros(1, expected[_CLASSES].shape[1]))
        tensors[_CLASSES] = _by_class_name(embeddings, source.config.network, config)
    if config.given_channels and not source.config.network.given_channels:
        more = expected[_INPUTS].shape[1] - tensors[_INPUTS].shape[1]
        tensors[_INPUTS] = nnf.pad(tensors[_INPUTS], (0, 0, 0, 0, 0, max(0, more)))
    if _AUGMENTED not in expected:
        tensors.pop(_AUGMENTED, None)
    needed = {name: t for name, t in expected.items() if not _is_added(name, tensors)}
    added = expected.keys() - needed.keys()
    if config.skip_scale != 1 and any(".blocks." in name for name in added):
        raise DdpmError(
            f"--init-from {path} scales its residual sums by {config.skip_scale:g}, and so would "
            "an added block: it cannot start as the identity. Leave out captions and --blocks"
        )
    if wrong := mismatches(tensors, needed):
        raise DdpmError(
            f"--init-from {path} is of another network than this training's: "
            f"{listed(wrong, separator='; ')}; "
            "leave out the options and settings that change the network"
        )
    return InitialWeights(tensors, WeightsOrigin(str(path), source.sha256))


def load_into(state: TrainingState, initial: InitialWeights) -> None:
    """Initialise network and average; parts that the weights lack keep their random values."""
    state.network.load_state_dict(initial.tensors, strict=False)
    state.average.load_state_dict(state.network.state_dict())


def _by_class_name(embeddings: Tensor, source: NetworkConfig, target: NetworkConfig) -> Tensor:
    """Class embeddings in the target's order; new classes start from the mean of the source's."""
    known = dict(zip(_row_names(source), embeddings, strict=False))
    mean = embeddings.mean(dim=0)
    return torch.stack([known.get(name, mean) for name in _row_names(target)])


def _row_names(config: NetworkConfig) -> list[str | None]:
    """The class of each row of the embedding; None: the null class."""
    return [*([None] if config.null_class else []), *config.classes]


def _is_added(name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a tensor belongs to a part that may be new and that the weights lack."""
    part = _ADDED.match(name)
    return part is not None and not any(known.startswith(part[0]) for known in tensors)
