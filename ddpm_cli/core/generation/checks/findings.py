"""What is odd about drawn images, by comparison with the training's, in words, with what to try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.labels import Label
from ddpm_cli.core.data.inspection import image_statistics
from ddpm_cli.core.data.inspection.image_statistics import Appearance, ImageStatistics
from ddpm_cli.core.generation.checks import remedies
from ddpm_cli.core.generation.checks.comparison import Comparison, Drawn, Oddity
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.runtime import distributed

Batches = Iterator[tuple[Sequence[int], NDArray[np.uint8]]]

_MOST = 2  # findings on the images that are told; a third may be on the training
_CHANNELS = ("red", "green", "blue")


class Finding(NamedTuple):
    """Something odd, in one line."""

    name: str  # "dark"
    text: str
    samples: float | None = None  # what was measured
    training: float | None = None  # the same of training images

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        numbers = {"samples": self.samples, "training": self.training}
        rounded = {key: None if n is None else round(n, 4) for key, n in numbers.items()}
        return {"finding": self.name, "text": self.text, **rounded}


class Inspection:
    """Inspects images as they are drawn, and then tells what is odd about them.

    It adds up numbers: memory does not grow, and ranks add theirs.
    """

    def __init__(self, model: Model, request: GenerationRequest) -> None:
        self._model, self._request = model, request
        statistics = ImageStatistics.read(model.statistics, model.config.network.channels)
        self._references, self._places = _references(request, statistics)
        self._counts = np.zeros(max(1, len(self._references)))
        self._sums = np.zeros(1 + image_statistics.length(model.config.network.channels))

    def watch(self, batches: Iterable[tuple[Sequence[int], NDArray[np.uint8]]]) -> Batches:
        """Pass on batches of indices and images (B, C, H, W), each looked at in a thread."""
        pending: Future[None] | None = None
        with ThreadPoolExecutor(1, "looking") as pool:
            for indices, images in batches:
                if pending is not None:
                    pending.result()
                pending = pool.submit(self.add, indices, images)
                yield indices, images
            if pending is not None:
                pending.result()

    def add(self, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        """Add images (B, C, H, W) to the sums."""
        for index in indices:
            label = self._request.label_and_prompt(index)[0]
            self._counts[0 if label is None else self._places.get(label, 0)] += 1
        if self._references:
            values = image_statistics.measure(images)
            self._sums[0] += float((image_statistics.thumbnails(values) ** 2).sum())
            self._sums[1:] += values.sum(axis=0)

    def add_those_of_all_ranks(self) -> None:
        """Add up what all ranks have looked at; all call this."""
        own = torch.from_numpy(np.concatenate([self._counts, self._sums]))
        every = distributed.all_reduce_sum(own).numpy()
        self._counts, self._sums = np.split(every, [len(self._counts)])

    def findings(self) -> list[Finding]:
        """What is odd, a line each, at most three; nothing where no image was drawn."""
        counts, sums = self._counts, self._sums
        if not counts.sum():
            return []
        found: list[Finding] = []
        poor = False  # without an option that would help
        if self._references:
            drawn = Drawn(counts, sums[1:], float(sums[0]))
            comparison = Comparison(self._references, drawn, self._kinds)
            for oddity in comparison.oddities()[:_MOST]:
                text = _in_words(oddity, comparison, self._model.config.network.channels)
                advice = remedies.of_images(oddity.name, self._request.sampling)
                poor = poor or not advice
                found.append(Finding(oddity.name, f"{text} {advice}".strip(), *oddity[1:]))
        training = remedies.of_training(self._model.config, self._model.images, poor=poor)
        return found if training is None else [*found, Finding(*training)]

    @property
    def _kinds(self) -> int | None:
        """How many kinds of images are compared with training images of all kinds; None: all."""
        conditions, recorded = self._request.conditions, self._model.config.data.examples
        if self._request.given is not None:
            return 1  # of whatever was given
        if self._places or self._request.sampling.class_weight == 0:
            return None
        if conditions.prompts and conditions.prompts != recorded:
            return 1  # of whatever kind was asked for
        return len(set(conditions.prompts or conditions.labels)) or None


def _references(
    request: GenerationRequest, statistics: ImageStatistics | None
) -> tuple[tuple[Appearance, ...], dict[Label, int]]:
    """The training images to compare with, and by label their place; all where there is none.

    Prompts, combinations of classes and classes of few images have none of their own.
    """
    if statistics is None or request.init is not None:  # which has the look of what it begins at
        return (), {}
    labels = list(dict.fromkeys(request.conditions.labels))
    if (
        request.sampling.class_weight == 0
        or request.conditions.prompts
        or request.given is not None
    ):
        labels = []
    known = dict(enumerate(statistics.classes))
    own = [known.get(label) if isinstance(label, int) else None for label in labels]
    found = tuple(one for one in own if one is not None)
    if not labels or len(found) < len(labels):
        return (statistics.all,), {}
    return found, {label: place for place, label in enumerate(labels)}


def _in_words(oddity: Oddity, comparison: Comparison, channels: int) -> str:
    """What is odd, as a sentence with both numbers."""
    name, samples, training = oddity
    count = comparison.drawn.images
    subject = "The sample is" if count == 1 else "Samples are"
    if name == "flat":
        flat = round(samples * count)
        of = {1: "The sample is", flat: f"All {count:,} samples are"}.get(
            count, f"{flat:,} of {count:,} samples {'is' if flat == 1 else 'are'}"
        )
        return f"{of} nearly one colour (of the training images {100 * training:.1g} %)."
    if name == "alike":
        return (
            f"The {count:,} samples are all alike: they differ from each other by "
            f"{100 * samples:.0f} % of what training images do."
        )
    if name == "noise":
        return (
            f"{subject} noisy: noise of {255 * samples:.0f} grey levels (standard deviation), "
            f"training {255 * training:.0f}."
        )
    if name == "saturated":
        return (
            f"{subject} saturated: {100 * samples:.0f} % of the values are at the very ends of the "
            f"range, training {100 * training:.2g} %."
        )
    if name in ("dark", "bright"):
        word = "darker" if name == "dark" else "brighter"
        return (
            f"{subject} much {word} than the training images (mean {samples:.2f}, training "
            f"{training:.2f})."
        )
    if name == "colours":
        tone = comparison.tone()
        channel = _CHANNELS[tone.channel] if channels >= 3 else "grey"
        return (
            f"{subject} of other colours than the training images: {channel} is below "
            f"{tone.level:.2f} in {100 * tone.samples:.0f} % of the pixels, training "
            f"{100 * tone.training:.0f} %."
        )
    word = "less" if name == "low contrast" else "more"
    return (
        f"{subject} of much {word} contrast than the training images (standard deviation "
        f"{samples:.2f}, training {training:.2f})."
    )
