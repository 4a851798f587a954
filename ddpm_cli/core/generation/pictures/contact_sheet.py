"""Contact sheets: the same noise by other settings, beside each other, to choose among them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.pictures.sheets import Words
from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import UsageError, listed
from ddpm_cli.core.generation import batching
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.generate import sample_batches, sample_steps, sampler_told
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.outputs.record import settings_of
from ddpm_cli.core.generation.pictures.arrangement import name_of
from ddpm_cli.core.generation.pictures.axes import SHOWN, Axis, Cell
from ddpm_cli.core.metrics.collect import Keep
from ddpm_cli.core.metrics.evaluate import evaluate
from ddpm_cli.core.metrics.feature_cache import collect_cached
from ddpm_cli.core.metrics.inputs.opening import GeneratedImages, open_input
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.statistics import Statistics
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import new_file, write_json
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import SILENT, PartOfBar, Reporter

_MOST = 100  # images of a cell that are shown, unless rows and columns are given
NAME = "sheet.png"
_WIDTH = 1024  # pixels of the sheet, at least
_NAMED = 16  # images of a cell whose classes are told
_GAP = 14  # pixels between cells


@dataclass(frozen=True)
class CellResult:
    """What was sampled of a cell."""

    images: NDArray[np.uint8]  # those that are shown, (n, C, H, W)
    seconds: float
    report: Report | None = None  # of all images

    @property
    def fid(self) -> float | None:
        """The distance from the real images, where it was asked for."""
        return None if self.report is None else self.report.fid


@dataclass(frozen=True)
class Scorer:
    """FID of cells against the same real images."""

    name: str
    real: Statistics
    extractor: Extractor

    @classmethod
    def load(
        cls,
        name: str,
        settings: ExtractorSettings,
        device: torch.device,
        reporter: Reporter,
    ) -> Scorer:
        """Features of the images of this name. Raises DdpmError where there are none."""
        real = open_input(name, reporter=reporter)
        extractor = settings.load(device, reporter)
        if not isinstance(real, Statistics):
            real = collect_cached(real, extractor, Keep(), "real", reporter).statistics
        return cls(name, real, extractor)

    def score(self, images: GeneratedImages) -> Report:
        """The FID of images, which are sampled as it needs them."""
        requested = RequestedMetrics(frozenset({"fid"}), spread=False, cache=False)
        return evaluate(self.real, images, self.extractor, requested, SILENT)[0]


def training_data(model: Model) -> str:
    """The name of the data set that a model was trained on. Raises UsageError for other images."""
    data = model.config.data
    name = data.source if data.source == "shapes" else data.fingerprint
    if data.source == "shapes" or name.partition(":")[0] == data.source.removesuffix("-test"):
        return name
    raise UsageError(
        f"--score: {model.path} was trained on {data.source}, which is no data set by name; say "
        "where its images are, as --score FOLDER"
    )


@dataclass(frozen=True)
class ContactSheet:
    """Cells of the same images by other settings. `shown`: how many of each are seen."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    shown: int
    across: int | None = None  # images beside each other in a cell; None: near square
    scorer: Scorer | None = None

    @classmethod
    def of(
        cls,
        axes: tuple[Axis, ...],
        cells: Sequence[Cell],
        size: tuple[int, int] | None,
        scorer: Scorer | None,
    ) -> ContactSheet:
        """A sheet whose cells show rows x columns of their images, or as many as are usual."""
        count = cells[0].request.count
        usual = min(SHOWN if scorer else _MOST, count)
        shown, across = (usual, None) if size is None else (min(count, prod(size)), size[1])
        if scorer is None:  # what is not shown is not needed
            cells = [replace(c, request=replace(c.request, count=shown)) for c in cells]
        return cls(axes, tuple(cells), shown, across, scorer)

    @property
    def calls(self) -> int:
        """Network calls for all images of all cells."""
        return sum(cell.calls for cell in self.cells)

    def cost(self, batch: Batch, reporter: Reporter) -> str:
        """How much there is to do, in words, by a network call that is timed."""
        first = self.cells[0]
        images = f"{first.request.count:,} image{'s' * (first.request.count > 1)}"
        (each,) = distributed.all_reduce_max(_seconds_of_call(first, batch, reporter))
        seconds = each * self.calls / distributed.world_size()
        scored = " without the features of scores" if self.scorer else ""
        return (
            f"a sheet of {len(self.cells)} settings, {images} each: {self.calls:,} network calls, "
            f"about {roughly(seconds)}{scored}"
        )

    def write(
        self, out: Path | None, batch: Batch, reporter: Reporter, *, overwrite: bool
    ) -> tuple[Path, dict[str, Any]]:
        """Draw the sheet: its picture, and its document, which has the same name, as JSON.

        out: the picture (.png) or a folder for it; None: beside the weights, under a new name.
        Raises DdpmError before anything is sampled where there are such files.
        """
        wanted = self.cells[0].model.folder / NAME if out is None else out
        if out is not None and out.suffix != ".png":
            wanted = out / NAME
        with ExitStack() as stack:

            def claimed() -> Path:
                replaced = overwrite and wanted.is_file()
                claim = new_file(wanted, overwrite=overwrite, numbered=out is None)
                path = stack.enter_context(claim)
                stack.enter_context(new_file(path.with_suffix(".json"), overwrite=replaced))
                return path

            path, started = distributed.broadcast_from_rank0(claimed), time.monotonic()
            reporter.say(self.cost(batch, reporter))
            drawn = self.draw(batch, reporter)
            document = {"out": str(path)} | self.document(drawn)
            document["seconds"] = round(time.monotonic() - started, 3)
            if distributed.is_main():
                files.write_png(path, self.picture(drawn))
                write_json(path.with_suffix(".json"), document, durable=False)
        return path, document

    def draw(self, batch: Batch, reporter: Reporter) -> list[CellResult]:
        """Sample every cell, by all processes. batch: as that of `sample_batches`."""
        drawn, done = [], 0
        with reporter.bar("contact sheet", self.calls, "network calls") as bar:
            for cell in self.cells:
                drawn.append(self._sampled(cell, batch, PartOfBar(reporter, bar, done, cell.nfe)))
                done += cell.calls
                bar.update(done)
        return drawn

    def _sampled(self, cell: Cell, batch: Batch, reporter: Reporter) -> CellResult:
        started, kept = time.monotonic(), dict[int, ImageArray]()

        def batches(indices: Sequence[int]) -> Iterator[torch.Tensor]:
            sampled = sample_batches(cell.model, cell.request, indices, batch, reporter)
            for chosen, images in sampled:
                kept.update((i, x) for i, x in zip(chosen, images, strict=True) if i < self.shown)
                yield torch.from_numpy(images)

        report, count = None, cell.request.count
        if self.scorer is None:
            for _ in batches(range(count)[distributed.shard(count)]):
                pass
        else:
            settings = settings_of(cell.model, cell.request)
            report = self.scorer.score(GeneratedImages("the cell", count, batches, settings))
        for others in distributed.all_gather(kept):
            kept |= others
        images = np.stack([kept[index] for index in range(self.shown)])
        return CellResult(images, time.monotonic() - started, report)

    def best(self, drawn: Sequence[CellResult]) -> int | None:
        """The cell of the smallest distance; None without scores."""
        scores = [cell.fid for cell in drawn]
        known = [score for score in scores if score is not None]
        return scores.index(min(known)) if known else None

    def picture(self, drawn: Sequence[CellResult]) -> ImageArray:
        """The sheet, (C, H, W)."""
        best = self.best(drawn)
        columns, *rows = self.axes
        captions = [
            _score_of(cell.report) + (", lowest" if i == best else "")
            for i, cell in enumerate(drawn)
            if cell.report is not None
        ]
        words = Words(
            self._heading(), columns.titles, rows[0].titles if rows else (), captions=captions
        )
        tiles = np.stack([sheets.grid(cell.images, self.across, gap=1) for cell in drawn])
        marked = () if best is None else (best,)
        return sheets.sheet(
            tiles, len(columns.values), words, gap=_GAP, width=_WIDTH, marked=marked
        )

    def _heading(self) -> str:
        """What all cells have in common."""
        request, names = self.cells[0].request, {axis.name for axis in self.axes}
        sampling = request.sampling
        common = sampler_told(sampling) | {"guidance": f"guidance {sampling.guidance:g}"}
        if "sampler" in names:
            names.add("eta")  # which not every sampler takes
        words = [text for name, text in common.items() if name not in names]
        if (guide := self.cells[0].model.guide) is not None:
            words.append(f"guide of {guide.images:,} images seen")
        if sampling.class_guidance != 1:
            words.append(f"class guidance {sampling.class_guidance:g}")
        last = request.seed + self.shown - 1
        words.append(f"seeds {request.seed} to {last}" if self.shown > 1 else f"seed {last}")
        classes = [name_of(self.cells[0].model, request, index) for index in range(self.shown)]
        if any(classes):
            alike = len(set(classes)) == 1
            words.append(classes[0] if alike else f"row by row: {listed(classes, _NAMED)}")
        heading = ", ".join(words)
        if self.scorer is None:
            return heading
        return (
            f"{heading}; scores of {request.count:,} images against {Path(self.scorer.name).name}"
        )

    def document(self, drawn: Sequence[CellResult]) -> dict[str, Any]:
        """The values and the scores of all cells, row by row."""
        first, best = self.cells[0], self.best(drawn)
        own = Sampling().document().keys() | {"weights", "weights_sha256", "images_seen"}
        settings = settings_of(first.model, first.request)
        cells = [_entry(cell, result) for cell, result in zip(self.cells, drawn, strict=True)]
        columns, *rows = ({"option": axis.name, "values": list(axis.values)} for axis in self.axes)
        document = {
            "n": first.request.count,
            "shown": self.shown,
            "network_calls": self.calls,
            "columns": columns,
            "rows": rows[0] if rows else None,
            **{name: value for name, value in settings.items() if name not in own},
            "cells": cells,
            "best": None if best is None else cells[best],
        }
        report = drawn[0].report
        if report is not None:
            scores = report.document()
            names = ("label", "features", "protocol", "weights_sha256", "line")
            document["score"] = {name: scores.get(name) for name in names}
        return document


def _entry(cell: Cell, drawn: CellResult) -> dict[str, Any]:
    """What there is to know of a cell."""
    entry = {
        "values": cell.values,
        **cell.request.sampling.document(),
        "weights": str(cell.model.path),
        "weights_sha256": cell.model.sha256,
        "images_seen": cell.model.images,
        "nfe": cell.nfe,
        "seconds": round(drawn.seconds, 3),
    }
    return entry if drawn.fid is None else entry | {"fid": drawn.fid}


def _score_of(report: Report) -> str:
    assert report.fid is not None, "FID was requested"
    name = report.origin.label("FID").replace("local-", "local ")
    return f"{name} {report.fid:.0f}" if report.fid >= 1000 else f"{name} {report.fid:.3g}"


def _seconds_of_call(cell: Cell, batch: Batch, reporter: Reporter) -> float:
    """Seconds of a network call for one image, among as many as are sampled at a time."""
    sampling = Sampling(steps=1).with_default_steps(len(cell.model.denoiser.schedule))
    if cell.model.guide is not None:  # the mean of both networks' calls
        sampling = replace(sampling, guide=str(cell.model.guide.path), guidance=2.0)
    calls = evaluations(cell.model.denoiser.schedule, sampling)
    request = replace(cell.request, sampling=sampling, init=None)

    def step(count: int) -> torch.Tensor:
        return next(sample_steps(cell.model, request, range(count))).x.cpu()

    size, times = batching.choose(batch, request.count, cell.model.device, step), list[float]()
    while len(times) < 2:  # the first images of a network take longer
        count, started = min(size.images, request.count), time.monotonic()
        if size.attempt(count, partial(step, count), reporter) is not None:
            times.append((time.monotonic() - started) / (count * calls))
    return times[-1]
