"""Weights of other programs: what they are by their tensors' names, and how to use them here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.conversion import diffusers
from ddpm_cli.core.conversion.diffusers_folder import network_files, network_folder
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.files import read_json


@dataclass(frozen=True)
class Foreign:
    """What another program's file or folder is."""

    kind: str
    what: str
    next: str = ""  # a command that makes use of it
    network: NetworkConfig | None = None  # ours that computes the same, where it is known


_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
_KINDS = (  # names of tensors that tell, what they are of, and a command
    (
        ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        Foreign(
            "diffusers",
            "a UNet2DModel of diffusers, without its folder",
            "keep it in its folder, with config.json, and ddpm convert FOLDER --out FILE",
        ),
    ),
    (
        ("input_blocks.0.0.weight", "time_embed.0.weight"),
        Foreign(
            "openai",
            "a U-Net of improved- or guided-diffusion",
            "ddpm convert {path} --size SIDE --out FILE",
        ),
    ),
    (
        ("Conv2d_1a_3x3.conv.weight",),
        Foreign(
            "inception",
            "an Inception network, whose features scores are made of",
            "ddpm fid REAL FAKE --weights {path}",
        ),
    ),
)


def of_tensors(path: Path, held: Mapping[str, Tensor]) -> Foreign:
    """What tensors of these names are of. Raises DdpmError where there are none."""
    if not held:
        raise DdpmError(f"{path} holds no tensors")
    names = {_plain(name) for name in held}
    for telling, kind in _KINDS:
        if names.issuperset(telling):
            command = kind.next.format(path=quote(str(path)))
            return Foreign(kind.kind, kind.what, command)
    first = listed(sorted(held), 3)
    return Foreign("unknown", f"tensors of another program, by names such as {first}")


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def state_dict(path: Path, held: Any) -> dict[str, Tensor]:
    """The tensors of what torch.save wrote, at any depth, by names with dots. Raises DdpmError."""
    found: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))

    walk(held, "")
    if not found:
        raise DdpmError(f"{path} holds no tensors by name, and is no snapshot of a ddpm training")
    return found


def of_diffusers(folder: Path) -> Foreign:
    """What a folder of diffusers holds. Raises DdpmError where it has no network's config."""
    inner, _ = network_folder(folder)
    try:
        settings = read_json(inner / "config.json")
    except FileNotFoundError as error:
        raise DdpmError(f"{folder} is a folder of diffusers without {inner}/config.json") from error
    except (OSError, ValueError) as error:
        raise DdpmError(f"{inner / 'config.json'} is no readable JSON: {error}") from error
    name = settings.get("_class_name", "a network") if isinstance(settings, dict) else "a network"
    what = f"a folder of diffusers, with a {name}"
    command = f"ddpm convert {quote(str(folder))} --out FILE"
    try:
        files = network_files(inner)
        theirs = diffusers.read(settings, str(inner / "config.json"))
        network = diffusers.to_network_config(theirs, theirs.sample_size or (32, 32), None)
    except DdpmError as error:
        return Foreign("diffusers", f"{what}, which ddpm convert does not take: {error}")
    return Foreign("diffusers", f"{what} in {files.paths[0].name}", command, network)
