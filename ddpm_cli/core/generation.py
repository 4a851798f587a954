"""Drawing pictures: seeds -> noise -> sampler -> uint8 batches, shared out over the processes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core import weights
from ddpm_cli.core.config import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.samplers import Step
from ddpm_cli.core.diffusion.sampling import Sampling, sample
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.atomic import write_text
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.seeds import ImageNoise

_FOLDER = "generated"  # beside the weights
_SETTINGS = "sampling.json"
_IN_GRID = 100  # pictures on grid.png at most


class Model(NamedTuple):
    """Weights ready to draw from."""

    path: Path
    denoiser: Denoiser
    config: RunConfig
    images: int  # seen in training
    sha256: str  # of the weights file
    device: torch.device
    precision: torch.dtype


@dataclass(frozen=True)
class Request:
    """Which pictures: image i has the seed `seed + i`, and so its noise and its class."""

    count: int
    seed: int
    labels: tuple[int, ...]  # classes drawn in turn; empty for an unconditional model
    how: Sampling

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"-n must be at least 1, not {self.count}")

    def label(self, index: int) -> int | None:
        """The class of image `index`."""
        return self.labels[(self.seed + index) % len(self.labels)] if self.labels else None


def load_model(path: Path, device: torch.device, precision: torch.dtype) -> Model:
    """Read a weights file onto a device."""
    held = weights.load(path)
    network = held.network.to(device).to(memory_format=torch.channels_last)
    diffusion = held.config.diffusion
    denoiser = Denoiser(network, schedules.from_config(diffusion), diffusion.parameterisation)
    return Model(path, denoiser, held.config, held.images, held.sha256, device, precision)


def make_request(
    model: Model, count: int, seed: int, classes: Sequence[str] | None, how: Sampling
) -> Request:
    """Check a wish against the model. Raises UsageError or DdpmError with what the model can do."""
    names = model.config.network.classes
    if how.steps > model.config.diffusion.timesteps:
        raise UsageError(
            f"--steps {how.steps} is more than the model's {model.config.diffusion.timesteps}"
        )
    if not names:
        if classes:
            raise DdpmError(
                f"{model.path} was trained without classes, so --class has no meaning for it"
            )
        if how.guidance != 1:
            raise DdpmError(
                f"{model.path} was trained without classes, so there is nothing to guide towards; "
                "leave --guidance at 1"
            )
        return Request(count, seed, (), how)
    if how.guidance != 1 and model.config.optimiser.class_drop == 0:
        raise DdpmError(
            f"{model.path} was trained with --class-drop 0, so it has no unconditional branch; "
            "leave --guidance at 1"
        )
    labels = (
        tuple(_label_of(name, names) for name in classes) if classes else tuple(range(len(names)))
    )
    return Request(count, seed, labels, how)


def draw(
    model: Model, request: Request, indices: Sequence[int], batch: int, reporter: Reporter
) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
    """Draw the images of these indices, a batch at a time: (indices, pictures (B, C, H, W))."""
    steps = request.how.steps
    with reporter.bar("sampling", len(indices), "images") as bar:
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            x = None
            for step in steps_of(model, request, chosen):
                x = step.x
                bar.update(start + len(chosen) * (step.index + 1) / steps)
            assert x is not None
            yield chosen, to_uint8(x).cpu().numpy()


def steps_of(model: Model, request: Request, indices: Sequence[int]) -> Iterator[Step]:
    """Draw one batch, yielding every step."""
    with devices.autocast(model.device, model.precision):
        noise = noise_of(model, request, indices)
        yield from sample(model.denoiser, noise, _condition(model, request, indices), request.how)


def noise_of(model: Model, request: Request, indices: Sequence[int]) -> ImageNoise:
    """The noise of these images; its first draw is where sampling starts."""
    network = model.config.network
    shape = (network.channels, *network.size)
    return ImageNoise([request.seed + i for i in indices], shape, model.device)


def write(
    folder: Path, model: Model, request: Request, batch: int, reporter: Reporter, *, overwrite: bool
) -> int:
    """Write exactly `count` pictures with grid.png and manifest.jsonl into a folder.

    A folder with the same settings is completed: pictures that are there stay. The number drawn.
    Raises DdpmError where the folder holds anything else, unless `overwrite` is given.
    """
    distributed.told_by_first(lambda: _open(folder, model, request, overwrite=overwrite))
    mine = range(request.count)[distributed.share(request.count)]
    missing = [i for i in mine if not _file(folder, i).exists()]
    for indices, pictures in draw(model, request, missing, batch, reporter):
        for index, picture in zip(indices, pictures, strict=True):
            files.write_png(_file(folder, index), picture)
    drawn = int(distributed.total(torch.tensor(len(missing))))
    if distributed.is_first():
        _write_manifest(folder, model, request)
        shown = range(min(request.count, _IN_GRID))
        files.write_png(folder / "grid.png", _grid([_file(folder, i) for i in shown], model))
    return drawn


def default_folder(model: Model, request: Request) -> Path:
    """`generated` beside the weights, or the first of `generated-2`, … without other pictures."""
    settings = settings_of(model, request)
    first = model.path.parent / _FOLDER
    names = [first, *(first.with_name(f"{_FOLDER}-{i}") for i in range(2, 10_000))]
    return next(name for name in names if not name.exists() or _settings_in(name) == settings)


def settings_of(model: Model, request: Request) -> dict[str, Any]:
    """What determines the pictures, apart from how many there are."""
    names = model.config.network.classes
    return {
        "weights": str(model.path),
        "weights_sha256": model.sha256,
        "images_seen": model.images,
        "seed": request.seed,
        "classes": [names[label] for label in request.labels],
        **asdict(request.how),
    }


def _open(folder: Path, model: Model, request: Request, *, overwrite: bool) -> None:
    """Make the folder ready. Raises DdpmError rather than mix two lots of pictures."""
    settings = settings_of(model, request)
    held = sorted(folder.glob("*")) if folder.is_dir() else []
    if held and not overwrite:
        if _settings_in(folder) != settings:
            raise DdpmError(
                f"{folder} holds other files ({held[0].name}, …); "
                "choose another --out, or --overwrite"
            )
        beyond = [path for path in folder.glob("[0-9]*.png") if int(path.stem) >= request.count]
        if beyond:
            raise DdpmError(f"{folder} holds more than {request.count} pictures; add --overwrite")
    if overwrite:
        for path in folder.glob("[0-9]*.png"):
            path.unlink()
    write_text(folder / _SETTINGS, json.dumps(settings, indent=2) + "\n")


def _settings_in(folder: Path) -> Any:
    try:
        return json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _grid(paths: Sequence[Path], model: Model) -> files.Picture:
    channels = model.config.network.channels
    pictures = [files.decode(path.read_bytes(), str(path), channels) for path in paths]
    return files.enlarge(files.grid(np.stack(pictures)), 256)


def _write_manifest(folder: Path, model: Model, request: Request) -> None:
    names = model.config.network.classes
    lines = []
    for i in range(request.count):
        label = request.label(i)
        entry: dict[str, Any] = {"file": _file(folder, i).name, "seed": request.seed + i}
        if label is not None:
            entry["class"] = names[label]
        lines.append(json.dumps(entry) + "\n")
    write_text(folder / "manifest.jsonl", "".join(lines))


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"


def _condition(model: Model, request: Request, indices: Sequence[int]) -> Tensor | None:
    if not request.labels:
        return None
    labels = [request.label(i) for i in indices]
    return torch.tensor(labels, dtype=torch.int64, device=model.device)


def _label_of(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or list(names[:10])
    raise DdpmError(
        f"--class {name!r} is unknown to this model; perhaps {' or '.join(near)}? "
        f"It has {len(names)} classes, numbered from 0"
    )
