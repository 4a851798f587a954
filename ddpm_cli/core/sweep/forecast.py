"""What a sweep will cost: network calls, which are counted, and seconds, by a trial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from ddpm_cli.core.data.pixels import to_uint8
from ddpm_cli.core.diffusion.sampling import evaluations
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import batching
from ddpm_cli.core.generation.batching import Batch
from ddpm_cli.core.generation.generate import GenerationRequest, sample_steps
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime.quantities import roughly
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.sweep.axes import Values
from ddpm_cli.core.sweep.scoring import Scorer
from ddpm_cli.core.sweep.swept_model import SweptModel

_STEPS = 4  # of the trial, the first of which is not timed: it takes longer


class Rates(NamedTuple):
    """Seconds of the parts of a sweep."""

    call: float  # of the network, for an image
    features: float  # of an image
    score: float  # of a setting
    rebuild: float = 0.0  # of an average

    def of(self, images: int, nfe: int) -> float:
        """Seconds of a setting of so many images and network calls for each."""
        return images * (nfe * self.call + self.features) + self.score


@dataclass(frozen=True)
class Cost:
    """What the settings that are not known yet cost."""

    settings: int
    known: int  # that were measured before
    images: int  # of a setting
    calls: int  # of the network, each image counted for itself
    seconds: float
    rates: Rates
    real: int = 0  # images whose features are extracted first
    real_seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        document = asdict(self)
        del document["rates"]
        return document

    def told(self) -> str:
        """In words."""
        known = f", {self.known} of them known" if self.known else ""
        scored = f"{self.settings} settings{known}, {self.images:,} images each: "
        first = ""
        if self.real:
            first = f", with {roughly(self.real_seconds)} for {self.real:,} real images, once"
        total = roughly(self.seconds + self.real_seconds)
        return f"{scored}{self.calls:,} network calls, about {total}{first}"


def cost(
    swept: SweptModel,
    scorer: Scorer,
    planned: Sequence[Values],
    known: int,
    rates: Rates,
) -> Cost:
    """Of those planned, in this order, beside `known` others that were measured."""
    count = swept.request.count
    calls = [swept.nfe(values) for values in planned]
    lengths = [values.get("sigma_rel") for values in planned]
    rebuilt = sum(now is not None and now != last for last, now in pairwise([None, *lengths]))
    seconds = sum(rates.of(count, nfe) for nfe in calls) + rebuilt * rates.rebuild
    return Cost(
        settings=known + len(planned),
        known=known,
        images=count,
        calls=count * sum(calls),
        seconds=seconds,
        rates=rates,
        real=scorer.waits_for_real,
        real_seconds=scorer.waits_for_real * rates.features,
    )


def measured_rates(
    swept: SweptModel,
    scorer: Scorer,
    planned: Sequence[Values],
    batch: Batch,
    reporter: Reporter,
) -> Rates:
    """Measure them, by a few steps of the model itself as a setting has it.

    It is the one of the most network calls, which calls a guide where any does.
    """
    tried = max(planned, key=swept.nfe)
    request = swept.requested(tried)
    started = time.monotonic()
    model = swept.with_weights(tried)
    rebuild = time.monotonic() - started if "sigma_rel" in tried else 0.0
    call, images = _seconds_of_call(model, request, batch, reporter)
    features = _seconds_of_features(scorer, images)
    return Rates(call, features, scorer.seconds_of_score(request.count), rebuild)


def _seconds_of_call(
    model: Model, request: GenerationRequest, batch: Batch, reporter: Reporter
) -> tuple[float, torch.Tensor]:
    """Seconds of a network call for an image among as many as are sampled at a time, and images."""
    schedule = model.denoiser.schedule
    asked = request.sampling
    sampling = Sampling(
        steps=min(_STEPS, len(schedule)),
        guidance=asked.guidance,
        guide=asked.guide,
        class_guidance=asked.class_guidance,
        guidance_learned=asked.guidance_learned,
    )
    request = replace(request, sampling=sampling)

    def step(count: int) -> torch.Tensor:
        return next(sample_steps(model, request, range(count))).x.cpu()

    def steps(count: int) -> tuple[float, torch.Tensor]:
        every = sample_steps(model, request, range(count))
        x, started, timed = next(every).x.cpu(), time.monotonic(), 0
        for timed, each in enumerate(every, 1):  # noqa: B007
            x = each.x.cpu()
        calls = evaluations(schedule, sampling) * timed / (timed + 1)
        return (time.monotonic() - started) / max(count * calls, 1), x

    size = batching.choose(batch, request.count, model.device, step)
    while True:
        count = min(size.images, request.count)
        measured = size.attempt(count, partial(steps, count), reporter)
        if measured is not None:
            return measured[0], to_uint8(measured[1])


def _seconds_of_features(scorer: Scorer, images: torch.Tensor) -> float:
    """Seconds of an image's features: the second time, as the first takes longer."""
    extractor, seconds = scorer.extractor, 0.0
    images = images[: extractor.batch]
    for _ in range(2):
        started = time.monotonic()
        for found in extractor.features([images]):
            found.pool.cpu()
        seconds = (time.monotonic() - started) / len(images)
    return seconds
