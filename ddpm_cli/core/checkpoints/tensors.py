"""State dicts on disk, loaded without running code: safetensors, and PyTorch's flat state dicts."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line, listed
from ddpm_cli.core.runtime import content
from ddpm_cli.core.runtime.files import parse_json, write_bytes

# Parameters that were renamed since files were written with them: former pattern, current name.
_FORMER_NAMES = (
    (re.compile(r"^conditioning\."), "embedding."),
    (re.compile(r"\.condition\.(?=(?:weight|bias)$)"), ".modulation."),
)

_TYPES = {  # of safetensors, by their names there
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
}


def current_name(parameter: str) -> str:
    """The current name of a U-Net's parameter, which a file may hold under a former name."""
    for former, current in _FORMER_NAMES:
        parameter = former.sub(current, parameter)
    return parameter


def with_current_names(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the current names of a network's parameters."""
    return {current_name(name): value for name, value in parameters.items()}


class TensorFile(NamedTuple):
    """The contents of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


class NotOnlyTensorsError(DdpmError):
    """A whole file that holds more than tensors by name, such as a pickle of objects."""


def write(path: Path, tensors: Mapping[str, Tensor], key: str, text: str) -> None:
    """Write a safetensors file atomically, with one entry of metadata.

    Several would be written in an order that differs from file to file, and so would the SHA-256
    of equal weights.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, serialised(stored, metadata={key: text}), durable=True)


def as_text(document: Any) -> str:
    """A document as JSON for the metadata: equal documents give equal texts."""
    return json.dumps(document, sort_keys=True)


def read(path: Path) -> TensorFile:
    """Read a safetensors file. Raises DdpmError for any other, or one with NaN or infinities."""
    metadata = describe(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    check_finite(tensors, path)
    return TensorFile(tensors, metadata)


def describe(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors. Raises DdpmError for any other."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def header(path: Path) -> TensorFile:
    """Names, shapes and types of a safetensors file's tensors, without their values, and metadata.

    The tensors are on the meta device. Raises DdpmError for any other file.
    """
    metadata = describe(path)
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = {
            name: torch.empty(
                one.get_shape(), dtype=_TYPES.get(one.get_dtype(), torch.uint8), device="meta"
            )
            for name, one in slices.items()
        }
    return TensorFile(tensors, metadata)


def document(path: Path, text: str) -> Any:
    """Parse a JSON document of a file's metadata. Raises DdpmError."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise DdpmError(f"{path} holds a damaged config: {error}") from error


def read_flat(path: Path) -> dict[str, Tensor]:
    """Read a flat state dict, from safetensors or PyTorch's format, without running code.

    Raises DdpmError for damaged files and for NaN or infinities, and NotOnlyTensorsError for
    anything but tensors by name: a pickle of objects is never loaded.
    """
    if not path.is_file():
        raise DdpmError(f"{path}: no such file{paths.near(path)}")
    if path.suffix == ".safetensors":
        return read(path).tensors
    state = read_pytorch(path)
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise NotOnlyTensorsError(
            f"{path} does not hold a flat state dict, which is tensors by name"
        )
    check_finite(state, path)
    return state


def read_pytorch(path: Path, *, memory_mapped: bool = False) -> Any:
    """What torch.save wrote: tensors, numbers and texts, nested, on the CPU.

    memory_mapped: tensors are read from the disk when they are used. Raises DdpmError for damaged
    files, and NotOnlyTensorsError for a pickle of objects, which is never loaded.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle's version, which says nothing
            return torch.load(path, map_location="cpu", weights_only=True, mmap=memory_mapped)
    except (OSError, SafetensorError, *DAMAGED_FILE) as error:  # newer torch reads both formats
        raise _unreadable(path, error) from error


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise DdpmError that names the first tensor with NaN or infinities, or that is not dense.

    A network with one computes nothing but NaN, which become black images.
    """
    for name, tensor in tensors.items():
        if kind := _unusual(tensor):
            raise DdpmError(
                f"{path} holds no plain weights: {name} is a {kind} tensor; save it again as dense "
                "numbers, or download another file"
            )
        values = tensor.float() if tensor.itemsize == 1 else tensor  # of float8, isfinite is not
        if not values.isfinite().all():
            bad = int(values.numel() - values.isfinite().sum())
            raise DdpmError(
                f"{path} holds NaN or infinite weights: {bad:,} of {values.numel():,} in {name}. "
                "Its training diverged or the file is damaged: take weights saved earlier, or copy "
                "or download it again"
            )


def _unusual(tensor: Tensor) -> str:
    """What a tensor is that is not dense, real and in memory; "" for weights."""
    kinds = {
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "meta": tensor.is_meta,
    }
    return next((kind for kind, found in kinds.items() if found), "")


def _unreadable(path: Path, error: Exception) -> DdpmError:
    """What a file holds that could not be read as weights, with the remedy where there is one."""
    if isinstance(error, OSError) and error.strerror:
        return DdpmError(f"cannot read {path}: {error.strerror}")
    head = content.first_bytes(path)
    whole = isinstance(error, pickle.UnpicklingError) and head.startswith((content.ZIP, b"\x80"))
    if whole:  # torch's own message advises to load it all the same
        return NotOnlyTensorsError(
            f"{path} is no readable weights file: it is a pickle of more than tensors, which may "
            "run any code when it is loaded"
        )
    what = content.describe(head)
    if what is not None and not head.startswith(content.ZIP):
        return DdpmError(f"{path} is no weights file but {what}")
    return DdpmError(
        f"{path} is no readable weights file ({first_line(error)}): if it was cut short, copy or "
        "download it again"
    )


def mismatches(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """The mismatches in name and shape between tensors and those expected, a line each."""
    lines = [f"{name} is missing" for name in expected if name not in tensors]
    lines += [
        f"{name} is {tuple(tensors[name].shape)}, needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return lines + [f"{name} is not in the network" for name in tensors if name not in expected]


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a network's weights. Raises DdpmError with the mismatches, before any is loaded."""
    if wrong := mismatches(tensors, network.state_dict()):
        raise DdpmError(
            f"{path} does not fit its own config, which describes another network: "
            f"{listed(wrong, separator='; ')}"
        )
    network.load_state_dict(tensors)
