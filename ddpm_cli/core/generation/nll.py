"""Bits per dimension of images under a trained model, by the variational bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import CONTINUOUS
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.data import loader
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.pixels import to_unit
from ddpm_cli.core.data.sources import Source, captions_of, labels_for, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.diffusion import likelihood
from ddpm_cli.core.diffusion.denoiser import NoiseLevels, Prediction
from ddpm_cli.core.diffusion.settings import VARIANCES
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation import batching
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.starts.given import of_data
from ddpm_cli.core.runtime import devices, distributed, quantities, seeds
from ddpm_cli.core.runtime.reporting import Reporter


@dataclass(frozen=True)
class Likelihood:
    """The variational bound, averaged over images, in bits per dimension.

    Source: Ho et al. (2020), eq. 5.
    """

    prior: float  # L_T
    terms: tuple[float, ...]  # L_0 (the decoder's) to L_(T-1) (KL divergences)
    standard_error: float | None  # of the total, over the images; None for one image
    count: int  # images

    @property
    def total(self) -> float:
        """The bound on -log2 p(image) per dimension, which is one channel of one pixel."""
        return self.prior + sum(self.terms)

    def document(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "total": self.total,
            "prior": self.prior,
            "kl": sum(self.terms[1:]),
            "decoder": self.terms[0],
            "standard_error": self.standard_error,
            "terms": list(self.terms),
            "n": self.count,
        }


def choose_variance(model: Model, variance: str | None) -> str:
    """The variance of the reverse steps. Raises UsageError or DdpmError if the model has none."""
    diffusion, learned = model.config.diffusion, model.config.network.learned_variance
    if diffusion.schedule in CONTINUOUS:
        raise DdpmError(
            f"{model.path} was trained with --schedule {diffusion.schedule}: a model of continuous "
            "noise levels has no variational bound, so no bits/dim"
        )
    if model.config.objective.consistency is not None:
        raise DdpmError(
            f"{model.path} is a consistency model, whose output is no denoised mean: it has no "
            "variational bound, so no bits/dim; evaluate its teacher"
        )
    chosen = variance or ("learned" if learned else "fixed-large")
    one_of("--variance", chosen, VARIANCES)
    if chosen == "learned" and not learned:
        raise UsageError(
            f"{model.path} has no learned variance; choose --variance fixed-small or fixed-large"
        )
    return chosen


def open_images(
    model: Model, data: str | None, count: int, seed: int, reporter: Reporter, *, skip_bad: bool
) -> DecodedImages:
    """The images to evaluate `count` of, with the model's labels.

    Raises DdpmError where their sizes or channels are not the model's: of up to 512 of them before
    any is decoded, then of each that is chosen.

    Images of another size are resized only if they are the training images themselves: resizing
    others would give the bits/dim of other images.
    """
    network = model.config.network
    if network.given_channels and model.config.data.degradation is None:
        raise DdpmError(
            f"{model.path} was trained on pairs of images (--given-data), and ddpm nll reads none"
        )
    name = data or model.config.data.source
    if not name:
        raise UsageError(f"{model.path} does not record its training data: give --data")
    attributes = model.config.data.attributes
    source = open_source(name, reporter, training=data is None, attributes=attributes)
    for notice in source.notices:
        reporter.say(notice)
    others = source.fingerprint != model.config.data.fingerprint
    if others:
        _check_shape(model, source, name)
    if source.transparent and network.channels != 4:
        background = model.config.data.background
        reporter.say(f"{name}: transparent images are composited on {background}, as in training")
    labels = labels_for(source, network, name, str(model.path))
    with distributed.local_rank0_first():
        images = loader.prepare(source, Transform.of(model.config), reporter, skip_bad=skip_bad)
        images = replace(images, labels=labels)
        for row in images.rows[choose(images, count, seed)] if others else ():
            if source.size_of(row) != network.size:
                raise _unfit(model, name, "of several sizes")
        if network.text is None:
            return images
        captions = captions_of(source, model.config.data.templates)
        texts = tokens.tokenise(network.text, captions.sentences, model.device, reporter)
    return replace(images, captions=captions, texts=texts)


def choose(images: DecodedImages, count: int, seed: int) -> NDArray[np.int64]:
    """The indices of `count` of the images, or of all where they are fewer."""
    order = np.random.default_rng(seeds.derive(seed, "nll")).permutation(len(images))
    return order[:count]


def measure(
    model: Model,
    images: DecodedImages,
    count: int,
    seed: int,
    batch: int | None,
    variance: str,
    reporter: Reporter,
) -> Likelihood:
    """The bound for `count` images, those of `choose`, with one network evaluation per timestep.

    An image's noise depends only on the seed and on its index, so the result does not depend on the
    batch or the number of processes. batch: images at a time; None: as many as the device's memory
    allows.
    """
    order = choose(images, count, seed)
    count = len(order)
    shard = order[distributed.shard(count)]
    steps = len(model.denoiser.schedule)
    sums = torch.zeros(steps + 3, dtype=torch.float64)  # terms, prior, total, its square

    def trial(number: int) -> object:
        return next(_bound(model, images, shard[:number], seed, variance))

    size, done = batching.choose(batch, len(shard), model.device, trial), 0
    with reporter.bar("evaluating", count * steps, "evaluations") as bar:

        def values_of(chosen: NDArray[np.int64]) -> Tensor:
            """Terms and prior of each image: (terms + 1, images)."""
            rows = []
            for t, row in enumerate(_bound(model, images, chosen, seed, variance)):
                rows.append(row)
                evaluations = done * steps + len(chosen) * min(t + 1, steps)
                bar.update(evaluations * count / len(shard))  # as if all processes are as far
            return torch.stack(rows)

        while done < len(shard):
            chosen = shard[done : done + size.images]
            values = size.attempt(len(chosen), partial(values_of, chosen), reporter)
            if values is not None:
                totals = values.sum(dim=0)
                squares = totals.square().sum()[None]
                sums += torch.cat([values.sum(dim=1), totals.sum()[None], squares])
                done += len(chosen)
    *terms, prior, mean, square = (distributed.all_reduce_sum(sums) / count).tolist()
    deviation = math.sqrt(max(0.0, square - mean**2))
    standard_error = None if count == 1 else deviation / math.sqrt(count - 1)
    return Likelihood(prior, tuple(terms), standard_error, count)


@torch.inference_mode()
def _bound(
    model: Model,
    images: DecodedImages,
    chosen: NDArray[np.int64],
    seed: int,
    variance: str,
) -> Iterator[Tensor]:
    """Yield the terms of the bound, then the prior: T + 1 float64 tensors (B,)."""
    pixels, labels = images.take(chosen)
    x0 = to_unit(pixels.to(model.device))
    classes = labels if model.config.network.classes else None
    text = images.caption_tokens(chosen, np.zeros(len(chosen)))  # each image's first caption
    condition = Condition(classes, text).to(model.device)
    image_seeds = [seeds.derive(seed, int(i)) for i in chosen]
    given = of_data(model, images, images.rows[chosen])
    if given is not None:
        condition = given.add(condition, range(len(chosen)), image_seeds)
    noise = seeds.ImageNoise(image_seeds, (x0.shape[1], x0.shape[2], x0.shape[3]), x0.device)
    schedule = model.denoiser.schedule

    def predict(x: Tensor, sigma: NoiseLevels) -> Prediction:
        with devices.autocast(model.device, model.precision):
            return model.denoiser.predict(x, sigma, condition)

    for term in likelihood.bound(predict, schedule, x0, noise, variance):
        yield term.to("cpu", torch.float64)
    yield likelihood.prior_term(schedule, x0).cpu()


def _check_shape(model: Model, source: Source, data: str) -> None:
    network = model.config.network
    channels = 4 if source.transparent and network.channels == 4 else source.native_channels
    if source.image_size is None:
        raise _unfit(model, data, "of several sizes")
    if (channels, *source.image_size) != (network.channels, *network.size):
        raise _unfit(model, data, _describe(channels, source.image_size))


def _unfit(model: Model, data: str, found: str) -> DdpmError:
    network = model.config.network
    expected = _describe(network.channels, network.size)
    return DdpmError(
        f"the images of {data} are {found}, and {model.path} is a model of {expected}; converting "
        "them would give the bits/dim of other images, so give --data images of that kind"
    )


def _describe(channels: int, size: tuple[int, int]) -> str:
    height, width = size
    return f"{height}x{width}x{channels} ({quantities.colours(channels)})"
