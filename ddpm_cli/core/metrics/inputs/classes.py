"""The class of each image to score, and the classes that two inputs have in common."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.fields import did_you_mean
from ddpm_cli.core.config.network_inputs import JOIN, NO_ATTRIBUTE
from ddpm_cli.core.data.annotations.classes import Classes, from_names
from ddpm_cli.core.data.files import UnreadableError
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.data.readers.tree import Tree
from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.runtime import json_lines

MANIFEST = "manifest.jsonl"  # of ddpm sample: the class of each image that it drew
_LISTED = 12  # names in a message

Groups = Mapping[str, Sequence[str]]  # by the group's name: the classes in it
Labels = NDArray[np.int64]  # (N,) indices of names, -1 for none of them; or (N, K) of 0 and 1


def classes_of_files(listing: ImageFiles) -> Classes:
    """The classes of image files: those that `ddpm sample` recorded, or else as in training."""
    return _of_manifests(listing) or listing.classes()


def _of_manifests(listing: ImageFiles) -> Classes | None:
    """The classes in manifests beside the images; None where no image has one."""
    if not isinstance(listing, Tree):
        return None
    labels: dict[str, str] = {}
    for folder in sorted({posixpath.dirname(name) for name in listing.names}):
        try:
            text = listing.text(posixpath.join(folder, MANIFEST))
        except (UnreadableError, KeyError):  # there is none: most folders are not of ddpm sample
            continue
        for row in map(json_lines.parsed, text.splitlines()):
            if row and isinstance(row.get("file"), str) and isinstance(row.get("class"), str):
                labels[posixpath.normpath(posixpath.join(folder, row["file"]))] = row["class"]
    found = [labels.get(posixpath.normpath(name)) for name in listing.names]
    if not any(found):
        return None
    return from_names(listing.names, found, MANIFEST)


@dataclass(frozen=True)
class CommonClasses:
    """The classes of two inputs under the same names."""

    names: tuple[str, ...]  # those of REAL in its order, then those of FAKE alone
    real_names: tuple[str, ...]  # of the indices in the labels of REAL
    fake_names: tuple[str, ...]
    notice: str = ""

    def of_real(self, labels: Labels) -> Labels:
        """Labels of REAL as indices of the common names."""
        return _relabelled(labels, self.real_names, self.names)

    def of_fake(self, labels: Labels) -> Labels:
        """Labels of FAKE as indices of the common names."""
        return _relabelled(labels, self.fake_names, self.names)


def common_classes(real: ImageSet, fake: ImageSet) -> CommonClasses:
    """Match the classes of two inputs by name, or where FAKE or REAL has only numbers, by index.

    Names such as Smiling+Male, of several classes an image, are taken apart where the other input
    has several classes an image. Raises DdpmError where an input has no classes, or where none of
    them is the other's.
    """
    for name, images in (("REAL", real), ("FAKE", fake)):
        if images.labels is None:
            why = f" ({images.why_no_classes})" if images.why_no_classes else ""
            raise DdpmError(
                f"--metrics classes needs the class of each image, and {name}, {images.label}, has "
                f"none{why}: sort them into a folder for each class"
            )
    own, other = _with_parts(real.classes, fake), _with_parts(fake.classes, real)
    notice = ""
    if not set(own).intersection(other):
        if _are_indices(fake.classes, real.classes):
            other = _by_index(fake.classes, real.classes)
            notice = _numbered("FAKE", "REAL", fake.classes, other)
        elif _are_indices(real.classes, fake.classes):
            own = _by_index(real.classes, fake.classes)
            notice = _numbered("REAL", "FAKE", real.classes, own)
        else:
            raise DdpmError(
                f"REAL and FAKE have no class in common: REAL has {listed(real.classes, _LISTED)}; "
                f"FAKE has {listed(fake.classes, _LISTED)}; give folders of the same names"
            )
    parts = [part for name in (*own, *other) for part in name.split(_SEPARATOR) if part]
    return CommonClasses(tuple(dict.fromkeys(parts)), own, other, notice)


_SEPARATOR = "\0"  # between the classes of one image, in the names of labels


def _with_parts(names: Sequence[str], other: ImageSet) -> tuple[str, ...]:
    """Names, of which those of several classes are taken apart where the other has such labels."""
    if other.labels is None or other.labels.ndim == 1:
        return tuple(names)
    known = {*other.classes, NO_ATTRIBUTE}
    return tuple(
        name if name in other.classes or not known.issuperset(parts) else _joined(parts)
        for name, parts in ((name, name.split(JOIN)) for name in names)
    )


def _joined(parts: Sequence[str]) -> str:
    return _SEPARATOR + _SEPARATOR.join(part for part in parts if part != NO_ATTRIBUTE)


def _are_indices(names: Sequence[str], other: Sequence[str]) -> bool:
    """Whether all names are numbers from 0 and below the number of the other's."""
    return all(name.isdecimal() and len(name) < 9 and int(name) < len(other) for name in names)


def _by_index(names: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    return tuple(other[int(name)] for name in names)


def _numbered(one: str, other: str, numbers: Sequence[str], names: Sequence[str]) -> str:
    pairs = [f"{number} = {name}" for number, name in zip(numbers, names, strict=True)]
    return (
        f"the classes of {one} are numbers: they are taken as indices of those of {other} "
        f"({listed(pairs, _LISTED)})"
    )


def _relabelled(labels: Labels, old: Sequence[str], new: Sequence[str]) -> Labels:
    index = {name: position for position, name in enumerate(new)}
    if labels.ndim == 1 and all(name in index for name in old):
        return np.append([index[name] for name in old], -1)[labels]
    columns = np.zeros((len(old), len(new)), np.int64)
    for row, name in enumerate(old):
        columns[row, [index[part] for part in name.split(_SEPARATOR) if part]] = 1
    if labels.ndim == 1:
        return np.vstack([columns, np.zeros_like(columns[:1])])[labels]
    return labels @ columns


def parse_groups(text: str) -> Groups:
    """Read "animals=cat,dog;vehicles=car,truck". Raises UsageError for anything else."""
    groups: dict[str, tuple[str, ...]] = {}
    for part in filter(str.strip, text.split(";")):
        name, equals, members = part.partition("=")
        classes = tuple(filter(None, map(str.strip, members.split(","))))
        name = name.strip()
        if not (equals and name and classes) or name in groups:
            why = f"{name} is there twice" if name in groups else f"{part.strip()!r} is no group"
            raise UsageError(f'--class-groups: {why}; write them as "animals=cat,dog;vehicles=car"')
        groups[name] = tuple(dict.fromkeys(classes))
    if not groups:
        raise UsageError('--class-groups is empty; write groups as "animals=cat,dog;vehicles=car"')
    return groups


def resolved_groups(groups: Groups, names: Sequence[str]) -> Groups:
    """Groups with the names of their classes, of which some may be given by index.

    Raises UsageError for a class that there is not.
    """
    return {
        group: tuple(_class_named(name, names, group) for name in classes)
        for group, classes in groups.items()
    }


def _class_named(name: str, names: Sequence[str], group: str) -> str:
    if name in names:
        return name
    if _are_indices([name], names):
        return names[int(name)]
    raise UsageError(
        f"--class-groups: there is no class {name!r}, of {group}{did_you_mean(name, names)}; the "
        f"classes are {listed(names, _LISTED)}, each also by its index from 0"
    )
