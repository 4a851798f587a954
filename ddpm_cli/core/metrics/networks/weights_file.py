"""The weights file of a feature network: read without running code, and refused if another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ddpm_cli.core.checkpoints import tensors
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.downloads import RemoteFile


def read(path: Path, option: str, published: RemoteFile) -> dict[str, Tensor]:
    """Read a flat state dict, .safetensors or PyTorch's format, without executing any pickle.

    Raises DdpmError, which names the published file, for any other.
    """
    if not path.is_file():
        raise DdpmError(f"{option} {path}: no such file{paths.near(path)}")
    try:
        return tensors.read_flat(path)
    except DdpmError as error:
        raise DdpmError(f"{error}; {_expected(published)}") from error


def check(
    found: Mapping[str, Tensor],
    needed: Mapping[str, Tensor],
    path: Path,
    network: str,
    published: RemoteFile,
) -> None:
    """Raise DdpmError where tensors are missing, of another shape or not of this network."""
    if wrong := tensors.mismatches(found, needed):
        raise DdpmError(
            f"{path} is not {network}: {listed(wrong, separator='; ')}; {_expected(published)}"
        )


def _expected(published: RemoteFile) -> str:
    return f"expected is {published.url} (sha256 {published.sha256[:8]}…)"
