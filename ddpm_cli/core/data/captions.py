"""What pictures are said to show: captions beside them, or made of their classes' names."""

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

from ddpm_cli.core.data.archives import ImageFiles
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.devices import cores

_CSV, _JSONL = "captions.csv", "metadata.jsonl"  # at the top of a folder or .zip
CLASS = "{class}"  # stands for the class's name in a template

_TEXT_KEYS = ("text", "caption")
_COLUMNS = (("file_name", "file"), _TEXT_KEYS)  # of a table; the first ones are Hugging Face's
_NAMED = 5  # pictures listed in a message

CaptionRow = tuple[str, str, str]  # where it stands, of which picture, what it says


@dataclass(frozen=True)
class Captions:
    """One or several sentences for each of N pictures; in each step one of them is shown."""

    where: str  # they come from
    sentences: tuple[str, ...]  # each once
    numbers: NDArray[np.int64]  # (N, K), which sentences are a picture's; -1 after its last

    @property
    def fingerprint(self) -> str:
        """Changes when a caption does, or the pictures' order."""
        digest = hashlib.sha256(json.dumps(self.sentences).encode())
        digest.update(repr(self.numbers.shape).encode() + self.numbers.tobytes())
        return digest.hexdigest()

    def choose(self, rows: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """The number of one sentence for each picture; `draws`, (B,) in [0, 1), say which."""
        numbers = self.numbers[rows]
        count = (numbers >= 0).sum(axis=1)
        column = (draws * count).astype(np.int64)
        return np.take_along_axis(numbers, column[:, None], axis=1)[:, 0]

    def examples(self, count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Up to `count` of the sentences, evenly spread, and for each a picture that has it."""
        spread = np.linspace(0, len(self.sentences) - 1, min(count, len(self.sentences)))
        chosen = [int(number) for number in spread.round()]
        rows = (int((self.numbers == number).any(axis=1).argmax()) for number in chosen)
        return tuple(self.sentences[number] for number in chosen), tuple(rows)


def from_class_names(
    templates: Sequence[str], classes: Sequence[str], labels: NDArray[np.int64]
) -> Captions:
    """Sentences made of the classes' names, as many for each picture as there are templates."""
    if not classes:
        raise DdpmError("--caption makes captions of class names, and these pictures have none")
    for template in templates:
        if CLASS not in template:
            raise UsageError(
                f"--caption {template!r} should say {CLASS} where the class's name goes"
            )
    for name in classes:
        if not is_text(name):
            raise DdpmError(f"the class {name!r} is not UTF-8: rename its folder")
    of_class = [[template.replace(CLASS, name) for template in templates] for name in classes]
    return from_sentences("class names", (of_class[label] for label in labels))


def from_sentences(where: str, told: Iterable[Sequence[str]]) -> Captions:
    """Captions from the sentences of each picture in turn."""
    number: dict[str, int] = {}
    rows = [[number.setdefault(text, len(number)) for text in texts] for texts in told]
    numbers = np.full((len(rows), max(map(len, rows))), -1)
    for i, row in enumerate(rows):
        numbers[i, : len(row)] = row
    return Captions(where, tuple(number), numbers)


def is_text(words: str) -> bool:
    """Whether UTF-8 can spell them: halves of a letter (surrogates) cannot be spelt."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def has_captions(listing: ImageFiles) -> bool:
    """Whether a folder or .zip holds captions, or means to."""
    return _table(listing) is not None or bool(_texts_beside(listing))


def from_files(listing: ImageFiles) -> Captions:
    """Read the captions of a folder or .zip: a table at its top, or a .txt beside each picture.

    Raises DdpmError where there are none, and for pictures that have none.
    """
    table = _table(listing)
    told = _beside_each(listing) if table is None else _rows(listing, table)
    texts: dict[str, list[str]] = {}
    for place, picture, text in told:
        if not text.strip():
            raise DdpmError(f"{listing.path}: {place}: the caption of {picture} is empty")
        if not is_text(text):
            raise DdpmError(
                f"{listing.path}: {place}: the caption of {picture} holds half a letter (a lone "
                f"surrogate): {text[:60]!r}"
            )
        texts.setdefault(picture, []).append(text.strip())
    if not texts:
        raise DdpmError(
            f"{listing.path} holds no captions: put a .txt beside each image, or at the top "
            "captions.csv (file,caption) or metadata.jsonl (file_name, text)"
        )
    missing = [picture for picture in listing.names if picture not in texts]
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (", …" if missing[_NAMED:] else "")
        raise DdpmError(
            f"{listing.path}: {len(missing)} of {len(listing.names)} images have no caption "
            f"{f'in {table}' if table else 'in a .txt beside them'}: {shown}. Write them, or add "
            "--no-captions"
        )
    return from_sentences(table or ".txt files", (texts[picture] for picture in listing.names))


def _beside_each(listing: ImageFiles) -> Iterator[CaptionRow]:
    """What the .txt files beside pictures say; each of their lines is a caption."""
    there = _texts_beside(listing)
    with ThreadPoolExecutor(cores()) as pool:
        contents = pool.map(listing.text, (name for name, _ in there))
        for (name, picture), content in zip(there, contents, strict=True):
            lines = [line for line in content.splitlines() if line.strip()]
            yield from ((name, picture, line) for line in lines or [""])


def _texts_beside(listing: ImageFiles) -> list[tuple[str, str]]:
    """The .txt (or .TXT) of each picture that has one, and that picture."""
    texts = {}
    for name in listing.texts:
        path = PurePosixPath(name)
        texts[str(path.with_suffix(path.suffix.lower()))] = name
    pairs = ((str(PurePosixPath(name).with_suffix(".txt")), name) for name in listing.names)
    return [(texts[text], name) for text, name in pairs if text in texts]


def _table(listing: ImageFiles) -> str | None:
    """The table that holds captions; a metadata.jsonl may tell of other things."""
    if _CSV in listing.texts:
        return _CSV
    first = next(_parsed(listing, _JSONL), (0, {}))[1] if _JSONL in listing.texts else {}
    return _JSONL if any(key in first for key in _TEXT_KEYS) else None


def _rows(listing: ImageFiles, table: str) -> Iterator[CaptionRow]:
    """What a table says: rows of a file's name and its caption, or several of them."""
    for line, row in _parsed(listing, table):
        place = f"{table} line {line}"
        if None in row:  # where csv puts what the header has no name for
            raise DdpmError(
                f"{listing.path}: {place} has more columns than the header: put a caption with "
                "commas into quotes"
            )
        file, text = (next((row[k] for k in keys if k in row), None) for keys in _COLUMNS)
        texts = [text] if isinstance(text, str) else text
        if not isinstance(file, str) or not (
            isinstance(texts, list) and all(isinstance(one, str) for one in texts)
        ):
            wanted = " and ".join(" or ".join(keys) for keys in _COLUMNS)
            raise DdpmError(f"{listing.path}: {place} should have {wanted}; it has {row}")
        yield from ((place, str(PurePosixPath(file)), one) for one in texts)


def _parsed(listing: ImageFiles, table: str) -> Iterator[tuple[int, dict[str | None, Any]]]:
    """The rows of a .csv or .jsonl by their line numbers."""
    content = listing.text(table)
    if table == _CSV:
        reader = csv.DictReader(io.StringIO(content, newline=None), strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            place = f"{table} line {reader.line_num + 1}"  # where the row begins
            raise DdpmError(f"{listing.path}: {place}: {error}; is a quote left open?") from error
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                place = f"{listing.path}: {table} line {number}"
                raise DdpmError(f"{place}: {error}; --no-captions leaves it aside") from error
            yield number, row if isinstance(row, dict) else {"": row}
