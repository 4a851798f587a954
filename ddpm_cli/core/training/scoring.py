"""Scores at intervals in training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.requests import ConditionPlan, default_plan
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data import loader
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.figures import plots
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.run_images import generated_images
from ddpm_cli.core.metrics.collect import Keep, collect_cached
from ddpm_cli.core.metrics.evaluate import RequestedMetrics, evaluate
from ddpm_cli.core.metrics.extraction import Extractor
from ddpm_cli.core.metrics.images import RUN_LENGTH, ImageSet
from ddpm_cli.core.metrics.inputs import TrainingImages
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.elastic import stopping
from ddpm_cli.core.runtime.files import write_text
from ddpm_cli.core.runtime.reporting import Reporter, Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.budget import Clock

STEPS = 50  # of DDIM, for the pictures that a training is judged by
_SCORES, _CURVE = "scores.jsonl", "scores.png"  # in the run directory


@dataclass(frozen=True)
class ScoringPlan:
    """When and how a training is judged."""

    every: int  # images between scores
    count: int  # pictures drawn for one
    extractor: Extractor

    @property
    def label(self) -> str:
        """`fid5k`: never bare FID, because FID of 5,000 pictures is larger than of 50,000."""
        thousands, rest = divmod(self.count, 1000)
        prefix = "local-" if self.extractor.protocol.local else ""
        return f"{prefix}fid{self.count if rest else f'{thousands}k'}"


class Interruptible:
    """ImageSet whose walk ends where any process is asked to stop: all agree before each batch."""

    def __init__(
        self, pictures: ImageSet, batch: int, request: stopping.StopRequest, run: Path
    ) -> None:
        self.label, self.tally, self._pictures = pictures.label, pictures.tally, pictures
        self._batch, self._request, self._run = batch, request, run

    def __len__(self) -> int:
        return len(self._pictures)

    def content(self) -> str | None:
        """What the pictures are."""
        return self._pictures.content()

    def walk(self, part: slice) -> Iterator[Tensor]:
        """Walk through a stretch. Raises PreemptedError or StoppedByUserError on a signal."""
        batches = self._pictures.walk(part)
        for _ in range(math.ceil(len(self) / distributed.world_size() / self._batch)):
            (heard,) = distributed.all_reduce_max(self._request.signal)
            if heard:
                raise stopping.stopped_error(int(heard), str(self._run))
            yield from islice(batches, 1)
        self.tally = self._pictures.tally


class TrainingScorer:
    """FID of the averaged weights' pictures, against the training's, now and then while it runs.

    The pictures have the same noise every time. Each score is a line of scores.jsonl, and the best
    one's weights are kept beside the run's. All processes draw and judge their share.
    """

    def __init__(
        self,
        plan: ScoringPlan,
        reporter: Reporter,
        precision: torch.dtype,
        run: RunDirectory,
        config: RunConfig,
        pictures: loader.DecodedImages,
        seen: int,
        request: stopping.StopRequest,
    ) -> None:
        self.plan, self.run, self.config = plan, run, config
        self.reporter, self.precision, self.request = reporter, precision, request
        self.steps = min(STEPS, config.diffusion.timesteps)
        real = TrainingImages(pictures, config.data.source)
        side = Interruptible(real, RUN_LENGTH, request, run.path)
        self._real = collect_cached(side, plan.extractor, Keep(), "real", reporter).statistics
        self._wishes = self._as_the_data(pictures)
        self._rows = distributed.broadcast_from_rank0(lambda: self._earlier(seen))

    def announce(self, averaged: Denoiser, clock: Clock) -> None:
        """Measure what one score will cost, on a few pictures, and say it before training."""
        few = min(self.plan.count, 2 * distributed.world_size())
        more = min(self.plan.count, self.plan.extractor.batch * distributed.world_size())
        self._timed(averaged, few)  # the first pictures of a network take longer
        least, most = self._timed(averaged, few), self._timed(averaged, more)
        each = max(0.0, most - least) / max(1, more - few)
        (seconds,) = distributed.all_reduce_max(least + each * (self.plan.count - few))
        in_all = ""
        if clock.images is not None:
            times = max(1, clock.images // self.plan.every)
            in_all = f", {times} times: {seconds * times / 60:.1f} min in all"
        elif clock.seconds is not None:
            in_all = f", out of the training's {clock.seconds / 60:g} minutes"
        self.reporter.say(
            f"{self.plan.label} every {self.plan.every:,} images: about {seconds:.0f} s each"
            f"{in_all} ({self.plan.count:,} pictures in {self.steps} steps)"
        )

    def due(self, images: int, *, ending: bool) -> bool:
        """Whether a multiple of `every` was passed since the last score, or training ends."""
        last = max((row["images"] for row in self._alike()), default=0)
        return images // self.plan.every > last // self.plan.every or (ending and images > last)

    def __call__(self, averaged: Denoiser, images: int) -> None:
        """Judge the weights as they are now, and keep them if they are the best so far.

        Raises PreemptedError or StoppedByUserError, in all processes, where one is asked to stop.
        """
        started = time.monotonic()
        report = self._judged(averaged, self.plan.count, images)
        seconds, fid = time.monotonic() - started, cast(float, report.fid)
        best = min((row["value"] for row in self._alike()), default=math.inf)
        row = {"images": images, "label": self.plan.label, "value": fid, "steps": self.steps}
        row |= {"seconds": round(seconds, 2), "protocol": report.protocol_line()}
        self._rows.append(row | {"weights_sha256": self.plan.extractor.weights_sha256})
        network = cast(nn.Module, averaged.network) if fid < best else None
        distributed.broadcast_from_rank0(lambda: self._write(network, images))
        word = "the best so far" if fid < best else f"the best is {best:.3f}"
        self.reporter.say(
            f"{self.plan.label} {fid:.3f} at {images:,} images ({word}; {seconds:.0f} s)"
        )

    def _write(self, best: nn.Module | None, images: int) -> None:
        """Write all scores down, their curve and, where they are the best so far, the weights."""
        lines = (json.dumps(entry) + "\n" for entry in self._rows)
        write_text(self.run.path / _SCORES, "".join(lines))
        plots.score_curve(self.run.path / _CURVE, self._alike())
        if best is not None:
            place = self.run.path / f"best-{self.plan.label}.safetensors"
            weights.save(place, best.state_dict(), self.config, images)

    def _alike(self) -> list[dict[str, Any]]:
        """The rows that compare: of as many pictures, in the features of the same weights."""
        sha256 = self.plan.extractor.weights_sha256
        return [
            row
            for row in self._rows
            if row["label"] == self.plan.label and row["weights_sha256"] == sha256
        ]

    def _timed(self, averaged: Denoiser, count: int) -> float:
        started = time.monotonic()
        self._judged(averaged, count, 0)
        return time.monotonic() - started

    def _judged(self, averaged: Denoiser, count: int, images: int) -> Report:
        extractor = self.plan.extractor
        model = Model(
            self.run.weights, averaged, self.config, images, "", extractor.device, self.precision
        )
        request = GenerationRequest(count, 0, self._wishes, Sampling(self.steps))
        drawn = generated_images(self.plan.label, model, request, extractor.batch)
        side = Interruptible(drawn, extractor.batch, self.request, self.run.path)
        wanted = RequestedMetrics(frozenset({"fid"}), spread=False, cache=False)
        return evaluate(self._real, side, extractor, wanted, Silent())[0]

    def _as_the_data(self, pictures: loader.DecodedImages) -> ConditionPlan:
        """Draw the pictures' captions, evenly spread over them, or the classes in turn."""
        if pictures.captions is None:
            return default_plan(self.config)
        spread = np.linspace(0, len(pictures) - 1, min(self.plan.count, len(pictures)))
        rows = pictures.rows[spread.astype(np.int64)]
        numbers = pictures.captions.choose(rows, np.zeros(len(rows)))
        prompts = tuple(pictures.captions.sentences[number] for number in numbers)
        classes = self.config.network.classes
        labels = tuple(map(int, pictures.labels[rows])) if classes else ()
        with distributed.local_rank0_first():
            device = self.plan.extractor.device
            return ConditionPlan(labels, prompts).encode_prompts(self.config, device, self.reporter)

    def _earlier(self, seen: int) -> list[dict[str, Any]]:
        """Scores up to where the run stands; what came after is undone."""
        try:
            text = (self.run.path / _SCORES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = [json.loads(line) for line in text.splitlines()]
        return [row for row in rows if row["images"] <= seen]
