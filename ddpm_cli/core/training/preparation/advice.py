"""What to know before a training: what was seen in the images, what follows, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import listed
from ddpm_cli.core.training.preparation import copying
from ddpm_cli.core.training.preparation.advised import Advice, rounded
from ddpm_cli.core.training.preparation.facts import Facts

_DOMINANT, _UNEVEN = 0.9, 10  # share of one class; largest class over smallest
_BLURRED = 1.5  # enlargement
_DETAIL = 4  # reduction from which a larger --size is proposed
_CROPPED = 0.7  # share of an image that a crop keeps
_RISK = 0.01  # probability of a class that is held out whole
_MANY = 200  # images from which some are worth holding out

_LETTERS = frozenset({"mnist", "kmnist", "svhn"})  # data sets of characters: names of sources
_CHARACTERS = re.compile(
    r"[a-z0-9]|zero|one|two|three|four|five|six|seven|eight|nine|"
    r"(letter|digit|char|character)[ _-]*[a-z0-9]{1,3}",
    re.IGNORECASE,
)
_SIDES = re.compile(r"\b(left|right)(most|ward|wards)?\b", re.IGNORECASE)
_WRITING = re.compile(
    r"\b(letters?|digits?|words?|text|handwritten|handwriting|calligraphy|logos?)\b", re.IGNORECASE
)
_MENTIONED = 0.05  # share of captions


def of_source(source: Source, captions: Captions | None, config: RunConfig) -> list[Advice]:
    """The warnings that apply to a run, from what is known without decoding the images.

    captions: those that are learned.
    """
    if isinstance(source, Shapes):
        return []
    facts = Facts.of_source(source, captions)
    return [advice for advice in advise(facts, config) if advice.warning]


def advise(
    facts: Facts,
    config: RunConfig,
    *,
    size_given: bool = False,
    gpu: bool = False,
    seen: int | None = None,
) -> list[Advice]:
    """Warnings, then proposals, for a run of this config on these images.

    size_given: the size is the user's choice. gpu: the run will be on one. seen: images that it
    will see, where a limit in time ends it; by default as many as its other limits say.
    """
    rules: tuple[Callable[[Facts, RunConfig], Iterator[Advice]], ...] = (
        _files,
        partial(_length, seen=seen),
        _batch,
        _mirroring,
        _classes,
        _holdout,
        _size,
        _captions,
        _copies,
    )
    found = [advice for rule in rules for advice in rule(facts, config)]
    if not size_given:
        found += _detail(facts, config, gpu=gpu)
    return sorted(found, key=lambda advice: not advice.warning)


def _files(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    if facts.unreadable:
        total = facts.images + facts.unreadable
        share = facts.unreadable / total
        mostly = ": most of them; look at what they are first" if share > 0.5 else ""
        flags = ["--skip-bad"]
        if facts.most_pixels is not None:
            flags.append(f"--max-pixels {facts.most_pixels}")
        yield Advice(
            f"{facts.unreadable:,} of {total:,} images cannot be read, and training stops at "
            f"them{mostly}",
            tuple(flags),
        )
    if facts.transparent and config.network.channels == 3:
        yield _transparency(facts, config)


def _transparency(facts: Facts, config: RunConfig) -> Advice:
    """Channel 4 is worth learning where most images have one."""
    count, looked_at = facts.transparent, len(facts.sizes) or facts.images
    if 2 * count > looked_at:
        return Advice(
            f"transparent images: {count:,}; 4 channels learn that, 3 the background",
            ("--channels 4",),
            warning=False,
        )
    one = count == 1
    return Advice(
        f"{count:,} transparent {'image is' if one else 'images are'} put on "
        f"{config.data.background} (--background)",
        warning=False,
    )


def _length(facts: Facts, config: RunConfig, seen: int | None) -> Iterator[Advice]:
    """How often each image is seen."""
    images = max(1, facts.images - config.data.holdout)
    budget = seen or config.budget.in_images(config.optimiser.batch, images)
    if budget is not None and (found := copying.advise(images, budget, config)) is not None:
        yield found


def _batch(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    images, batch = facts.images - config.data.holdout, config.optimiser.batch
    if 0 < images < batch:
        yield Advice(
            f"a batch of {batch} is more than the {images:,} images there are: each step sees some "
            "of them twice",
            (f"--batch {images}",),
        )


def _mirroring(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    """Half of the images are mirrored, unless augmentation tells the network of it."""
    if not config.data.flip or config.data.augment:
        return
    why, sure = "", True
    if facts.name.removesuffix("-test") in _LETTERS:
        why = "the images show letters or digits"
    elif _are_characters(facts.classes):
        why = f"the classes ({listed(facts.classes, 3)}) are named as letters or digits are"
        sure = not facts.numbered  # tables number classes of anything
    elif _share(_SIDES, facts.sentences) >= _MENTIONED:
        why = "captions say left and right"
    elif _share(_WRITING, facts.sentences) >= _MENTIONED:
        why = "captions speak of writing"
    message = f"{why}, and half of the images will be mirrored"
    if why and sure:
        yield Advice(message, ("--no-flip",))
    elif why:
        yield Advice(f"{message}: if that is what they are, --no-flip", warning=False)


def _classes(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    """How evenly the images are spread over the classes that are learned."""
    if not config.network.classes or facts.labels is None or facts.labels.ndim == 2:
        return
    counts = np.bincount(facts.labels, minlength=len(facts.classes))
    largest = int(counts.argmax())
    smallest = int(np.where(counts > 0, counts, counts.max()).argmin())  # of those there are
    share = counts[largest] / counts.sum()
    flags = () if config.data.balance else ("--balance",)
    if flags and len(counts) > 1 and share >= _DOMINANT:
        yield Advice(
            f"{100 * share:.0f} % of the images are of the class {facts.classes[largest]}: few of "
            "the other classes' images are seen",
            (*flags, "--unconditional"),
        )
    elif flags and counts[largest] >= _UNEVEN * counts[smallest]:
        yield Advice(
            f"the class {facts.classes[smallest]} has {counts[smallest]:,} images, "
            f"{facts.classes[largest]} {counts[largest]:,}: small classes are seen seldom",
            flags,
            warning=False,
        )
    if len(counts) > 1 and counts.mean() < 5:
        yield Advice(
            f"{len(counts):,} classes have {counts.mean():.1f} images each: too few to learn them",
            ("--unconditional",),
        )


def _holdout(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    if config.holdout_data:
        return
    count, classes = config.data.holdout, facts.classes
    if not count:
        if facts.images >= _MANY:
            wise = min(5_000, rounded(facts.images / 20))
            yield Advice(
                "no images are held out, so overfitting would not be seen",
                (f"--holdout {wise}",),
                warning=False,
            )
        return
    if count > facts.images / 2:
        yield Advice(
            f"--holdout {count:,} leaves {facts.images - count:,} of {facts.images:,} images to "
            "train on"
        )
    if config.network.classes and facts.labels is not None and facts.labels.ndim == 1:
        sizes = np.bincount(facts.labels, minlength=len(classes))
        # by chance all images of a class are held out with about this probability
        lost = (sizes > 0) & ((count / facts.images) ** sizes > _RISK)
        if lost.any():
            names = [f"{classes[i]} ({sizes[i]})" for i in np.flatnonzero(lost)]
            yield Advice(
                f"--holdout {count:,} may leave nothing to train on of the class {listed(names, 3)}"
            )


def _size(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    """Images that are much smaller than what they are resized to, or of another shape."""
    if not facts.sizes:
        return
    height, width, scale = _scale(facts, config)
    to = config.network.size
    shown = f"{height:.0f}x{width:.0f}"
    if scale >= _BLURRED:
        fitting = _sides(int(min(height, width)))
        yield Advice(
            f"images of {shown} are enlarged to {to[0]}x{to[1]}: samples will be as blurred",
            (f"--size {fitting}",),
        )
    kept = min(width / height, to[1] / to[0]) / max(width / height, to[1] / to[0])
    if kept < _CROPPED and scale < _BLURRED and config.data.fit != "pad":
        side = min(to)
        shape = (side, _sides(int(side * width / height)))
        if height > width:
            shape = (_sides(int(side * height / width)), side)
        yield Advice(
            f"images of {shown} lose {100 * (1 - kept):.0f} % of their area to the crop"
            if config.data.fit == "crop"
            else f"images of {shown} are stretched to another shape",
            (f"--size {shape[0]}x{shape[1]}", "--fit pad"),
            warning=False,
        )


def _detail(facts: Facts, config: RunConfig, *, gpu: bool) -> Iterator[Advice]:
    """Images that are much larger than what they are resized to."""
    to = config.network.size
    if not facts.sizes or max(to) >= 128:
        return
    height, width, scale = _scale(facts, config)
    if scale > 1 / _DETAIL:
        return
    costs = (
        f"images of {height:.0f}x{width:.0f} are reduced to {to[0]}x{to[1]}; twice the size costs "
        "about four times the time"
    )
    larger = f"--size {2 * max(to)}"
    if gpu:
        yield Advice(costs, (larger,), warning=False)
    else:  # a remark alone: on a CPU it is hours
        yield Advice(f"{costs} (on a GPU: {larger})", warning=False)


def _scale(facts: Facts, config: RunConfig) -> tuple[float, float, float]:
    """The median height and width of the images, and by what factor they are resized."""
    height, width = np.median(np.array(facts.sizes), axis=0)
    to = config.network.size
    factors = to[0] / height, to[1] / width
    return height, width, min(factors) if config.data.fit == "pad" else max(factors)


def _captions(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    if facts.broken_captions:
        yield Advice("captions cannot be used, and training stops at them", ("--no-captions",))
    lengths, text = facts.lengths, config.network.text
    if lengths is None or not lengths.too_long or (text is not None and text.encoder != "bytes"):
        return
    yield Advice(
        f"{lengths.too_long:,} of {lengths.sentences:,} captions are longer than the network "
        f"reads, up to {lengths.bytes[2]:,} bytes, and training refuses them",
        (f"--text-length {lengths.bytes[2]}",),
    )


def _copies(facts: Facts, config: RunConfig) -> Iterator[Advice]:
    if facts.held_out_copies:
        yield Advice(
            f"images held out that look like ones trained on: {facts.held_out_copies:,}; the loss "
            "on them says too little; remove the copies"
        )
    if facts.copies:
        share = facts.copies / max(1, facts.images)
        yield Advice(
            f"images that look like others: {facts.copies:,} ({100 * share:.2g} %); they are seen "
            "more often, and copied sooner; remove them",
            warning=share >= 0.05,
        )


def _are_characters(names: Sequence[str]) -> bool:
    """Whether class names are those of letters and digits: 0, b, four, digit_7, Sample001."""
    return len(names) > 1 and all(_CHARACTERS.fullmatch(name) for name in names)


def _share(pattern: re.Pattern[str], sentences: Sequence[str]) -> float:
    found = sum(pattern.search(sentence) is not None for sentence in sentences)
    return found / max(1, len(sentences))


def _sides(pixels: int) -> int:
    """A multiple of 8 that is no larger, which networks halve three times; at least 8."""
    return max(8, pixels // 8 * 8)
