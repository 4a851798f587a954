"""A folder of drawn pictures: 000000.png and up, grid.png, manifest.jsonl, sampling.json."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_cli.core.data import files
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation.generate import GenerationRequest, Model, draw
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import write_text
from ddpm_cli.core.runtime.reporting import Reporter

_FOLDER = "generated"  # beside the weights
_SETTINGS = "sampling.json"
_IN_GRID = 100  # pictures on grid.png at most


def write(
    folder: Path,
    model: Model,
    request: GenerationRequest,
    batch: int,
    reporter: Reporter,
    *,
    overwrite: bool,
) -> int:
    """Write exactly `count` pictures with grid.png and manifest.jsonl into a folder.

    A folder with the same settings is completed: pictures that are there stay. The number drawn.
    Raises DdpmError where the folder holds anything else, unless `overwrite` is given.
    """
    distributed.broadcast_from_rank0(lambda: _open(folder, model, request, overwrite=overwrite))
    mine = range(request.count)[distributed.shard(request.count)]
    missing = [i for i in mine if not _file(folder, i).exists()]
    for indices, pictures in draw(model, request, missing, batch, reporter):
        for index, picture in zip(indices, pictures, strict=True):
            files.write_png(_file(folder, index), picture)
    drawn = int(distributed.all_reduce_sum(torch.tensor(len(missing))))
    if distributed.is_main():
        _write_manifest(folder, model, request)
        shown = range(min(request.count, _IN_GRID))
        prompts = [request.about(i)[1] for i in shown]
        files.write_png(
            folder / "grid.png", _grid([_file(folder, i) for i in shown], prompts, model)
        )
    return drawn


def default_folder(model: Model, request: GenerationRequest) -> Path:
    """`generated` beside the weights, or the first of `generated-2`, … without other pictures.

    More of the same ones are others, too: a folder holds exactly as many as were asked for.
    """
    settings = settings_of(model, request)
    first = model.path.parent / _FOLDER
    names = [first, *(first.with_name(f"{_FOLDER}-{i}") for i in range(2, 10_000))]
    return next(
        name
        for name in names
        if not name.exists()
        or (_settings_in(name) == settings and not _beyond(name, request.count))
    )


def settings_of(model: Model, request: GenerationRequest) -> dict[str, Any]:
    """What determines the pictures, apart from how many there are."""
    names = model.config.network.classes
    return {
        "weights": str(model.path),
        "weights_sha256": model.sha256,
        "images_seen": model.images,
        "seed": request.seed,
        "classes": _runs([names[label] for label in request.conditions.labels]),
        "classes_at_random": request.conditions.at_random,
        "prompts": list(request.conditions.prompts),
        **request.sampling.document(),
    }


def _open(folder: Path, model: Model, request: GenerationRequest, *, overwrite: bool) -> None:
    """Make the folder ready. Raises DdpmError rather than mix two lots of pictures."""
    settings = settings_of(model, request)
    held = sorted(folder.glob("*")) if folder.is_dir() else []
    if held and not overwrite:
        if _settings_in(folder) != settings:
            raise DdpmError(
                f"{folder} holds other files ({held[0].name}, …); "
                "choose another --out, or --overwrite"
            )
        if _beyond(folder, request.count):
            raise DdpmError(f"{folder} holds more than {request.count} pictures; add --overwrite")
    if held and overwrite:
        if not (folder / _SETTINGS).is_file():
            raise DdpmError(
                f"{folder} holds files that ddpm did not draw ({held[0].name}, …), which "
                "--overwrite will not touch; choose another --out"
            )
        for path in _drawn(folder):
            path.unlink()
    write_text(folder / _SETTINGS, json.dumps(settings, indent=2) + "\n")


def _runs(names: Sequence[str]) -> list[str]:
    """Names as --class takes them, those that follow each other alike counted: "cat:8"."""
    counted = ((name, len(list(some))) for name, some in itertools.groupby(names))
    return [f"{name}:{n}" if n > 1 or ":" in name else name for name, n in counted]


def _beyond(folder: Path, count: int) -> bool:
    """Whether it holds more than so many pictures."""
    return any(int(path.stem) >= count for path in _drawn(folder))


def _drawn(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.png") if re.fullmatch(r"\d{6,}", path.stem)]


def _settings_in(folder: Path) -> Any:
    try:
        return json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _grid(paths: Sequence[Path], prompts: Sequence[str | None], model: Model) -> files.ImageArray:
    channels = model.config.network.channels
    pictures = np.stack([files.decode(path.read_bytes(), str(path), channels) for path in paths])
    captions = [prompt for prompt in prompts if prompt is not None]
    if captions:
        return files.grid(files.captioned(pictures, captions), gap=6)
    return files.enlarge(files.grid(pictures), 256)


def _write_manifest(folder: Path, model: Model, request: GenerationRequest) -> None:
    names = model.config.network.classes
    lines = []
    for i in range(request.count):
        label, prompt = request.about(i)
        entry: dict[str, Any] = {"file": _file(folder, i).name, "seed": request.seed + i}
        entry |= {} if label is None else {"class": names[label]}
        entry |= {} if prompt is None else {"prompt": prompt}
        lines.append(json.dumps(entry) + "\n")
    write_text(folder / "manifest.jsonl", "".join(lines))


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"
