"""Captions: read from files beside the images, or made of class names."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.tokens import is_valid_utf8
from ddpm_cli.core.data.archives import ImageFiles
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.devices import cores

_CSV, _JSONL = "captions.csv", "metadata.jsonl"  # at the root of a folder or .zip
CLASS = "{class}"  # placeholder for the class name in a template

_TEXT_KEYS = ("text", "caption")
_COLUMNS = (("file_name", "file"), _TEXT_KEYS)  # of a table; Hugging Face's names first
_LISTED = 5  # images named in a message

CaptionRow = tuple[str, str, str]  # (file and line, image, caption)


@dataclass(frozen=True)
class Captions:
    """One or several sentences for each of N images; a training step uses one of them."""

    origin: str  # where they come from, for messages
    sentences: tuple[str, ...]  # without duplicates
    indices: NDArray[np.int64]  # (N, K), each image's sentences, padded with -1

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


def from_class_names(
    templates: Sequence[str], classes: Sequence[str], labels: NDArray[np.int64]
) -> Captions:
    """Captions from templates over class names: one per template for each image."""
    if not classes:
        raise DdpmError("--caption makes captions of class names, and these images have none")
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


def has_captions(listing: ImageFiles) -> bool:
    """Whether a folder or .zip has caption files, for all images or some."""
    return _table(listing) is not None or bool(_text_files(listing))


def from_files(listing: ImageFiles) -> Captions:
    """Read the captions of a folder or .zip: a table at its root, or a .txt beside each image.

    Raises DdpmError where there are none, and for images that have none.
    """
    table = _table(listing)
    rows = _text_file_rows(listing) if table is None else _table_rows(listing, table)
    texts: dict[str, list[str]] = {}
    for place, image, text in rows:
        if not text.strip():
            raise DdpmError(f"{listing.path}: {place}: the caption of {image} is empty")
        if not is_valid_utf8(text):
            raise DdpmError(
                f"{listing.path}: {place}: the caption of {image} is not UTF-8 (it contains a lone "
                f"surrogate): {text[:60]!r}"
            )
        texts.setdefault(image, []).append(text.strip())
    if not texts:
        raise DdpmError(
            f"{listing.path} holds no captions: put a .txt beside each image, or at the root "
            "captions.csv (file,caption) or metadata.jsonl (file_name, text)"
        )
    missing = [image for image in listing.names if image not in texts]
    if missing:
        examples = ", ".join(missing[:_LISTED]) + (", …" if missing[_LISTED:] else "")
        raise DdpmError(
            f"{listing.path}: {len(missing)} of {len(listing.names)} images have no caption "
            f"{f'in {table}' if table else 'in a .txt beside them'}: {examples}. Write them, or "
            "add --no-captions"
        )
    return from_sentences(table or ".txt files", (texts[image] for image in listing.names))


def _text_file_rows(listing: ImageFiles) -> Iterator[CaptionRow]:
    """The captions in .txt files beside images, one per line."""
    pairs = _text_files(listing)
    with ThreadPoolExecutor(cores()) as pool:
        contents = pool.map(listing.text, (name for name, _ in pairs))
        for (name, image), content in zip(pairs, contents, strict=True):
            lines = [line for line in content.splitlines() if line.strip()]
            yield from ((name, image, line) for line in lines or [""])


def _text_files(listing: ImageFiles) -> list[tuple[str, str]]:
    """Pairs (.txt or .TXT file, image beside it)."""
    texts = {}
    for name in listing.texts:
        path = PurePosixPath(name)
        texts[str(path.with_suffix(path.suffix.lower()))] = name
    pairs = ((str(PurePosixPath(name).with_suffix(".txt")), name) for name in listing.names)
    return [(texts[text], name) for text, name in pairs if text in texts]


def _table(listing: ImageFiles) -> str | None:
    """The name of the caption table, if there is one; a metadata.jsonl may have no captions."""
    if _CSV in listing.texts:
        return _CSV
    first = next(_parse(listing, _JSONL), (0, {}))[1] if _JSONL in listing.texts else {}
    return _JSONL if any(key in first for key in _TEXT_KEYS) else None


def _table_rows(listing: ImageFiles, table: str) -> Iterator[CaptionRow]:
    """The captions in a table: each row has a file name and one caption or a list of them."""
    for line, row in _parse(listing, table):
        place = f"{table} line {line}"
        if None in row:  # the key of columns that the header does not name
            raise DdpmError(
                f"{listing.path}: {place} has more columns than the header: put a caption with "
                "commas in quotes"
            )
        file, text = (next((row[k] for k in keys if k in row), None) for keys in _COLUMNS)
        texts = [text] if isinstance(text, str) else text
        if not isinstance(file, str) or not (
            isinstance(texts, list) and all(isinstance(caption, str) for caption in texts)
        ):
            columns = " and ".join(" or ".join(keys) for keys in _COLUMNS)
            raise DdpmError(f"{listing.path}: {place} should have {columns}; it has {row}")
        yield from ((place, str(PurePosixPath(file)), caption) for caption in texts)


def _parse(listing: ImageFiles, table: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """The rows of a .csv or .jsonl with their line numbers."""
    content = listing.text(table)
    if table == _CSV:
        reader = csv.DictReader(io.StringIO(content, newline=None), strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            place = f"{table} line {reader.line_num + 1}"  # the first line of the row
            raise DdpmError(f"{listing.path}: {place}: {error}; is a quote left open?") from error
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                place = f"{listing.path}: {table} line {number}"
                raise DdpmError(f"{place}: {error}; fix it, or add --no-captions") from error
            yield number, row if isinstance(row, dict) else {"": row}
