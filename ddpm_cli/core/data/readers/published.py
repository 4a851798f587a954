"""Photographs of data sets by name, as torchvision downloads, unpacks and lists them.

torchvision reads tables here (.mat, .json, text), and no image: those are decoded as any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.annotations.classes import Classes
from ddpm_cli.core.data.readers.folder import FolderFiles
from ddpm_cli.core.data.readers.tree import digest
from ddpm_cli.core.errors import DdpmError, UsageError


@dataclass(frozen=True)
class Photographs:
    """A data set of image files: its class in torchvision, and which of its splits are which."""

    reader: str  # the class in torchvision.datasets
    folder: str  # below the data root
    train: tuple[str, ...]  # splits that are ours called train; () where there is only one
    test: tuple[str, ...]
    archives: str  # what to put where, for those without network
    images: int | None = None  # of a set without a table, of which a part would be taken for all


PHOTOGRAPHS = {
    "flowers102": Photographs(
        "Flowers102",
        "flowers-102",
        ("train", "val"),  # 2,040 images; the test split has 6,149
        ("test",),
        "102flowers.tgz, imagelabels.mat and setid.mat into flowers-102/",
    ),
    "pets": Photographs(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        ("trainval",),
        ("test",),
        "images.tar.gz and annotations.tar.gz into oxford-iiit-pet/",
    ),
    "food101": Photographs("Food101", "food-101", ("train",), ("test",), "food-101.tar.gz"),
    "eurosat": Photographs("EuroSAT", "eurosat/2750", (), (), "EuroSAT.zip into eurosat/", 27_000),
}


class PublishedFiles(FolderFiles):
    """The image files of one split, with the classes that its tables give them."""

    def __init__(self, path: Path, files: list[tuple[Path, int]], names: list[str]) -> None:
        self.path, self.texts, self.notices, self._part = path, frozenset(), (), ""
        in_order = sorted((file.relative_to(path).as_posix(), label) for file, label in files)
        if not in_order:
            raise DdpmError(f"{path} holds no images")
        self.names = tuple(name for name, _ in in_order)
        labels = np.array([label for _, label in in_order])
        table = digest((*names, *(f"{name}\0{label}" for name, label in in_order)))
        self._of_tables = Classes(tuple(names), labels, table=table)

    def classes(self) -> Classes:
        """Those of the published tables."""
        return self._of_tables

    def unread(self, captions: Captions | None) -> str:
        """The tables are known, and read."""
        return ""


def open_photographs(name: str, root: Path, split: str) -> PublishedFiles:
    """The images of a split, "train" or "test", downloaded to root unless they are there.

    Raises UsageError for the test images of a set that has one split, and what torchvision raises.
    """
    entry = PHOTOGRAPHS[name]
    if split == "test" and not entry.test:
        raise UsageError(
            f"--data {name}:test: all its images are in {name}; --holdout N keeps some out of "
            "training"
        )
    opened = [_open(entry, root, own) for own in (getattr(entry, split) or (None,))]
    files = [pair for dataset in opened for pair in _pairs(dataset)]
    classes = getattr(opened[0], "classes", None)  # older versions of torchvision name no flowers
    count = 1 + max((label for _, label in files), default=0)
    listed = PublishedFiles(root / entry.folder, files, classes or [str(i) for i in range(count)])
    if entry.images is not None and len(files) < entry.images:
        listed.notices = (
            f"{name}: {len(files):,} of its {entry.images:,} images are in {listed.path}; delete "
            "that folder to have it unpacked again",
        )
    return listed


def _open(entry: Photographs, root: Path, split: str | None) -> Any:
    from torchvision import datasets

    arguments = {} if split is None else {"split": split}
    return getattr(datasets, entry.reader)(root, download=True, **arguments)


def _pairs(dataset: Any) -> list[tuple[Path, int]]:
    """Each image's path and label, as torchvision lists them."""
    if hasattr(dataset, "samples"):
        return [(Path(path), label) for path, label in dataset.samples]
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return list(zip(map(Path, paths), map(int, dataset._labels), strict=True))
