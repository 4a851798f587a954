"""FID of the averaged weights now and then during training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.request import ScoringRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.generation.batching import BatchSize
from ddpm_cli.core.generation.data_conditions import plan_of, representative_rows
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model, usual_sampling
from ddpm_cli.core.generation.run_images import generated_images
from ddpm_cli.core.generation.starts import given as given_images
from ddpm_cli.core.metrics.collect import Keep
from ddpm_cli.core.metrics.evaluate import evaluate
from ddpm_cli.core.metrics.feature_cache import collect_cached
from ddpm_cli.core.metrics.inputs.images import MAX_BATCH, ImageSet
from ddpm_cli.core.metrics.inputs.opening import TrainingImages
from ddpm_cli.core.metrics.networks.extraction import Extractor, ExtractorSettings
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.requested import RequestedMetrics
from ddpm_cli.core.metrics.scores.score import digits
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.elastic import stopping
from ddpm_cli.core.runtime.files import write_text
from ddpm_cli.core.runtime.reporting import Dispensable, Reporter, Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory
from ddpm_cli.core.training.budget import BudgetTracker
from ddpm_cli.core.training.trainer import Execution

_COUNT = 5000  # images sampled for a score
_STEPS = 50  # of DDIM
_BATCH = 64  # images at a time, after which a signal to stop is noticed
_CURVE = "scores.png"  # in the run directory


def load_extractor(request: ScoringRequest, device: torch.device, reporter: Reporter) -> Extractor:
    """The feature network of the scores: a named one, or a classifier of train-classifier."""
    settings = ExtractorSettings(request.weights, request.features, batch=_BATCH, prefix="--fid-")
    return settings.load(device, reporter)


def score_label(count: int, name: str = "FID") -> str:
    """`fid5k`: never bare FID, because FID of 5,000 images is larger than of 50,000."""
    thousands, rest = divmod(count, 1000)
    apart = "-" if name[-1].isdigit() else ""  # fd-dinov2-5k
    return f"{name.lower()}{apart}{count if rest else f'{thousands}k'}"


class TrainingScorer:
    """FID of images sampled from the averaged weights, against the training images.

    The images have the same noise every time. Each score is a line of scores.jsonl, and the best
    score's weights are kept beside the run's. Every rank samples and evaluates its shard.
    """

    def __init__(
        self,
        request: ScoringRequest,
        extractor: Extractor,
        run: RunDirectory,
        config: RunConfig,
        images: DecodedImages,
        seen: int,
        execution: Execution,
        reporter: Reporter,
        stop: stopping.StopRequest,
    ) -> None:
        self.every, self.count = request.every or 0, request.count or _COUNT
        self.extractor, self.run, self.config = extractor, run, config
        self.execution, self.reporter, self.stop = execution, reporter, stop
        self._dispensable = Dispensable(reporter)
        self.sampling = usual_sampling(config, _STEPS)
        real = TrainingImages(images, config.data.source)
        interruptible = _Interruptible(real, MAX_BATCH, stop, run.path)
        real_features = collect_cached(interruptible, extractor, Keep(), "real", reporter)
        self._real = real_features.statistics
        self._images, self._chosen = images, representative_rows(images, self.count)
        # Distributed as the training images' are.
        with distributed.local_rank0_first():
            self._conditions = plan_of(config, images, self._chosen, extractor.device, reporter)
        self._rows = distributed.broadcast_from_rank0(lambda: self._earlier_scores(seen))

    @property
    def label(self) -> str:
        """The scores' name, as `score_label`."""
        return score_label(self.count, self.extractor.origin.label("FID"))

    def announce(self, averaged: Denoiser, budget: BudgetTracker) -> None:
        """Measure what one score will cost, on a few images, and report it before training."""
        few = min(self.count, 2 * distributed.world_size())
        more = min(self.count, self.extractor.batch * distributed.world_size())
        self._seconds(averaged, few)  # the first images of a network take longer
        least, most = self._seconds(averaged, few), self._seconds(averaged, more)
        each = max(0.0, most - least) / max(1, more - few)
        (seconds,) = distributed.all_reduce_max(least + each * (self.count - few))
        total = ""
        if budget.images is not None:
            times = max(1, budget.images // self.every)
            total = f", {times} times: {seconds * times / 60:.1f} min in all"
        elif budget.seconds is not None:
            total = f", out of the training's {budget.seconds / 60:g} minutes"
        self.reporter.say(
            f"{self.label} every {self.every:,} images: about {seconds:.0f} s each{total} "
            f"({self.count:,} images in {self.sampling.steps} steps)"
        )

    def is_due(self, images: int, *, end: bool) -> bool:
        """Whether a multiple of `every` was passed since the last score, or training ends."""
        last = max((row["images"] for row in self._comparable()), default=0)
        return images // self.every > last // self.every or (end and images > last)

    def score(self, averaged: Denoiser, images: int) -> None:
        """Score the weights as they are now, and keep them if they are the best so far.

        Raises PreemptedError or StoppedByUserError, on all ranks, where one is asked to stop.
        """
        started = time.monotonic()
        report = self._evaluate(averaged, self.count, images)
        seconds, fid = time.monotonic() - started, cast(float, report.fid)
        best = min((row["value"] for row in self._comparable()), default=math.inf)
        row = {"images": images, "label": self.label, "value": fid, "steps": self.sampling.steps}
        row |= {"precision": devices.precision_name(self.execution.precision)}  # of sampling
        row |= {"seconds": round(seconds, 2), "protocol": report.protocol_line()}
        self._rows.append(row | {"weights_sha256": self.extractor.weights_sha256})
        network = cast(nn.Module, averaged.network) if fid < best else None
        distributed.broadcast_from_rank0(lambda: self._write(network, images))
        comparison = "the best so far" if fid < best else f"the best is {digits(best)}"
        self.reporter.say(
            f"{self.label} {digits(fid)} at {images:,} images ({comparison}; {seconds:.0f} s)"
        )

    def _write(self, best: nn.Module | None, images: int) -> None:
        """Write all scores, their plot and, where they are the best so far, the weights."""
        lines = (json.dumps(entry) + "\n" for entry in self._rows)
        write_text(self.run.scores, "".join(lines))
        with self._dispensable.attempt("the curve of the scores"):
            from ddpm_cli.core.figures import plots  # imports matplotlib, on rank 0 alone

            plots.score_curve(self.run.path / _CURVE, self._comparable())
        if best is not None:
            file = self.run.path / f"best-{self.label}.safetensors"
            statistics = self.run.read_statistics()
            weights.save(file, best.state_dict(), self.config, images, statistics)

    def _comparable(self) -> list[dict[str, Any]]:
        """Scores of as many images, in the features of the same weights."""
        sha256 = self.extractor.weights_sha256
        return [
            row
            for row in self._rows
            if row["label"] == self.label and row.get("weights_sha256") == sha256
        ]

    def _seconds(self, averaged: Denoiser, count: int) -> float:
        started = time.monotonic()
        self._evaluate(averaged, count, 0)
        return time.monotonic() - started

    def _evaluate(self, averaged: Denoiser, count: int, images: int) -> Report:
        device, precision = self.extractor.device, self.execution.precision
        model = Model(self.run.weights, averaged, self.config, images, "", device, precision)
        given = given_images.of_data(model, self._images, self._chosen)
        request = GenerationRequest(count, 0, self._conditions, self.sampling, given)
        batch = BatchSize(self.extractor.batch, given=False)
        fake = generated_images(self.label, model, request, batch)
        interruptible = _Interruptible(fake, self.extractor.batch, self.stop, self.run.path)
        requested = RequestedMetrics(frozenset({"fid"}), spread=False, cache=False)
        return evaluate(self._real, interruptible, self.extractor, requested, Silent())[0]

    def _earlier_scores(self, seen: int) -> list[dict[str, Any]]:
        """Scores up to the images seen; later ones are discarded by a resume."""
        return [row for row in self.run.score_rows() if row["images"] <= seen]


class _Interruptible:
    """An image set whose iteration ends where any rank is asked to stop: all agree each batch."""

    def __init__(self, images: ImageSet, batch: int, stop: stopping.StopRequest, run: Path) -> None:
        self.label, self.counts, self._images = images.label, images.counts, images
        self.labels, self.classes = images.labels, images.classes
        self.why_no_classes = images.why_no_classes
        self._batch, self._stop, self._run = batch, stop, run

    def __len__(self) -> int:
        return len(self._images)

    def content(self) -> str | None:
        """Hash of the images, as the image set's."""
        return self._images.content()

    def batches(self, part: slice) -> Iterator[Tensor]:
        """Iterate over a slice. Raises PreemptedError or StoppedByUserError on a signal."""
        batches = self._images.batches(part)
        for _ in range(math.ceil(len(self) / distributed.world_size() / self._batch)):
            (received,) = distributed.all_reduce_max(self._stop.signal)
            if received:
                raise stopping.stopped_error(int(received), str(self._run))
            yield from islice(batches, 1)
        yield from batches  # there are more of them where memory ran out
        self.counts = self._images.counts

    def at(self, indices: Sequence[int]) -> list[Tensor]:
        """Read or sample these images again."""
        return self._images.at(indices)

    def name(self, index: int) -> str:
        """Which image this is."""
        return self._images.name(index)
