"""What is in a source of images: every one of them is looked at once, or a sample of many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import files, formats
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.inspection.near_duplicates import EXAMINED, Print
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import seeds
from ddpm_cli.core.runtime.reporting import Reporter, track
from ddpm_cli.core.runtime.threads import cores

MOST = 100_000  # images that are looked at where no number is given
_CHUNK = 256  # images that are looked at ahead at most, which bounds the memory
_TOO_LARGE = re.compile(r"--max-pixels (\d+)")  # in the reason why a file is not read


class Look(NamedTuple):
    """What is seen of one image."""

    size: tuple[int, int]  # its own (height, width), in pixels
    form: str  # "JPEG"; "" for one that is no file
    traits: frozenset[str]  # as files.traits
    print: Print


@dataclass(frozen=True)
class CaptionLengths:
    """How many captions the images have, and how long they are."""

    sentences: int  # different ones
    an_image: tuple[int, int]  # the fewest and the most
    words: tuple[int, int, int]  # shortest, median and longest sentence
    bytes: tuple[int, int, int]  # as UTF-8
    too_long: int  # sentences of more bytes than the network reads

    @classmethod
    def of(cls, captions: Captions, longest: int) -> CaptionLengths:
        """Measure captions; `longest`: the bytes that the network reads."""
        counts = (captions.indices >= 0).sum(axis=1)
        sizes = np.array([len(s.encode("utf-8", "replace")) for s in captions.sentences])
        words = np.array([len(sentence.split()) for sentence in captions.sentences])
        return cls(
            len(captions.sentences),
            (int(counts.min()), int(counts.max())),
            _spread(words),
            _spread(sizes),
            int((sizes > longest).sum()),
        )


@dataclass(frozen=True)
class Survey:
    """What was found in N images, those of `rows`."""

    source: Source
    rows: NDArray[np.int64]  # (N,), of the source: those looked at that can be read
    looks: list[Look]  # of the rows
    unreadable_rows: NDArray[np.int64]  # the others
    unreadable: tuple[str, ...] = ()  # why each of these cannot be read, with its name
    captions: Captions | None = None
    lengths: CaptionLengths | None = None  # of the captions
    why_no_captions: str = ""  # where there are some that cannot be used

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out or is not read, one line each."""
        read = () if self.captions is None else self.captions.notices
        beside = "" if self.why_no_captions else self.source.unread(self.captions)
        return tuple(filter(None, (*self.source.notices, *read, beside)))

    @property
    def looked_at(self) -> int:
        """How many images were looked at, unreadable ones included."""
        return len(self.rows) + len(self.unreadable)

    @property
    def class_counts(self) -> dict[str, int]:
        """Images of each class, of all that the source has; of multi-label ones, with each."""
        labels, classes = self.source.labels, self.source.classes
        counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels[labels >= 0])
        counts = np.pad(counts, (0, max(0, len(classes) - len(counts))))
        return dict(zip(classes, map(int, counts), strict=False))

    @property
    def imbalance(self) -> float | None:
        """The largest class over the smallest one that has images; None without classes."""
        counts = [count for count in self.class_counts.values() if count]
        return max(counts) / min(counts) if counts else None

    @property
    def aspects(self) -> tuple[float, float, float]:
        """The least, median and greatest width over height."""
        aspects = np.array([look.size[1] / look.size[0] for look in self.looks])
        return float(aspects.min()), float(np.median(aspects)), float(aspects.max())

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have each (height, width)."""
        return Counter(look.size for look in self.looks)

    @property
    def forms(self) -> Counter[str]:
        """How many images have each format."""
        return Counter(look.form for look in self.looks if look.form)

    @property
    def traits(self) -> Counter[str]:
        """How many images have each trait."""
        return Counter(trait for look in self.looks for trait in look.traits)

    @property
    def prints(self) -> list[Print]:
        """What duplicates are found by."""
        return [look.print for look in self.looks]

    @property
    def most_pixels(self) -> int | None:
        """The --max-pixels that would let in the files that are refused as too large."""
        found = [int(m[1]) for why in self.unreadable if (m := _TOO_LARGE.search(why))]
        return max(found, default=None)

    def name(self, position: int) -> str:
        """What the image at a position in `rows` is called: its file, or its number."""
        row = int(self.rows[position])
        return self.source.files.names[row] if isinstance(self.source, FileSource) else f"#{row}"


def survey(
    source: Source,
    reporter: Reporter,
    *,
    count: int | None = None,
    seed: int = 0,
    text_length: int = 128,
) -> Survey:
    """Look at the images of a source: `count` at random, by default all up to MOST.

    text_length: bytes of a caption that the network reads. Raises DdpmError where none of the
    images can be read.
    """
    total = len(source)
    wanted = min(total, count or MOST)
    rows = np.arange(total)
    if wanted < total:
        random = np.random.default_rng(seeds.derive(seed, "survey"))
        rows = np.sort(random.choice(total, wanted, replace=False))
    looks, failures = dict[int, Look](), dict[int, str]()
    for row, seen in zip(rows, _look_at(source, rows, reporter), strict=True):
        if isinstance(seen, UnreadableError):
            failures[int(row)] = str(seen)
        else:
            looks[int(row)] = seen
    if not looks:
        raise DdpmError(files.list_unreadable([*failures.values()], wanted))
    captions, why = _captions(source)
    lengths = None if captions is None else CaptionLengths.of(captions, text_length)
    return Survey(
        source,
        np.array([*looks], np.int64),
        [*looks.values()],
        np.array([*failures], np.int64),
        tuple(failures.values()),
        captions,
        lengths,
        why,
    )


def _look_at(
    source: Source, rows: NDArray[np.int64], reporter: Reporter
) -> Iterator[Look | UnreadableError]:
    """Look at images in parallel, in their order."""

    def look(row: int) -> Look | UnreadableError:
        try:
            return (
                _look_at_file(source, row) if isinstance(source, FileSource) else _look(source, row)
            )
        except UnreadableError as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:
        chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
        seen = (item for chunk in chunks for item in pool.map(look, map(int, chunk)))
        yield from track(seen, reporter, "looking at images", len(rows), "images")


def _look_at_file(source: FileSource, row: int) -> Look:
    data, name = source.files.read(row), source.files.names[row]
    size = files.probe(data, name)[0]
    image = files.decode(data, name, EXAMINED)
    return Look(size, form_of(name), files.traits(data, name), Print.of(data, image))


def _look(source: Source, row: int) -> Look:
    """An image that is no file."""
    image = source.image(row, Transform(source.native_channels))
    grey = frozenset({"grey"}) if len(image) == 1 else frozenset[str]()
    fitted = files.fit(image, EXAMINED)
    return Look(source.size_of(row), "", grey, Print.of(image.tobytes(), fitted))


def form_of(name: str) -> str:
    """The format that a file's suffix stands for, "JPEG"."""
    suffix = formats.suffix_of(name)
    known = (form for form, suffixes in formats.SUFFIXES_OF.items() if suffix in suffixes)
    return next(known, suffix)


def _captions(source: Source) -> tuple[Captions | None, str]:
    """The captions that lie beside the images; or why those that lie there cannot be used."""
    try:
        return (source.captions() if source.captioned else None), ""
    except DdpmError as error:
        return None, str(error)


def spread_over_classes(survey: Survey, count: int) -> list[int]:
    """Up to `count` positions in the survey's rows, evenly over its classes, in their order."""
    labels = survey.source.labels[survey.rows]
    if labels.ndim == 2:
        labels = np.zeros(len(labels), np.int64)
    order = np.argsort(labels, kind="stable")
    in_class = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    sizes = np.bincount(labels - labels.min())[labels[order] - labels.min()]
    classes = len(np.unique(labels))
    if classes >= count:
        first = order[in_class == 0]
        return [int(i) for i in first[np.linspace(0, classes - 1, count).round().astype(int)]]
    each, present = -(-count // classes), np.unique(labels, return_counts=True)[1]
    while np.minimum(present, each).sum() < min(count, len(labels)):
        each += 1  # small classes leave places
    part = in_class * each // sizes  # of as many equal parts of a class, the first of each
    chosen = order[part != (in_class - 1) * each // sizes]
    return [
        int(i)
        for i in chosen[
            np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)
        ]
    ]


def _spread(values: NDArray[np.int64]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())
