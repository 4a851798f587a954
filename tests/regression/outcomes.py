"""Results of commands in a form without internal names, and images to run them on.

Tensors are compared by their values without their names, images by their pixels, folders by their
file names. The images are computed, so that they are the same on any machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file


def where_bits_agree() -> dict[str, str]:
    """The libraries and processor that the last bits of a computation depend on."""
    libraries = {name: version(name) for name in ("numpy", "scipy", "pillow", "torchvision")}
    capability = torch.backends.cpu.get_cpu_capability()
    vendor = processor("vendor_id")
    return {"torch": torch.__version__, "cpu_capability": capability, "cpu_vendor": vendor} | (
        libraries
    )


def processor(field: str) -> str:
    """A field of /proc/cpuinfo, or the name of the processor where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(field)]
    return values[0] if values else platform.processor()


def digest(parts: Iterable[bytes]) -> str:
    """A short hash of byte strings in their order."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "little"))
        sha256.update(part)
    return sha256.hexdigest()[:32]


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested mappings and sequences."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)


class Multiset:
    """The tensors of a file, without names and order."""

    def __init__(self, tree: Any) -> None:
        found = list(tensors(tree))
        self.size = [len(found), sum(tensor.numel() for tensor in found)]
        self.digest = digest(sorted(_tensor(tensor).encode() for tensor in found))


def _tensor(tensor: torch.Tensor) -> str:
    about = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    values = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return digest([about, values])


def weights(path: Path) -> Multiset:
    """The tensors of a .safetensors file."""
    return Multiset(load_file(path))


def snapshot(run: Path) -> Multiset:
    """The tensors of a run's newest training state: network, its average, Adam's moments."""
    newest = max((run / "snapshots").glob("*.pt"))
    return Multiset(torch.load(newest, weights_only=True))


def pixels(path: Path) -> str:
    """The digest of an image's pixels."""
    with Image.open(path) as image:
        return digest([image.mode.encode(), repr(image.size).encode(), image.tobytes()])


def frames(path: Path) -> NDArray[np.uint8]:
    """The frames of a GIF."""
    return np.asarray(imageio.imread(path, index=None))


def listing(folder: Path) -> list[str]:
    """The files below a folder, by relative name."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def manifest(folder: Path) -> list[dict[str, Any]]:
    """The lines of a sample folder's manifest."""
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def draw(
    folder: Path, *, side: int, channels: int, each: int, kinds: int = 2, seed: int = 0
) -> str:
    """Write `each` images of waves per class, whose direction differs; returns the folder."""
    y, x = np.mgrid[:side, :side]
    for kind in range(kinds):
        subfolder = folder / f"kind-{kind}"
        subfolder.mkdir(parents=True)
        for i in range(each):
            planes = []
            for channel in range(channels):
                along = (kind + 1) * x + (2 - kind) * y + (3 + channel) * i + seed
                planes.append((11 * along + 5 * x * y * (i % 3)) % 256)
            array = np.stack(planes, axis=-1).astype(np.uint8)
            Image.fromarray(array[..., 0] if channels == 1 else array).save(
                subfolder / f"{i:03}.png"
            )
    return str(folder)


def recorded_where() -> dict[str, str]:
    """The platform of the record, as `where_bits_agree`."""
    record = json.loads((Path(__file__).parent / "recorded.json").read_text())
    where: dict[str, str] = record["where"]
    return where
