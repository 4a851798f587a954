"""Data sets by name, downloaded at first use and read by torchvision.

CIFAR is read from its binary version, because torchvision would unpickle its download.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.annotations.captions import Captions, only_classes
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import ImageArray, fit
from ddpm_cli.core.data.readers.published import PHOTOGRAPHS, open_photographs
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError, first_line
from ddpm_cli.core.runtime.locks import lock_writing
from ddpm_cli.core.runtime.reporting import Reporter


class _Torchvision(NamedTuple):
    """A data set that torchvision reads without pickle."""

    reader: str  # the class in torchvision.datasets
    size: tuple[int, int]  # to train at by default; the images' own may be larger
    channels: int
    archives: str  # what to put where, for those without network
    by_split: bool = False  # whether the class takes split="train" rather than train=True


class _Binary(NamedTuple):
    """The binary version of CIFAR: records of label bytes and 3 x 32 x 32 pixel bytes."""

    archive: str
    md5: str
    folder: str
    names: str
    label_bytes: int  # the last one is the label
    train: tuple[str, ...]
    test: tuple[str, ...]


DATASETS: dict[str, _Torchvision | _Binary] = {
    "mnist": _Torchvision("MNIST", (28, 28), 1, "its four .gz files into MNIST/raw/"),
    "fashion-mnist": _Torchvision(
        "FashionMNIST", (28, 28), 1, "its four .gz files into FashionMNIST/raw/"
    ),
    "kmnist": _Torchvision("KMNIST", (28, 28), 1, "its four .gz files into KMNIST/raw/"),
    "svhn": _Torchvision("SVHN", (32, 32), 3, "train_32x32.mat and test_32x32.mat", by_split=True),
    "stl10": _Torchvision("STL10", (64, 64), 3, "stl10_binary.tar.gz", by_split=True),
    "cifar10": _Binary(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        names="batches.meta.txt",
        label_bytes=1,
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
    ),
    "cifar100": _Binary(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        names="fine_label_names.txt",
        label_bytes=2,
        train=("train.bin",),
        test=("test.bin",),
    ),
}


def known() -> list[str]:
    """The names of all data sets that are downloaded."""
    return [*DATASETS, *PHOTOGRAPHS]


def open_named(name: str, split: str, root: Path, reporter: Reporter) -> NamedSource | FileSource:
    """One split, "train" or "test", of a data set by name, which is downloaded unless in root."""
    if split not in ("train", "test"):
        raise UsageError(f"--data {name}:{split}: the splits are {name}:train and {name}:test")
    with (
        _explain_errors(name, root),
        lock_writing(root / name, reporter.say),
        contextlib.redirect_stdout(sys.stderr),
    ):
        if name in DATASETS:
            return NamedSource(name, split, root)
        source = FileSource(open_photographs(name, root, split))
    source.name = name if split == "train" else f"{name}-{split}"
    return source


class NamedSource:
    """One split, "train" or "test", of a data set of DATASETS."""

    captioned = transparent = sequential = False
    blocks = ()
    why_no_classes = label_table = ""
    notices = ()

    def __init__(self, name: str, split: str, root: Path) -> None:
        self.name = name if split == "train" else f"{name}-{split}"
        self.fingerprint = self.cache_key = f"{name}:{split}"
        entry = DATASETS[name]
        if isinstance(entry, _Binary):
            self._images, self.labels, self.classes = _read_binary(entry, root, split)
            self.native_size, self.native_channels = (32, 32), 3
        else:
            self._images = _open_torchvision(entry, root, split)
            self.labels, self.classes = _labels_of(self._images)
            self.native_size, self.native_channels = entry.size, entry.channels
        self.image_size = self._array(0).shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def captions(self) -> Captions:
        """Raise DdpmError: these data sets have none."""
        raise only_classes(self.name)

    def unread(self, captions: Captions | None) -> str:
        """Nothing lies beside these images."""
        return ""

    def size_of(self, index: int) -> tuple[int, int]:
        """The (height, width) that all of its images have."""
        return self.image_size

    def image(self, index: int, transform: Transform) -> ImageArray:
        """One image as uint8 (channels, height, width)."""
        return fit(self._array(index), transform)

    def _array(self, index: int) -> ImageArray:
        """One image at its own size, (C, H, W)."""
        item = self._images[index]
        array = np.asarray(item[0] if isinstance(item, tuple) else item)
        if array.ndim == 2:
            return array[None]
        return array.transpose(2, 0, 1) if array.shape[-1] == 3 else array


def _open_torchvision(entry: _Torchvision, root: Path, split: str) -> Any:
    from torchvision import datasets

    arguments = {"split": split} if entry.by_split else {"train": split == "train"}
    return getattr(datasets, entry.reader)(root, download=True, **arguments)


def _labels_of(dataset: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets).astype(
        int
    )
    names = getattr(dataset, "classes", None) or [str(i) for i in range(labels.max() + 1)]
    return labels, tuple(str(name) for name in names)


def _read_binary(
    entry: _Binary, root: Path, split: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Images (N, 3, 32, 32), labels (N,) and class names."""
    folder = root / entry.folder
    batches = [folder / name for name in (entry.train if split == "train" else entry.test)]
    if not all(path.is_file() for path in [*batches, folder / entry.names]):
        from torchvision.datasets.utils import download_and_extract_archive

        url = f"https://www.cs.toronto.edu/~kriz/{entry.archive}"
        download_and_extract_archive(url, str(root), filename=entry.archive, md5=entry.md5)
    data = np.concatenate([np.fromfile(path, dtype=np.uint8) for path in batches])
    records = data.reshape(-1, entry.label_bytes + 3 * 32 * 32)
    labels = records[:, entry.label_bytes - 1].astype(np.int64)
    images = records[:, entry.label_bytes :].reshape(-1, 3, 32, 32)
    return images, labels, tuple((folder / entry.names).read_text().split())


@contextlib.contextmanager
def _explain_errors(name: str, root: Path) -> Any:
    try:
        yield
    except (OSError, RuntimeError, ValueError, LookupError, EOFError) as error:
        raise DdpmError(
            f"cannot get the data set {name} into {root}: {first_line(error)}. Without network, "
            f"put {_to_put(name)} there (--data-root or DDPM_DATA names another), or give "
            "--data a folder"
        ) from error


def _to_put(name: str) -> str:
    """The files of a data set as they are published, and where they belong below the root."""
    if name in PHOTOGRAPHS:
        return PHOTOGRAPHS[name].archives
    entry = DATASETS[name]
    return entry.archive if isinstance(entry, _Binary) else entry.archives
