"""A grid, a film and a contact sheet that are drawn for a page alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model, load_model, usual_sampling
from ddpm_cli.core.generation.pictures import animation
from ddpm_cli.core.generation.pictures.arrangement import GridLayout
from ddpm_cli.core.generation.pictures.axes import Axis, Cell, combinations
from ddpm_cli.core.generation.pictures.contact_sheet import ContactSheet
from ddpm_cli.core.report import pictures
from ddpm_cli.core.report.pictures import Picture
from ddpm_cli.core.report.records import Record
from ddpm_cli.core.runs import side_by_side
from ddpm_cli.core.runs.differences import Compared
from ddpm_cli.core.runtime import devices, threads
from ddpm_cli.core.runtime.reporting import Reporter

_GRID, _FILM, _CELL, _BESIDE = 36, 9, 4, 8  # images; the last of each of two runs
_STEPS, _SHEET_STEPS = 50, (5, 10, 25, 50)
_GUIDANCE, _ETA = (1.0, 2.0, 4.0), (0.0, 0.5, 1.0)
_STATES, _SECONDS, _HOLD = 32, 4.0, 2.0  # of the film


class _Part(NamedTuple):
    model: Model
    request: GenerationRequest


def draw(record: Record, device: torch.device, reporter: Reporter) -> list[Picture]:
    """Sample from the newest weights. Raises UsageError for a model that is given images."""
    weights = record.run.weights
    if not weights.is_file():
        raise UsageError(f"--sample: {record.run.path} has no {weights.name} yet")
    model = load_model(weights, device, devices.choose_precision("auto", device))
    if model.config.network.given_channels:
        raise UsageError(
            f"--sample: {weights} makes images of others; sample some with ddpm sample "
            f"{record.run.path} --given FILE, which the report shows"
        )
    length = len(model.denoiser.schedule)
    sampling = usual_sampling(model.config, _STEPS)
    request = generate.resolve_request(model, _GRID, 0, ConditionRequest(), sampling, reporter)
    part = _Part(model, request)
    threads.limit_to_work(generate.call_operations(model, request, None))
    calls, started = (_GRID + _FILM) * sampling.steps, time.monotonic()
    if model.config.objective.consistency is not None:  # of so few steps that no sheet is needed
        reporter.say(f"{_GRID} samples and a film of {_FILM}: {calls:,} network calls")
        drawn = [_grid(part, reporter), _film(part, reporter)]
    else:
        sheet = _sheet(part, length)
        reporter.say(
            f"{_GRID} samples, a film of {_FILM} and a sheet of {len(sheet.cells)} settings: "
            f"{calls + sheet.calls:,} network calls"
        )
        drawn = [_grid(part, reporter), _film(part, reporter), _drawn_sheet(sheet, reporter)]
    reporter.say(f"drawn in {time.monotonic() - started:.0f} s")
    return [picture for picture in drawn if picture is not None]


def draw_beside(compared: Compared, device: torch.device, reporter: Reporter) -> Picture | None:
    """Samples of runs from the same seeds, a row for each; None where no run has any."""
    precision = devices.choose_precision("auto", device)
    samples = side_by_side.Samples(_BESIDE, 0, {}, device, precision)
    sheet = side_by_side.sample(compared, samples, reporter)
    if sheet is None:
        return None
    alt = f"Samples of {' and '.join(sheet.document['sampled'])} from the same seeds"
    return pictures.embedded(files.png(sheet.image), ".png", "Samples", "", alt)


def _grid(part: _Part, reporter: Reporter) -> Picture | None:
    model, request = part
    layout = GridLayout().arrange(model, request)
    images: dict[int, ImageArray] = {}
    every = range(request.count)
    for chosen, sampled in generate.sample_batches(model, request, every, None, reporter):
        images.update(zip(chosen, sampled, strict=True))
    content = files.png(layout.draw(images.__getitem__))
    caption = f"{_told(request)}, seeds 0 to {request.count - 1}, {model.provenance}"
    return pictures.embedded(content, ".png", "Samples", caption, f"{request.count} sampled images")


def _film(part: _Part, reporter: Reporter) -> Picture | None:
    model, request = part.model, replace(part.request, count=_FILM)
    film = animation.denoising(model, request, "xt", 1, reporter).evenly(_STATES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "denoising.webp")
        film.write(path, None, _SECONDS, _HOLD)
        content = path.read_bytes()
    alt = f"{_FILM} images that emerge from noise"
    return pictures.embedded(content, ".webp", "Denoising film", _told(request), alt)


def _sheet(part: _Part, length: int) -> ContactSheet:
    """Steps across; guidance down, or eta where there is nothing to guide towards."""
    axes = axes_of(part.model.config, length)
    return ContactSheet.of(axes, list(_cells(part, axes)), None, None)


def _drawn_sheet(sheet: ContactSheet, reporter: Reporter) -> Picture | None:
    content = files.png(sheet.picture(sheet.draw(None, reporter)))
    caption = f"The same noise by {sheet.axes[1].name} (down) and steps (across)"
    return pictures.embedded(content, ".png", "Contact sheet", caption, caption)


def axes_of(config: RunConfig, timesteps: int) -> tuple[Axis, Axis]:
    """The columns and rows of the sheet, of a run with so many timesteps."""
    steps = tuple(dict.fromkeys(min(count, timesteps) for count in _SHEET_STEPS))
    return Axis("steps", steps), Axis("guidance", _GUIDANCE) if config.guidable else Axis(
        "eta", _ETA
    )


def _cells(part: _Part, axes: tuple[Axis, Axis]) -> Iterator[Cell]:
    for values in combinations(axes):
        sampling = replace(part.request.sampling, **values)
        yield Cell(values, part.model, replace(part.request, count=_CELL, sampling=sampling))


def _told(request: GenerationRequest) -> str:
    sampling = request.sampling
    return f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"
