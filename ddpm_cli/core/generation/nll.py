"""Bits per dimension of pictures under a trained model: a weights file and --data to a result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import CONTINUOUS
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.sources import Source, captions_of, open_source
from ddpm_cli.core.diffusion import likelihood
from ddpm_cli.core.diffusion.denoiser import Prediction
from ddpm_cli.core.diffusion.settings import VARIANCES
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.generate import Model
from ddpm_cli.core.runtime import devices, distributed, seeds
from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class Likelihood:
    """The variational bound, averaged over pictures; all in bits per dimension."""

    prior: float  # of the noisiest level
    terms: tuple[float, ...]  # of each step down, t = 0 first: the decoder's, then KL divergences
    spread: float | None  # standard error of the total over the pictures; None of one
    count: int  # pictures

    @property
    def total(self) -> float:
        """The bound on -log2 p(picture), a dimension being one channel of one pixel."""
        return self.prior + sum(self.terms)

    def document(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "total": self.total,
            "prior": self.prior,
            "kl": sum(self.terms[1:]),
            "decoder": self.terms[0],
            "standard_error": self.spread,
            "terms": list(self.terms),
            "n": self.count,
        }


def choose_variance(model: Model, variance: str | None) -> str:
    """The variance of the model's steps. Raises where the model has none such, or no steps."""
    diffusion, learned = model.config.diffusion, model.config.network.learned_variance
    if diffusion.schedule in CONTINUOUS:
        raise DdpmError(
            f"{model.path} was trained with --schedule {diffusion.schedule}: a model of continuous "
            "noise levels has no variational bound, so no bits/dim"
        )
    chosen = variance or ("learned" if learned else "fixed-large")
    if chosen not in VARIANCES:
        raise UsageError(f"--variance {chosen!r} is unknown; choose one of {', '.join(VARIANCES)}")
    if chosen == "learned" and not learned:
        raise UsageError(
            f"{model.path} has no learned variance; choose --variance fixed-small or fixed-large"
        )
    return chosen


def open_images(
    model: Model, data: str | None, reporter: Reporter, *, skip_bad: bool
) -> loader.DecodedImages:
    """The pictures to judge, labelled as the model is. Raises DdpmError where they do not fit it.

    Pictures of another size are brought to the model's only where it was trained on these same
    ones: their bits/dim would be those of other pictures.
    """
    network = model.config.network
    name = data or model.config.data.source
    if not name:
        raise UsageError(f"{model.path} does not say what it was trained on: give --data")
    source = open_source(name)
    native = (source.native_channels, *source.native_size)
    wanted = (network.channels, *network.size)
    if native != wanted and source.fingerprint != model.config.data.fingerprint:
        raise DdpmError(
            f"the pictures of {name} are {_size(native)}, and {model.path} is a model of "
            f"{_size(wanted)}; bits/dim are of whole pictures, so bring them to that size first"
        )
    labels = _labels(model, source, name)
    with distributed.local_rank0_first():
        held = loader.prepare(source, network.channels, network.size, reporter, skip_bad=skip_bad)
        if network.text is None:
            return replace(held, labels=labels)
        told = captions_of(source, model.config.data.templates)
        read = tokens.tokenise(network.text, told.sentences, model.device, reporter)
    return replace(held, labels=labels, captions=told, texts=read)


def measure(
    model: Model,
    pictures: loader.DecodedImages,
    count: int,
    seed: int,
    batch: int,
    variance: str,
    reporter: Reporter,
) -> Likelihood:
    """The bound for `count` of the pictures, chosen by the seed; one evaluation a timestep each.

    The noise of a picture depends on the seed and on which picture it is, so neither the batch nor
    the number of processes changes the result.
    """
    count = min(count, len(pictures))
    order = np.random.default_rng(seeds.derive(seed, "nll")).permutation(len(pictures))[:count]
    mine = order[distributed.shard(count)]
    steps = len(model.denoiser.schedule)
    sums = torch.zeros(steps + 3, dtype=torch.float64)  # terms, prior, total, its square
    with reporter.bar("judging", count * steps, "evaluations") as bar:
        for start in range(0, len(mine), batch):
            chosen = mine[start : start + batch]
            rows = []
            for t, row in enumerate(_bound(model, pictures, chosen, seed, variance)):
                rows.append(row)
                done = start * steps + len(chosen) * min(t + 1, steps)
                bar.update(done * count / len(mine))  # as if the other processes were as far
            values = torch.stack(rows)  # (terms and prior, pictures)
            totals = values.sum(dim=0)
            sums += torch.cat([values.sum(dim=1), totals.sum()[None], totals.square().sum()[None]])
    *terms, prior, mean, square = (distributed.all_reduce_sum(sums) / count).tolist()
    deviation = math.sqrt(max(0.0, square - mean**2))
    spread = None if count == 1 else deviation / math.sqrt(count - 1)
    return Likelihood(prior, tuple(terms), spread, count)


@torch.inference_mode()
def _bound(
    model: Model,
    pictures: loader.DecodedImages,
    chosen: NDArray[np.int64],
    seed: int,
    variance: str,
) -> Iterator[Tensor]:
    """For some pictures the terms of the bound and the prior's: T + 1 tensors (B,), float64."""
    images, labels = pictures.take(chosen)
    x0 = to_unit(images.to(model.device))
    classes = labels if model.config.network.classes else None
    text = pictures.told(chosen, np.zeros(len(chosen)))  # by the first of each picture's captions
    condition = Condition(classes, text).to(model.device)
    numbers = [seeds.derive(seed, int(i)) for i in chosen]
    noise = seeds.ImageNoise(numbers, (x0.shape[1], x0.shape[2], x0.shape[3]), x0.device)
    schedule = model.denoiser.schedule

    def predict(x: Tensor, sigma: Tensor) -> Prediction:
        with devices.autocast(model.device, model.precision):
            return model.denoiser.predict(x, sigma, condition)

    for term in likelihood.bound(predict, schedule, x0, noise, variance):
        yield term.to("cpu", torch.float64)
    yield likelihood.prior_term(schedule, x0).cpu()


def _labels(model: Model, source: Source, data: str) -> NDArray[np.int64]:
    """The data's labels (N,) in the model's numbers."""
    names = model.config.network.classes
    if not names:
        return np.full(len(source), -1)
    unknown = [name for name in source.classes if name not in names]
    if unknown or not source.classes:
        has = f"a class {unknown[0]!r}" if unknown else "no classes"
        raise DdpmError(
            f"{data} has {has}, and {model.path} needs the class of each picture, one of "
            f"{', '.join(names[:10])}{', …' if names[10:] else ''}: sort them into folders so named"
        )
    numbers = np.array([names.index(name) for name in source.classes])
    return numbers[source.labels]


def _size(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"
