"""Where models meet scores: a run as pictures to judge, and a score now and then in training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddpm_cli.core import plots, weights
from ddpm_cli.core.config import RunConfig
from ddpm_cli.core.data.loader import Pictures
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import drawing
from ddpm_cli.core.metrics.evaluate import Wanted, judge
from ddpm_cli.core.metrics.extraction import Extractor
from ddpm_cli.core.metrics.gathering import Keep, gather_cached
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.sides import DrawnPictures, TrainingPictures
from ddpm_cli.core.runtime import devices, distributed, rundir
from ddpm_cli.core.runtime.atomic import write_text
from ddpm_cli.core.runtime.reporting import Reporter, Silent
from ddpm_cli.core.runtime.rundir import RunDirectory
from ddpm_cli.core.training.budget import Clock

STEPS = 50  # of DDIM, for the pictures that a training is judged by
_SCORES, _CURVE = "scores.jsonl", "scores.png"  # in the run directory


def is_run(spec: str) -> bool:
    """Whether this names a run directory or a model's weights file."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path.suffix == ".safetensors"
    return (
        rundir.RunDirectory(path).weights.is_file() and rundir.RunDirectory(path).config.is_file()
    )


def drawn_by_run(
    path: Path,
    count: int,
    seed: int,
    how: Sampling,
    batch: int,
    device: torch.device,
    reporter: Reporter,
) -> DrawnPictures:
    """Pictures of a run, drawn while they are judged: those that `ddpm sample` would write."""
    precision = devices.choose_precision("auto", device)
    model = drawing.load_model(rundir.find_weights(path.expanduser()), device, precision)
    request = drawing.make_request(model, count, seed, None, how)
    reporter.say(
        f"{model.path}: {model.images:,} images seen; drawing {count:,} pictures in {how.steps} "
        f"steps, eta {how.eta:g}, guidance {how.guidance:g}, seed {seed}"
    )
    return DrawnPictures(str(path), count, lambda indices: _drawn(model, request, indices, batch))


def _drawn(
    model: drawing.Model, request: drawing.Request, indices: range, batch: int
) -> Iterator[Tensor]:
    for _, pictures in drawing.draw(model, request, indices, batch, Silent()):
        yield torch.from_numpy(pictures)


@dataclass(frozen=True)
class Plan:
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


class _GivenUpError(Exception):
    """A score that was begun and is not worth finishing."""


def _until(stop: Callable[[], bool], batches: Iterator[Tensor], rounds: int) -> Iterator[Tensor]:
    """Hand on batches, one a round, until any process is asked to stop: they agree each round."""
    for _ in range(rounds):
        if any(distributed.largest(stop())):
            raise _GivenUpError
        yield from islice(batches, 1)


class TrainingScore:
    """FID of the averaged weights' pictures, against the training's, now and then while it runs.

    The pictures have the same noise every time. Each score is a line of scores.jsonl, and the best
    one's weights are kept beside the run's. All processes draw and judge their share.
    """

    def __init__(
        self,
        plan: Plan,
        reporter: Reporter,
        precision: torch.dtype,
        run: RunDirectory,
        config: RunConfig,
        pictures: Pictures,
        seen: int,
    ) -> None:
        self.plan, self.run, self.config = plan, run, config
        self.reporter, self.precision = reporter, precision
        side = TrainingPictures(pictures, config.data.source, config.data.fingerprint)
        self._real = gather_cached(side, plan.extractor, Keep(), "real", reporter).statistics
        self._rows = distributed.told_by_first(lambda: self._earlier(seen))

    def announce(self, averaged: Denoiser, clock: Clock) -> None:
        """Measure what one score will cost, on a few pictures, and say it before training."""
        few = min(self.plan.count, 2 * distributed.world_size())
        more = min(self.plan.count, self.plan.extractor.batch * distributed.world_size())
        self._timed(averaged, few)  # the first pictures of a network take longer
        least, most = self._timed(averaged, few), self._timed(averaged, more)
        each = max(0.0, most - least) / max(1, more - few)
        (seconds,) = distributed.largest(least + each * (self.plan.count - few))
        in_all = ""
        if clock.images is not None:
            times = max(1, clock.images // self.plan.every)
            in_all = f", {times} times: {seconds * times / 60:.1f} min in all"
        elif clock.seconds is not None:
            in_all = f", out of the training's {clock.seconds / 60:g} minutes"
        self.reporter.say(
            f"{self.plan.label} every {self.plan.every:,} images: about {seconds:.0f} s each"
            f"{in_all} ({self.plan.count:,} pictures in {STEPS} steps)"
        )

    def due(self, images: int, *, ending: bool) -> bool:
        """Whether a multiple of `every` was passed since the last score, or training ends."""
        last = self._rows[-1]["images"] if self._rows else 0
        return images // self.plan.every > last // self.plan.every or (ending and images > last)

    def __call__(self, averaged: Denoiser, images: int, stop: Callable[[], bool]) -> None:
        """Judge the weights as they are now, and keep them if they are the best so far.

        Where any process is asked to stop, all give it up between two batches of pictures.
        """
        started = time.monotonic()
        try:
            report = self._judged(averaged, self.plan.count, images, stop)
        except _GivenUpError:
            return
        seconds, fid = time.monotonic() - started, cast(float, report.fid)
        best = min((row["value"] for row in self._rows), default=math.inf)
        row = {"images": images, "label": self.plan.label, "value": fid, "steps": STEPS}
        row |= {"seconds": round(seconds, 2), "protocol": report.protocol_line()}
        self._rows.append(row)
        if distributed.is_first():
            lines = (json.dumps(entry) + "\n" for entry in self._rows)
            write_text(self.run.path / _SCORES, "".join(lines))
            plots.score_curve(self.run.path / _CURVE, self._rows)
            if fid < best:
                place = self.run.path / f"best-{self.plan.label}.safetensors"
                network = cast(nn.Module, averaged.network)
                weights.save(place, network.state_dict(), self.config, images)
        word = "the best so far" if fid < best else f"the best is {best:.3f}"
        self.reporter.say(
            f"{self.plan.label} {fid:.3f} at {images:,} images ({word}; {seconds:.0f} s)"
        )

    def _timed(self, averaged: Denoiser, count: int) -> float:
        started = time.monotonic()
        self._judged(averaged, count, 0, lambda: False)
        return time.monotonic() - started

    def _judged(
        self, averaged: Denoiser, count: int, images: int, stop: Callable[[], bool]
    ) -> Report:
        extractor = self.plan.extractor
        names = self.config.network.classes
        model = drawing.Model(
            self.run.weights, averaged, self.config, images, "", extractor.device, self.precision
        )
        request = drawing.Request(count, 0, tuple(range(len(names))), Sampling(STEPS))
        rounds = math.ceil(count / distributed.world_size() / extractor.batch)

        def draw(indices: range) -> Iterator[Tensor]:
            return _until(stop, _drawn(model, request, indices, extractor.batch), rounds)

        side = DrawnPictures(self.plan.label, count, draw)
        wanted = Wanted(frozenset({"fid"}), spread=False, cache=False)
        return judge(self._real, side, extractor, wanted, Silent())[0]

    def _earlier(self, seen: int) -> list[dict[str, Any]]:
        """Scores of the same kind up to where the run stands; others are forgotten."""
        try:
            text = (self.run.path / _SCORES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = [json.loads(line) for line in text.splitlines()]
        return [row for row in rows if row["label"] == self.plan.label and row["images"] <= seen]
