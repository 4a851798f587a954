"""Class names and labels of image files: from their folders, or from a dataset.json."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.class_names import in_order
from ddpm_cli.core.data.layout import shared_folder
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.files import parse_json

TABLE = "dataset.json"  # of StyleGAN and EDM: {"labels": [["00000/img00000000.png", 6], …]}
_SHARD = re.compile(r"[0-9]{5}")


@dataclass(frozen=True)
class Classes:
    """Class names, and the label of each image."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,) indices into names; -1 without classes
    why_none: str = ""  # why there are no names, where there could have been some
    notices: tuple[str, ...] = ()  # where they come from, or why not from a table
    table: str = ""  # hash of the labels, where they come from a table


def classes_of(
    images: Sequence[str], texts: Iterable[str], read_text: Callable[[str], str]
) -> Classes:
    """The labels of a dataset.json where there is one, or else the first folders not shared.

    There are no classes where some images have none, or where the folders are numbered shards.
    """
    shared, notices = shared_folder(images), []
    for name in sorted(texts, key=len):
        if posixpath.basename(name) == TABLE and shared.startswith(name.removesuffix(TABLE)):
            try:
                labels = _read_labels(name, read_text)
                if labels is not None:
                    return _from_table(images, name, labels)
            except ValueError as error:
                notices.append(f"{name} gives no classes: {error}")
    found = _from_folders(images, shared)
    return replace(found, notices=(*notices, *found.notices))


def _from_folders(images: Sequence[str], shared: str) -> Classes:
    none = np.full(len(images), -1)
    start = len(shared)
    ends = np.array([name.find("/", start) for name in images])
    outside = [images[i] for i in np.flatnonzero(ends < 0).tolist()]
    folders = (name[start:end] for name, end in zip(images, ends.tolist(), strict=True) if end >= 0)
    names = in_order(set(folders))
    if not names:
        return Classes((), none)
    if _are_shards(names):
        why = f"the folders {names[0]} to {names[-1]} are shards (rename them if they are classes)"
        return Classes((), none, why)
    if outside:
        return Classes((), none, _some_without(outside, len(images), "lie in no class folder"))
    index = {name: label for label, name in enumerate(names)}
    labels = (index[name[start:end]] for name, end in zip(images, ends.tolist(), strict=True))
    return Classes(tuple(names), np.fromiter(labels, np.int64, len(images)))


def _some_without(names: Sequence[str], count: int, what: str) -> str:
    """In words: "2 of 9 images lie in no class folder (a.png, b.png)"."""
    verb, _, rest = what.partition(" ")
    if len(names) == 1:
        verb = {"lie": "lies", "have": "has"}[verb]
    return f"{len(names)} of {count} images {verb} {rest} ({listed(names, 3)})"


def _are_shards(names: Sequence[str]) -> bool:
    """Whether folders are numbered as tools number theirs that split images: 00000, 00001, …"""
    if len(names) < 2 or not all(map(_SHARD.fullmatch, names)):
        return False
    return int(names[-1]) - int(names[0]) == len(names) - 1


def _from_table(images: Sequence[str], table: str, labels: dict[str, int]) -> Classes:
    """Raises ValueError where the table has a label for none of the images."""
    folder = table.removesuffix(TABLE)
    found = [labels.get(posixpath.normpath(name).removeprefix(folder)) for name in images]
    missing = [name for name, label in zip(images, found, strict=True) if label is None]
    if len(missing) == len(images):
        raise ValueError("it has no label for any of the images")
    if missing:
        why = _some_without(missing, len(images), f"have no label in {table}")
        return Classes((), np.full(len(images), -1), why)
    names = in_order({str(label) for label in found})
    index = {name: position for position, name in enumerate(names)}
    rows = np.array([index[str(label)] for label in found])
    digest = sha256(repr(names).encode() + rows.tobytes()).hexdigest()
    return Classes(tuple(names), rows, "", (f"the classes are the labels in {table}",), digest)


def _read_labels(table: str, read_text: Callable[[str], str]) -> dict[str, int] | None:
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
