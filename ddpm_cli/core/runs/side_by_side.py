"""Samples of several runs from the same seeds, a row for each, and their curves, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.class_names import same_number
from ddpm_cli.core.conditioning.labels import label_name
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation.generate import GenerationRequest, resolve_request, sample_batches
from ddpm_cli.core.generation.model import Model, load_model, own_sampling
from ddpm_cli.core.runs import summary
from ddpm_cli.core.runs.differences import Compared
from ddpm_cli.core.runtime.files import new_file, numbered_names
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory

CURVES, SAMPLES = "curves.png", "samples.png"
_WIDTH = 1024  # pixels of the samples' sheet, at least
_WHITE = 255


@dataclass(frozen=True)
class Samples:
    """What is sampled of every run: images of the same seeds."""

    count: int
    seed: int
    sampling: Mapping[str, Any]  # settings that are given; else each model's own
    device: torch.device
    precision: torch.dtype


def new_place(out: Path | None) -> Path:
    """The folder for the pictures: --out, or the first of compared/, compared-2/, … not there."""
    if out is not None:
        return out
    return next(path for path in numbered_names(Path("compared")) if not path.exists())


def draw(
    compared: Compared,
    out: Path,
    samples: Samples | None,
    reporter: Reporter,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write curves.png and samples.png into a folder; what was drawn, as JSON values.

    samples: None: no samples. A run that has no weights, or needs a given image, is left out of
    the samples, which is said. Raises DdpmError before anything is sampled where the files exist.
    """
    with ExitStack() as stack:
        curves_path = stack.enter_context(new_file(out / CURVES, overwrite=overwrite))
        samples_path = None
        if samples is not None:
            samples_path = stack.enter_context(new_file(out / SAMPLES, overwrite=overwrite))
        _draw_curves(compared, curves_path)
        document: dict[str, Any] = {"curves": str(curves_path), "samples": None}
        if samples is not None and samples_path is not None:
            drawn = sample(compared, samples, reporter)
            if drawn is not None:
                files.write_png(samples_path, drawn.image)
                document |= {"samples": str(samples_path)} | drawn.document
    return document


def _draw_curves(compared: Compared, path: Path) -> None:
    from ddpm_cli.core.figures import curves, plots

    configs = [run.config for run in compared.runs if run.config is not None]
    note = compared.cautions[0] if compared.cautions else ""
    drawn = [
        curves.RunCurves(name, summary.rows(run.path), summary.scores(run.path))
        for name, run in zip(compared.names, compared.runs, strict=True)
    ]
    curves.curves(path, drawn, plots.common_loss_label(configs), note)


class Sheet(NamedTuple):
    """Samples of runs beside each other."""

    image: ImageArray
    document: dict[str, Any]  # what was drawn, as JSON values


def sample(compared: Compared, samples: Samples, reporter: Reporter) -> Sheet | None:
    """Sample from each run; None where none can be sampled from. Why one cannot is said."""
    models = dict[str, Model]()
    for name, run in zip(compared.names, compared.runs, strict=True):
        try:
            models[name] = _loaded(RunDirectory(run.path), samples)
        except DdpmError as error:
            reporter.say(f"no samples of {name}: {error}")
    if not models:
        return None
    known = common_classes([model.config.network.classes for model in models.values()])
    rows, requests = dict[str, NDArray[np.uint8]](), dict[str, GenerationRequest]()
    for name, model in models.items():
        request = _request(model, known, samples, reporter)
        rows[name], requests[name] = _sampled(model, request, reporter), request
    document = {
        "seeds": [samples.seed, samples.seed + samples.count - 1],
        "sampling": [request.sampling.document() for request in requests.values()],
        "classes": known,
        "sampled": list(models),
    }
    return Sheet(_sheet(rows, requests, models, samples), document)


def _loaded(run: RunDirectory, samples: Samples) -> Model:
    if not run.weights.is_file():
        raise DdpmError("it has saved no weights yet")
    model = load_model(run.weights, samples.device, samples.precision)
    if model.config.network.given_channels:
        raise DdpmError("it makes images of given ones; ddpm sample --given IMAGE does")
    return model


def common_classes(classes: Sequence[Sequence[str]]) -> list[str]:
    """The classes that all models know, by the names that the first one has for them."""
    first, *others = classes
    return [name for name in first if all(_known(name, names) for names in others)]


def _known(name: str, names: Sequence[str]) -> bool:
    return name in names or len(same_number(name, names)) == 1


def _request(
    model: Model, known: Sequence[str], samples: Samples, reporter: Reporter
) -> GenerationRequest:
    """The images of the seeds: of the common classes in turn, where there are any."""
    network = model.config.network
    labelled = bool(known) and network.text is None
    conditions = ConditionRequest(classes=tuple(known) if labelled else ())
    sampling = own_sampling(model.config, samples.sampling)
    return resolve_request(model, samples.count, samples.seed, conditions, sampling, reporter)


def _sampled(model: Model, request: GenerationRequest, reporter: Reporter) -> NDArray[np.uint8]:
    """The images (n, C, H, W)."""
    batches = sample_batches(model, request, range(request.count), None, reporter)
    return np.concatenate([images for _, images in batches])


def _sheet(
    rows: dict[str, NDArray[np.uint8]],
    requests: dict[str, GenerationRequest],
    models: dict[str, Model],
    samples: Samples,
) -> ImageArray:
    """A row for each run, with its name; a column for each seed, with the class they share."""
    same, captions = _conditions(requests, models, samples)
    columns = [
        f"seed {samples.seed + i}" + (f", {same[i]}" if same and same[i] else "")
        for i in range(samples.count)
    ]
    titles = [f"{name} ({models[name].images:,} images)" for name in rows]
    heading = "; ".join(dict.fromkeys(_in_words(request.sampling) for request in requests.values()))
    words = Words(heading, columns, titles, captions)
    tiles = np.concatenate(_of_one_size(list(rows.values())))
    return sheets.sheet(tiles, samples.count, words, width=_WIDTH)


def _in_words(sampling: Sampling) -> str:
    return f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"


def _conditions(
    requests: dict[str, GenerationRequest], models: dict[str, Model], samples: Samples
) -> tuple[list[str], list[str]]:
    """What each column shows, where that is the same for all runs; else what each image shows."""
    shown = {
        name: [_shown(request, models[name], i) for i in range(samples.count)]
        for name, request in requests.items()
    }
    lists = list(shown.values())
    if all(one == lists[0] for one in lists):
        return lists[0], []
    return [], [words for one in lists for words in one]


def _shown(request: GenerationRequest, model: Model, index: int) -> str:
    label, prompt = request.label_and_prompt(index)
    name = None if label is None else label_name(label, model.config.network.classes)
    return ", ".join(words for words in (name, prompt) if words)


def _of_one_size(rows: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Images of equal size and colours: enlarged by a whole factor, with white around them."""
    channels = 3 if any(images.shape[1] != 1 for images in rows) else 1
    coloured = [_in_colours(images, channels) for images in rows]
    height = max(images.shape[2] for images in rows)
    width = max(images.shape[3] for images in rows)
    return [_padded(images, height, width) for images in coloured]


def _in_colours(images: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Grey images in as many channels; transparent ones over white."""
    if images.shape[1] == 4:
        alpha = images[:, 3:].astype(np.float64) / 255
        over_white = images[:, :3] * alpha + _WHITE * (1 - alpha)
        return np.asarray(over_white.round(), np.uint8)
    return images.repeat(channels // images.shape[1], axis=1)


def _padded(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    factor = max(1, min(height // images.shape[2], width // images.shape[3]))
    enlarged = images.repeat(factor, axis=2).repeat(factor, axis=3)
    n, channels, inner_height, inner_width = enlarged.shape
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded = np.full((n, channels, height, width), _WHITE, np.uint8)
    padded[:, :, top : top + inner_height, left : left + inner_width] = enlarged
    return padded
