"""Named tensors in files, none of which runs code: safetensors, and PyTorch's plain state dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError
from ddpm_cli.core.runtime.files import atomic_write

_SHOWN = 5  # of what does not fit


class TensorFile(NamedTuple):
    """What a safetensors file holds."""

    tensors: dict[str, Tensor]
    about: dict[str, str]  # its metadata: texts by name


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and, as JSON, documents about them: whole or not at all."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {name: json.dumps(document) for name, document in about.items()}
    with atomic_write(path) as partial:
        partial.write_bytes(serialised(stored, metadata={"format": "pt"} | texts))


def read(path: Path) -> TensorFile:
    """Read a safetensors file. Raises DdpmError for any other."""
    about = describe(path)
    with safe_open(path, framework="pt") as file:
        return TensorFile({name: file.get_tensor(name) for name in file.keys()}, about)  # noqa: SIM118


def describe(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises DdpmError for any other."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DdpmError(f"{path} is no readable weights file (safetensors): {error}") from error


def document(path: Path, text: str) -> Any:
    """Parse a document out of a file's metadata. Raises DdpmError."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DdpmError(f"{path} holds a damaged config: {error}") from error


def read_flat(path: Path) -> dict[str, Tensor]:
    """Read a state dict, from safetensors or PyTorch's format, without running code out of it.

    Raises DdpmError for anything but tensors by name: a pickle of objects is never loaded.
    """
    if not path.is_file():
        raise DdpmError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return read(path).tensors
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED_FILE as error:
        why = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise DdpmError(f"{path} is no readable weights file ({why})") from error
    except OSError as error:
        raise DdpmError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise DdpmError(f"{path} does not hold a flat state dict, which is tensors by name")
    return state


def misfits(held: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Where the names and shapes of two sets of tensors differ, a line each."""
    lines = [f"{name} is missing" for name in wanted if name not in held]
    lines += [
        f"{name} is {tuple(held[name].shape)}, needs {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in held and held[name].shape != tensor.shape
    ]
    return lines + [f"{name} is not in the network" for name in held if name not in wanted]


def listed(lines: list[str]) -> str:
    """The first of the lines, and how many more there are."""
    more = len(lines) - _SHOWN
    return "; ".join(lines[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network its weights. Raises DdpmError with what does not fit, before any is given."""
    if wrong := misfits(tensors, network.state_dict()):
        raise DdpmError(
            f"{path} does not fit its own config, which describes another network: {listed(wrong)}"
        )
    network.load_state_dict(tensors)
