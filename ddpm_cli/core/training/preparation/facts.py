"""What is known of the images of a training: from a few headers, or from a look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.inspection.copies import Copies
from ddpm_cli.core.data.inspection.survey import CaptionLengths, Survey
from ddpm_cli.core.data.readers.arrays import ArrayFileSource
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import DdpmError

_SIZES_READ = 32  # headers read, at most, where images have different sizes
_SENTENCES_READ = 2_000  # at most


@dataclass(frozen=True)
class Facts:
    """What is known of the images; empty and 0 where it is not, as without decoding them."""

    name: str  # of the source
    images: int
    classes: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None  # (N,) or (N, K)
    numbered: bool = False  # the classes' names are numbers of a table
    sizes: tuple[tuple[int, int], ...] = ()  # (height, width) of images looked at
    sentences: tuple[str, ...] = ()  # captions
    lengths: CaptionLengths | None = None
    broken_captions: bool = False  # there are some, and they cannot be used
    unreadable: int = 0
    most_pixels: int | None = None  # of files refused as too large
    transparent: int = 0
    copies: int = 0  # images that show what others do
    held_out_copies: int = 0  # of the images held out, those that a training image shows

    @classmethod
    def of_source(cls, source: Source, captions: Captions | None = None) -> Facts:
        """From labels and a few headers alone."""
        count = len(source)
        if source.image_size is not None:
            sizes = [source.image_size]
        else:
            rows = np.linspace(0, count - 1, min(count, _SIZES_READ)).astype(int)
            sizes = [*_sizes(source, rows)]
        numbered = _numbered(source)
        sentences = () if captions is None else captions.sentences
        every = -(-len(sentences) // _SENTENCES_READ) or 1
        return cls(
            source.name,
            count,
            source.classes,
            source.labels,
            numbered,
            tuple(sizes),
            sentences[::every],
        )

    @classmethod
    def of_survey(cls, survey: Survey, copies: Copies) -> Facts:
        """From a look at the images."""
        return cls(
            survey.source.name,
            len(survey.source) - len(survey.unreadable),
            survey.source.classes,
            survey.source.labels,
            _numbered(survey.source),
            tuple(look.size for look in survey.looks),
            () if survey.captions is None else survey.captions.sentences,
            survey.lengths,
            bool(survey.why_no_captions),
            len(survey.unreadable),
            survey.most_pixels,
            survey.traits["transparent"],
            copies.needless,
            len(copies.held_out),
        )


def _numbered(source: Source) -> bool:
    """Whether labels come from a table or an array, which number classes of anything."""
    return bool(source.label_table) or isinstance(source, ArrayFileSource)


def _sizes(source: Source, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    for row in rows:
        try:
            yield source.size_of(int(row))
        except DdpmError:
            continue  # an unreadable file is reported when it is decoded
