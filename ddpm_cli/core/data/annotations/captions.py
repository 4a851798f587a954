"""Captions of images, and those made of class names; see `caption_files` for those read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.tokens import is_valid_utf8
from ddpm_cli.core.errors import DdpmError, UsageError

CLASS = "{class}"  # placeholder for the class name in a template


@dataclass(frozen=True)
class Captions:
    """One or several sentences for each of N images; a training step uses one of them."""

    origin: str  # where they come from, for messages
    sentences: tuple[str, ...]  # without duplicates
    indices: NDArray[np.int64]  # (N, K), each image's sentences, padded with -1
    files: frozenset[str] = frozenset()  # those that were read
    notices: tuple[str, ...] = ()  # what of them was not used, one line each

    @property
    def fingerprint(self) -> str:
        """SHA-256 that changes with any caption and with the order of the images."""
        digest = hashlib.sha256(json.dumps(self.sentences).encode())
        digest.update(repr(self.indices.shape).encode() + self.indices.tobytes())
        return digest.hexdigest()

    def choose(self, rows: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index of one sentence for each image, chosen by uniform `draws`, (B,) in [0, 1)."""
        indices = self.indices[rows]
        count = (indices >= 0).sum(axis=1)
        column = (draws * count).astype(np.int64)
        return np.take_along_axis(indices, column[:, None], axis=1)[:, 0]

    def examples(self, count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Up to `count` of the sentences, evenly spaced, and for each an image that has it."""
        positions = np.linspace(0, len(self.sentences) - 1, min(count, len(self.sentences)))
        chosen = [int(index) for index in positions.round()]
        rows = (int((self.indices == index).any(axis=1).argmax()) for index in chosen)
        return tuple(self.sentences[index] for index in chosen), tuple(rows)


def only_classes(name: str) -> DdpmError:
    """The error for images that have classes and no captions."""
    return DdpmError(
        f"{name} has classes and no captions; make captions of the class names with "
        '--caption "a photo of a {class}"'
    )


def check_sentence(text: str, place: str, image: str) -> None:
    """Raise DdpmError for a caption that is empty or no Unicode."""
    if not text.strip():
        raise DdpmError(f"{place}: the caption of {image} is empty")
    if not is_valid_utf8(text):
        raise DdpmError(
            f"{place}: the caption of {image} is not UTF-8 (it contains a lone surrogate): "
            f"{text[:60]!r}"
        )


def from_class_names(
    templates: Sequence[str], classes: Sequence[str], labels: NDArray[np.int64]
) -> Captions:
    """Captions from templates over class names: one per template for each image.

    Raises DdpmError without classes, and for images of several.
    """
    if not classes:
        raise DdpmError("--caption makes captions of class names, and these images have none")
    if labels.ndim == 2:
        raise DdpmError("--caption makes captions of one class an image, and these have several")
    for template in templates:
        if CLASS not in template:
            raise UsageError(
                f"--caption {template!r} should contain {CLASS} in the place of the class name"
            )
    for name in classes:
        if not is_valid_utf8(name):
            raise DdpmError(f"the class {name!r} is not UTF-8: rename its folder")
    by_class = [[template.replace(CLASS, name) for template in templates] for name in classes]
    return from_sentences("class names", (by_class[label] for label in labels))


def from_sentences(origin: str, sentences: Iterable[Sequence[str]]) -> Captions:
    """Captions from the sentences of each image in order."""
    index: dict[str, int] = {}
    rows = [[index.setdefault(text, len(index)) for text in texts] for texts in sentences]
    indices = np.full((len(rows), max(map(len, rows))), -1)
    for i, row in enumerate(rows):
        indices[i, : len(row)] = row
    return Captions(origin, tuple(index), indices)
