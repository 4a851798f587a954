"""Where a folder of diffusers keeps its network: averages, variants, shards."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.downloads import sha256_of

_AVERAGE, _NETWORK = "unet_ema", "unet"
_FILE = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<variant>[a-z]\w*))?(?:-(?P<shard>\d+)-of-(?P<count>\d+))?"
    r"\.(?P<format>safetensors|bin)"
)


class _Kind(NamedTuple):
    """Files that together are one network."""

    variant: str | None  # "fp16", "non_ema", …
    shards: int
    format: str

    def preference(self) -> tuple[int, bool]:
        """Full precision first, then other variants, weights before averaging last; no pickles."""
        rank = 0 if self.variant is None else 2 if self.variant == "non_ema" else 1
        return rank, self.format == "bin"


class NetworkFiles(NamedTuple):
    """The files of a network's weights: one, or the shards in order."""

    paths: tuple[Path, ...]
    remark: str | None = None  # what has to be said of them

    @property
    def sha256(self) -> str:
        """SHA-256 of the file; of shards, of their SHA-256s one after the other."""
        digests = [sha256_of(path) for path in self.paths]
        return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def is_diffusers(folder: Path) -> bool:
    """Whether a folder looks like a pipeline of diffusers, or one of its networks."""
    inner, _ = network_folder(folder)
    marks = (folder / "model_index.json", inner / "diffusion_pytorch_model.safetensors.index.json")
    return any(mark.is_file() for mark in marks) or any(inner.glob("diffusion_pytorch_model*"))


def network_folder(source: Path) -> tuple[Path, str | None]:
    """The folder with the network's config.json, and what has to be said of the choice.

    Of a network and its average, which training scripts save side by side, it is the average.
    """
    average, network = source / _AVERAGE, source / _NETWORK
    if (average / "config.json").is_file():
        return average, f"{average} is taken, the average of the weights" + (
            f", not {network}" if network.is_dir() else ""
        )
    return (network if network.is_dir() else source), None


def network_files(folder: Path) -> NetworkFiles:
    """The weights in a folder: in full precision where there are any, else a variant.

    Raises DdpmError where there are none, or shards are missing.
    """
    found: defaultdict[_Kind, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if match := _FILE.fullmatch(path.name):
            kind = _Kind(match["variant"], int(match["count"] or 1), match["format"])
            found[kind][int(match["shard"] or 1)] = path
    if not found:
        raise DdpmError(
            f"{folder} holds no diffusion_pytorch_model.safetensors or .bin, in one file or in "
            f"shards{_held(path.name for path in folder.iterdir())}"
        )
    whole = [kind for kind, shards in found.items() if len(shards) == kind.shards]
    if not whole:
        kind, shards = next(iter(found.items()))
        missing = sorted(set(range(1, kind.shards + 1)) - shards.keys())
        raise DdpmError(
            f"{folder} holds {', '.join(path.name for path in shards.values())}, and of "
            f"{kind.shards} shards number {', '.join(map(str, missing))} is missing: download the "
            "whole folder"
        )
    kind = min(whole, key=_Kind.preference)
    paths = tuple(path for _, path in sorted(found[kind].items()))
    if kind.variant is None:
        return NetworkFiles(paths)
    what = "weights before averaging" if kind.variant == "non_ema" else f"weights in {kind.variant}"
    return NetworkFiles(paths, f"{paths[0]}: {what}, as the folder holds no others")


def _held(names: Iterable[str]) -> str:
    held = listed(sorted(names))
    return f"; it holds {held}" if held else ""
