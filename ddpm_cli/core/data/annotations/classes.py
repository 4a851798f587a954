"""Class names and labels of image files: from files beside them, or from their folders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.conditioning.class_names import in_order
from ddpm_cli.core.data.annotations import label_files
from ddpm_cli.core.data.annotations.label_files import LabelFiles
from ddpm_cli.core.data.layout import shared_folder
from ddpm_cli.core.errors import listed

_SHARD = re.compile(r"[0-9]{5}")


@dataclass(frozen=True)
class Classes:
    """Class names, and the label of each image."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,) indices into names; -1 without classes
    why_none: str = ""  # why there are no names, where there could have been some
    notices: tuple[str, ...] = ()  # where they come from, or why not from a table
    table: str = ""  # hash of the labels, where they come from a table
    files: frozenset[str] = frozenset()  # the tables and texts that they were read from


def classes_of(
    images: Sequence[str],
    texts: Collection[str],
    read_text: Callable[[str], str],
    below: Callable[[str], str] = str,
) -> Classes:
    """The labels of files beside the images where there are any, or else the first folders.

    below: an image's name without folders that are certainly no classes. There are no classes where
    some images have none, or where the folders are numbered shards.
    """
    found = label_files.read(images, texts, read_text)
    classes = None if found.labels is None else _from_files(images, found)
    if classes is None:
        own = [below(image) for image in images]
        classes = _from_folders(own, shared_folder(own))
    return replace(classes, notices=(*found.notices, *classes.notices), files=found.files)


def _is_index(label: str) -> bool:
    return label.isdecimal() and len(label) <= 9


def _from_files(images: Sequence[str], found: LabelFiles) -> Classes:
    labels = [(found.labels or {}).get(posixpath.normpath(image)) for image in images]
    if found.names and all(label is None or _is_index(label) for label in labels):
        numbers = [None if label is None else int(label) for label in labels]
        return from_indices(images, numbers, found.names, found.where)
    return from_names(images, labels, found.where)


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


def from_names(images: Sequence[str], found: Sequence[str | None], where: str) -> Classes:
    """The classes by name as `where` has them for each image; none where one has None."""
    missing = [image for image, name in zip(images, found, strict=True) if name is None]
    if missing:
        why = _some_without(missing, len(images), f"have no label in {where}")
        return Classes((), np.full(len(images), -1), why)
    names = in_order({name for name in found if name is not None})
    index: dict[str | None, int] = {name: position for position, name in enumerate(names)}
    return _of_table(names, np.array([index[name] for name in found]), where)


def from_indices(
    images: Sequence[str], labels: Sequence[int | None], names: Sequence[str], where: str
) -> Classes:
    """The classes by index into all their names; none where an image has None or another index."""
    none = np.full(len(images), -1)
    known = range(len(names))
    if strange := sorted({label for label in labels if label is not None and label >= len(names)}):
        why = f"{where} holds {listed(list(map(str, strange)), 3)}, and names {len(names)} classes"
        return Classes((), none, why)
    found = [names[label] if label is not None and label in known else None for label in labels]
    if missing := [image for image, name in zip(images, found, strict=True) if name is None]:
        return Classes((), none, _some_without(missing, len(images), f"have no label in {where}"))
    classes = _of_table(names, np.array(labels), where)
    present = set(found)
    if empty := [name for name in names if name not in present]:
        notice = f"no images of {len(empty)} of the {len(names)} classes: {listed(empty)}"
        return replace(classes, notices=(*classes.notices, notice))
    return classes


def _of_table(names: Sequence[str], labels: NDArray[np.int64], where: str) -> Classes:
    digest = sha256(repr(list(names)).encode() + labels.tobytes()).hexdigest()
    notices = (f"the classes are the labels in {where}",)
    return Classes(tuple(names), labels, "", notices, digest)
