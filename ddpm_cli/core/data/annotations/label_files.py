"""Labels in files beside the images, before any class folders.

The first of these that has labels is the one that is read: a dataset.json of StyleGAN and EDM, a
table with a column of labels, a .cls or .json beside each image, as WebDataset has them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_cli.core.data.annotations import tables
from ddpm_cli.core.data.annotations.tables import FILE_COLUMNS, beside, first, image_of, lower
from ddpm_cli.core.data.layout import shared_folder
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.files import parse_json

DATASET = "dataset.json"  # {"labels": [["00000/img00000000.png", 6], …]}
TABLES = (
    *("labels.csv", "labels.tsv", "labels.jsonl", "labels.json"),
    *("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json"),
)
LABEL_COLUMNS = ("label", "class", "cls")

NAME_FILES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")  # a name a line

ReadText = Callable[[str], str]


@dataclass(frozen=True)
class LabelFiles:
    """The labels that were found; numbers as text, too."""

    where: str = ""  # for messages
    labels: dict[str, str] | None = None  # by image; None: there are none
    names: tuple[str, ...] = ()  # of labels that are numbers from 0
    files: frozenset[str] = frozenset()  # those that were read
    notices: tuple[str, ...] = ()  # why a file that should have labels gives none


def read(images: Sequence[str], texts: Collection[str], read_text: ReadText) -> LabelFiles:
    """The labels beside the images; a damaged file gives none, and a notice."""
    notices: list[str] = []
    found = (
        _from_dataset(images, texts, read_text, notices)
        or _from_tables(images, texts, read_text, notices)
        or _from_texts(images, texts, read_text, notices)
    )
    if found is None:
        files = frozenset(name for name in texts if posixpath.basename(name) == DATASET)
        return LabelFiles(notices=tuple(notices), files=files)
    where, labels, files = found
    names, file = _class_names(texts, read_text)
    return LabelFiles(where, labels, names, files | file, tuple(notices))


Found = tuple[str, dict[str, str], frozenset[str]]


def _from_dataset(
    images: Sequence[str], texts: Collection[str], read_text: ReadText, notices: list[str]
) -> Found | None:
    shared = shared_folder(images)
    for name in sorted(texts, key=len):
        folder = name.removesuffix(DATASET)
        if posixpath.basename(name) != DATASET or not shared.startswith(folder):
            continue
        try:
            labels = _dataset_labels(name, read_text)
            if labels is None:
                continue
            placed = {folder + file: str(label) for file, label in labels.items()}
            if placed.keys().isdisjoint(map(posixpath.normpath, images)):
                raise ValueError("it has no label for any of the images")
            return name, placed, frozenset({name})
        except ValueError as error:
            notices.append(f"{name} gives no classes: {error}")
    return None


def _from_tables(
    images: Sequence[str], texts: Collection[str], read_text: ReadText, notices: list[str]
) -> Found | None:
    for kind in TABLES:
        names = sorted(name for name in texts if posixpath.basename(name).lower() == kind)
        labels: dict[str, str] = {}
        try:
            for name in names:
                labels |= _table_labels(name, read_text(name), images)
        except (DdpmError, ValueError) as error:
            notices.append(f"{name} gives no classes: {error}")
            continue
        if labels:
            return kind, labels, frozenset(names)
    return None


def _table_labels(table: str, content: str, images: Sequence[str]) -> dict[str, str]:
    """The labels of one table; {} without a column of them. Raises ValueError."""
    labels = {}
    for place, row in tables.rows(content, table, images):
        (_, file), (column, label) = first(row, FILE_COLUMNS), first(row, LABEL_COLUMNS)
        if isinstance(file, str) and column and label != "":
            labels[image_of(table, file)] = _as_label(label, f"{place}: {column}")
    return labels


def _from_texts(
    images: Sequence[str], texts: Collection[str], read_text: ReadText, notices: list[str]
) -> Found | None:
    """The labels in a .cls beside each image, or in its .json."""
    for suffix in (".cls", ".json"):
        labels, files = dict[str, str](), set[str]()
        try:
            for file, image in beside(images, texts, suffix):
                label = _text_label(read_text(file), suffix, file)
                if label is not None:
                    labels[posixpath.normpath(image)] = label
                    files.add(file)
                elif not labels:
                    break  # as the first, so the others
        except (DdpmError, ValueError) as error:
            notices.append(f"no classes from {suffix} files: {error}")
            continue
        if labels:
            return f"{suffix} files", labels, frozenset(files)
    return None


def _text_label(content: str, suffix: str, file: str) -> str | None:
    """The label in a .cls, or that of a .json; None for a .json without one, or damaged."""
    if suffix == ".cls":
        return _as_label(content.strip(), file)
    try:
        document = parse_json(content)
    except ValueError:
        return None
    label = first(lower(document), LABEL_COLUMNS)[1] if isinstance(document, dict) else None
    return None if label is None else _as_label(label, file)


def _as_label(value: Any, where: str) -> str:
    """A label as text. Raises ValueError for what is neither text nor a whole number from 0."""
    if (type(value) is int and value >= 0) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    kind = "a vector" if isinstance(value, list) else repr(value)[:40]
    raise ValueError(f"{where} is {kind}; a class is a name, or a whole number from 0")


def _class_names(
    texts: Collection[str], read_text: ReadText
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of numbered classes, a line each, and the file that has them."""
    for file in NAME_FILES:
        if file in texts:
            try:
                lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            except DdpmError:
                continue
            if len(set(lines)) == len(lines):
                return tuple(lines), frozenset({file})
    return (), frozenset()


def _dataset_labels(table: str, read_text: Callable[[str], str]) -> dict[str, int] | None:
    """The label of each file; None where the table says that there are none.

    Raises ValueError for what is no such table, and for labels that are not whole numbers.
    """
    try:
        document: Any = parse_json(read_text(table))
    except DdpmError as error:
        raise ValueError(str(error)) from error
    if not isinstance(document, dict) or "labels" not in document:
        raise ValueError('it has no "labels"')
    labels = document["labels"]
    if labels is None:
        return None
    pairs = list(labels.items()) if isinstance(labels, dict) else labels
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        raise ValueError("its labels are not pairs of a file and a class")
    wrong = next((p for p in pairs if type(p[1]) is not int or p[1] < 0), None)
    if wrong is not None:
        kind = "a vector" if isinstance(wrong[1], list) else repr(wrong[1])[:40]
        raise ValueError(f"the label of {wrong[0]} is {kind}; a class is a whole number from 0")
    return {posixpath.normpath(name.replace("\\", "/")): label for name, label in pairs}
