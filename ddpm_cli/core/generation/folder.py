"""A folder of generated images: 000000.png and up, grid.png, manifest.jsonl, sampling.json."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.labels import label_name
from ddpm_cli.core.config.network import JOIN
from ddpm_cli.core.data import files
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.generate import GenerationRequest, sample_batches
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime import distributed, provenance
from ddpm_cli.core.runtime.files import (
    create_folder,
    dumps,
    is_written,
    new_file,
    numbered_names,
    read_json,
    write_json,
    write_text,
)
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.threads import cores

_FOLDER = "generated"  # beside the weights
_SETTINGS = "sampling.json"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_GRID_LIMIT = 100  # images on grid.png at most


class Written(NamedTuple):
    """What was sampled into a folder."""

    images: int  # by all processes, without those that were there
    seconds: float  # that sampling and writing them took


def write(
    folder: Path,
    model: Model,
    request: GenerationRequest,
    batch: int | None,
    reporter: Reporter,
    *,
    overwrite: bool,
    compiled: bool | None = False,
) -> Written:
    """Write exactly `request.count` images, grid.png and manifest.jsonl into a folder.

    A folder with the same settings is completed: existing images are kept. batch, compiled:
    as those of `sample_batches`. Raises DdpmError where the folder has other contents, unless
    `overwrite` is set.
    """
    distributed.broadcast_from_rank0(lambda: _prepare(folder, model, request, overwrite=overwrite))
    shard = range(request.count)[distributed.shard(request.count)]
    missing = [i for i in shard if not is_written(_file(folder, i))]
    started = time.monotonic()
    _write_images(folder, sample_batches(model, request, missing, batch, reporter, compiled))
    drawn = int(distributed.all_reduce_sum(torch.tensor(len(missing))))
    seconds = time.monotonic() - started
    if distributed.is_main():
        _write_manifest(folder, model, request)
        _write_grid(folder, model, request)
    return Written(drawn, seconds)


def _write_images(folder: Path, batches: Iterable[tuple[Sequence[int], NDArray[np.uint8]]]) -> None:
    """Write batches of images in threads, each while the next is sampled.

    Those of two batches are in memory at most. What is sampled is written, also where sampling is
    stopped or fails.
    """
    with ThreadPoolExecutor(min(8, cores()), "png") as pool:
        pending: list[Future[None]] = []
        for indices, images in batches:
            _finish(pending)
            pending = [
                pool.submit(files.write_png, _file(folder, index), image)
                for index, image in zip(indices, images, strict=True)
            ]
        _finish(pending)


def _finish(pending: Iterable[Future[None]]) -> None:
    """Wait until files are written, and raise what went wrong."""
    for future in pending:
        future.result()


def default_folder(model: Model, request: GenerationRequest) -> Path:
    """`generated` beside the weights, or the first of `generated-2`, … that `write` accepts.

    It is created, so that another call does not choose it for other settings. A folder with more
    images of the same settings is not accepted.
    """
    identity = _identity(settings_of(model, request))
    return next(
        name
        for name in numbered_names(model.folder / _FOLDER)
        if create_folder(name)
        or (_read_identity(name) == identity and not _has_more_than(name, request.count))
    )


def settings_of(model: Model, request: GenerationRequest) -> dict[str, Any]:
    """Everything that determines the images, except their number, and the path of the weights."""
    names = model.config.network.classes
    return {
        "weights": str(model.path),
        "weights_sha256": model.sha256,
        "images_seen": model.images,
        "seed": request.seed,
        "classes": _compact([label_name(label, names) for label in request.conditions.labels]),
        "classes_at_random": request.conditions.at_random,
        "prompts": list(request.conditions.prompts),
        **request.sampling.document(),
    }


def _prepare(folder: Path, model: Model, request: GenerationRequest, *, overwrite: bool) -> None:
    """Prepare the folder. Raises DdpmError rather than mix images of different settings."""
    if folder.suffix.lower() in _IMAGE_SUFFIXES and not folder.exists():
        raise UsageError(
            f"--out {folder} is named as an image, but is the folder of the images; "
            f"give --out {folder.with_suffix('')}"
        )
    settings = settings_of(model, request)
    entries = folder.iterdir() if folder.is_dir() else ()
    existing = sorted(path for path in entries if path.name[0] != ".")
    if existing and not overwrite:
        if _read_identity(folder) != _identity(settings):
            remedy = ", or add --overwrite" if (folder / _SETTINGS).is_file() else ""
            raise DdpmError(
                f"{folder} holds other files ({existing[0].name}, …); choose another --out{remedy}"
            )
        if _has_more_than(folder, request.count):
            raise DdpmError(f"{folder} holds more than {request.count} images; add --overwrite")
    if existing and overwrite:
        if not (folder / _SETTINGS).is_file():
            raise DdpmError(
                f"{folder} holds files that ddpm did not write ({existing[0].name}, …), which "
                "--overwrite does not delete; choose another --out"
            )
        for path in _image_files(folder):
            path.unlink()
    record = {"provenance": provenance.gather(model.device)}
    with new_file(folder / _SETTINGS, overwrite=bool(existing)) as path:
        write_json(path, settings | record, durable=False)


def _compact(names: Sequence[str]) -> list[str]:
    """Class names in the syntax of --class, with consecutive repeats counted: "cat:8"."""
    counted = ((name, len(list(group))) for name, group in itertools.groupby(names))
    return [f"{name}:{n}" if n > 1 or ":" in name else name for name, n in counted]


def _has_more_than(folder: Path, count: int) -> bool:
    """Whether the folder has images of index `count` or above."""
    return any(int(path.stem) >= count for path in _image_files(folder))


def _image_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.png") if re.fullmatch(r"\d{6,}", path.stem)]


def _read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity of a folder's images; None where it has no settings."""
    try:
        settings = read_json(folder / _SETTINGS)
    except (OSError, ValueError):
        return None
    if not isinstance(settings, dict):
        return None
    return _identity(Sampling().document() | settings)  # settings newer than the folder: defaults


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without the path of the weights, which are identified by their sha256."""
    return {k: value for k, value in settings.items() if k not in ("weights", "provenance")}


def _write_grid(folder: Path, model: Model, request: GenerationRequest) -> None:
    """Write grid.png of the first images, with their prompts or combinations of classes below."""
    transform = Transform(model.config.network.channels)
    indices = range(min(request.count, _GRID_LIMIT))
    paths = [_file(folder, index) for index in indices]
    images = np.stack([files.decode(path.read_bytes(), str(path), transform) for path in paths])
    captions = [_caption(model, request, index) for index in indices]
    if any(captions):
        grid = files.grid(files.captioned(images, captions), gap=6)
    else:
        grid = files.enlarge(files.grid(images), 256)
    files.write_png(folder / "grid.png", grid)


def _caption(model: Model, request: GenerationRequest, index: int) -> str:
    """The prompt of an image, or the classes it has of a multi-label model's, or ""."""
    label, prompt = request.label_and_prompt(index)
    if prompt is not None or label is None or not model.config.network.multi_label:
        return prompt or ""
    return label_name(label, model.config.network.classes).replace(JOIN, f" {JOIN} ")


def _write_manifest(folder: Path, model: Model, request: GenerationRequest) -> None:
    names = model.config.network.classes
    lines = []
    for i in range(request.count):
        label, prompt = request.label_and_prompt(i)
        entry: dict[str, Any] = {"file": _file(folder, i).name, "seed": request.seed + i}
        entry |= {} if label is None else {"class": label_name(label, names)}
        entry |= {} if prompt is None else {"prompt": prompt}
        lines.append(dumps(entry, indent=None) + "\n")
    write_text(folder / "manifest.jsonl", "".join(lines), durable=False)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"
