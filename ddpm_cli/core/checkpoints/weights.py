"""A network's parameters and the config that rebuilds it: a weights file, or a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddpm_cli.core.checkpoints import snapshots, tensors
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import from_dict, to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import Network
from ddpm_cli.core.runtime import content
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.run_directory import run_of_snapshot

_KEY = "ddpm"  # of the metadata


class Weights(NamedTuple):
    """A trained network, read from a weights file or a snapshot."""

    network: Network  # in evaluation mode, on the CPU
    config: RunConfig
    images: int  # images seen in training
    sha256: str  # of the file
    statistics: Any = None  # of the training images, as JSON values; None in older files
    sigma_rel: float | None = None  # as of a Description


class Description(NamedTuple):
    """What a weights file says of itself."""

    config: RunConfig
    images: int
    statistics: Any
    sigma_rel: float | None = None  # of an average with a power profile; None: another one


def save(
    path: Path,
    state: Mapping[str, Tensor],
    config: RunConfig,
    images: int,
    statistics: Any = None,
    sigma_rel: float | None = None,
) -> None:
    """Write a weights file, atomically.

    statistics: of the training images, as JSON values. sigma_rel: of an average with a power
    profile.
    """
    document = {"config": to_dict(config), "images": images}
    document |= {} if statistics is None else {"statistics": statistics}
    document |= {} if sigma_rel is None else {"sigma_rel": sigma_rel}
    tensors.write(path, state, _KEY, tensors.as_text(document))


def describe(path: Path) -> RunConfig:
    """The config of a weights file or snapshot, without its tensors.

    Raises DdpmError for any other file.
    """
    if _is_pytorch(path):
        return _config_of_snapshot(path, snapshots.read_config(path))
    return read_description(path, tensors.describe(path)).config


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether this is the metadata of a weights file of ddpm."""
    return _KEY in metadata


def load(path: Path) -> Weights:
    """Read a weights file, or the average in a snapshot, and build its network.

    Raises DdpmError for any other file, and where a weight is NaN or infinite.
    """
    if _is_pytorch(path):
        return _load_snapshot(path)
    file = tensors.read(path)
    described = read_description(path, file.metadata)
    state = tensors.with_current_names(file.tensors)
    return _built(path, described, state)


def _built(path: Path, described: Description, state: dict[str, Tensor]) -> Weights:
    network = build(described.config.network)
    tensors.fill(network, state, path)
    return Weights(
        network.eval(),
        described.config,
        described.images,
        sha256_of(path),
        described.statistics,
        described.sigma_rel,
    )


def _is_pytorch(path: Path) -> bool:
    """Whether torch.save wrote a file: a zip archive, as all snapshots are."""
    return content.first_bytes(path).startswith(content.ZIP)


def _load_snapshot(path: Path) -> Weights:
    snapshot = snapshots.read(path)
    config = _config_of_snapshot(path, snapshot.get("config"))
    tensors.check_finite(snapshot["average"], path)
    run = run_of_snapshot(path)
    statistics = None if run is None else run.read_statistics()
    described = Description(config, snapshot["progress"]["images"], statistics)
    return _built(path, described, snapshot["average"])


def _config_of_snapshot(path: Path, document: Any) -> RunConfig:
    """The config in a snapshot, or that of its run; earlier versions wrote none into the file."""
    if document is not None:
        return from_dict(RunConfig, document, f"the config in {path}")
    run = run_of_snapshot(path)
    if run is None:
        raise DdpmError(
            f"{path} is a snapshot of an earlier version, without its config: leave it in the "
            "folder snapshots of its run, beside whose config.json it is read"
        )
    return run.read_config()


def read_description(path: Path, metadata: Mapping[str, str]) -> Description:
    """What a weights file says of itself, from its metadata. Raises DdpmError for any other."""
    if not is_ours(metadata):
        raise DdpmError(
            f"{path} holds tensors but not the config of a ddpm run, so it cannot be sampled; "
            "weights of other tools have to be imported with ddpm convert"
        )
    document = tensors.document(path, metadata[_KEY])
    if not isinstance(document, dict) or not {"config", "images"} <= document.keys():
        raise DdpmError(f"{path} holds a damaged config: it should name config and images")
    config = from_dict(RunConfig, document["config"], f"the config in {path}")
    return Description(
        config, document["images"], document.get("statistics"), document.get("sigma_rel")
    )
