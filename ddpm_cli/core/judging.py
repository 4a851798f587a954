"""Where models meet scores: a run as pictures to judge, and a score now and then in training."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddpm_cli.core import weights
from ddpm_cli.core.config import RunConfig
from ddpm_cli.core.data.loader import Pictures
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.sampling import Sampling
from ddpm_cli.core.errors import UsageError
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

STEPS = 50  # of DDIM, for the pictures that a training is judged by
_SCORES = "scores.jsonl"  # in the run directory


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
    return drawn(model, request, batch, str(path))


def drawn(model: drawing.Model, request: drawing.Request, batch: int, label: str) -> DrawnPictures:
    """Pictures of a model as one side to judge."""

    def draw(indices: range) -> Iterator[Tensor]:
        for _, pictures in drawing.draw(model, request, indices, batch, Silent()):
            yield torch.from_numpy(pictures)

    return DrawnPictures(label, request.count, draw)


@dataclass(frozen=True)
class Plan:
    """When and how a training is judged."""

    every: int  # images between scores
    count: int  # pictures drawn for one
    extractor: Extractor

    def __post_init__(self) -> None:
        if self.every < 1 or self.count < 2:
            raise UsageError("--fid-every must be at least 1 image and --fid-n at least 2 pictures")

    @property
    def label(self) -> str:
        """`fid5k`: never bare FID, because FID of 5,000 pictures is larger than of 50,000."""
        thousands, rest = divmod(self.count, 1000)
        prefix = "local-" if self.extractor.protocol.local else ""
        return f"{prefix}fid{self.count if rest else f'{thousands}k'}"


class TrainingScore:
    """FID of the averaged weights' pictures, against the training's, now and then while it runs.

    The pictures have the same noise every time. Each score is a line of scores.jsonl, and the best
    one's weights are kept beside the run's. All processes draw and judge their share.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunDirectory,
        config: RunConfig,
        pictures: Pictures,
        reporter: Reporter,
        precision: torch.dtype,
    ) -> None:
        self.plan, self.run, self.config = plan, run, config
        self.every = plan.every
        self.reporter, self.precision = reporter, precision
        side = TrainingPictures(pictures, config.data.source, config.data.fingerprint)
        self._real = gather_cached(side, plan.extractor, Keep(), "real", reporter).statistics

    def announce(self, averaged: Denoiser, images: int | None) -> None:
        """Measure what one score will cost, on a few pictures, and say it before training."""
        few = min(self.plan.count, 2 * distributed.world_size())
        self._judged(averaged, few)  # the first pictures of a network take longer
        few = min(self.plan.count, self.plan.extractor.batch * distributed.world_size())
        seconds = self._judged(averaged, few)[1] * self.plan.count / few
        times = None if images is None else max(1, images // self.every)
        in_all = "" if times is None else f", {times} times: {seconds * times / 60:.1f} min in all"
        self.reporter.say(
            f"{self.plan.label} every {self.every:,} images: about {seconds:.0f} s each{in_all} "
            f"({self.plan.count:,} pictures in {STEPS} steps)"
        )

    def __call__(self, averaged: Denoiser, images: int) -> None:
        """Judge the weights as they are now, and keep them if they are the best so far."""
        report, seconds = self._judged(averaged, self.plan.count, images)
        assert report.fid is not None
        if not distributed.is_first():
            return
        before = [row for row in self._rows() if row["images"] < images]
        best = min((row["value"] for row in before), default=float("inf"))
        row = {"images": images, "label": self.plan.label, "value": report.fid, "steps": STEPS}
        row |= {"seconds": round(seconds, 2), "protocol": report.protocol_line()}
        lines = (json.dumps(entry) + "\n" for entry in [*before, row])
        write_text(self.run.path / _SCORES, "".join(lines))
        if report.fid < best:
            place = self.run.path / f"best-{self.plan.label}.safetensors"
            network = cast(nn.Module, averaged.network)
            weights.save(place, network.state_dict(), self.config, images)
        word = "the best so far" if report.fid < best else f"the best is {best:.3f}"
        self.reporter.say(
            f"{self.plan.label} {report.fid:.3f} at {images:,} images ({word}; {seconds:.0f} s)"
        )

    def _judged(self, averaged: Denoiser, count: int, images: int = 0) -> tuple[Report, float]:
        extractor = self.plan.extractor
        names = self.config.network.classes
        model = drawing.Model(
            self.run.weights, averaged, self.config, images, "", extractor.device, self.precision
        )
        request = drawing.Request(count, 0, tuple(range(len(names))), Sampling(STEPS))
        side = drawn(model, request, extractor.batch, self.plan.label)
        wanted = Wanted(frozenset({"fid"}), spread=False, cache=False)
        started = time.monotonic()
        report, _ = judge(self._real, side, extractor, wanted, Silent())
        return report, time.monotonic() - started

    def _rows(self) -> list[dict[str, Any]]:
        """Earlier scores of the same kind; others, of another network or n, are forgotten."""
        try:
            text = (self.run.path / _SCORES).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        rows = [json.loads(line) for line in text.splitlines()]
        return [row for row in rows if row["label"] == self.plan.label]
