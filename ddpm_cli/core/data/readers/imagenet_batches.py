"""The batches of down-sampled ImageNet: where they lie, and what is in them.

The published archives: Imagenet64_train_part1.zip and part2, with train_data_batch_1 to 10;
Imagenet32_train.zip; Imagenet64_val.zip with val_data; and the same with _npz. A batch holds
`data`, uint8 (N, 3 * side * side), planar, and `labels` from 1.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.files import is_image_file
from ddpm_cli.core.data.readers import restricted_pickle
from ddpm_cli.core.data.readers.restricted_pickle import RefusedError
from ddpm_cli.core.data.readers.zips import open_zip
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, first_line, listed
from ddpm_cli.core.runtime.files import in_words

CLASSES = 1000
_ARCHIVE = re.compile(r"imagenet(8|16|32|64)_(train|val)(?:_part\d)?(_npz)?\.zip", re.IGNORECASE)
_BATCH = re.compile(r"(?:.*/)?(?:train_data_batch_(\d+)|(val_data))(\.npz)?")
_FOLDER = re.compile(r"imagenet(?:8|16|32|64)_.*", re.IGNORECASE)  # of an unpacked archive
_FEW = 1000  # entries of a folder that may hold batches, at most
SIDES = (8, 16, 32, 64)
_LARGEST = 4 * 2**30  # bytes of a batch; the largest published one has 1.6 GB


class Batch(NamedTuple):
    """Where a batch lies: in a file of its own, or in an archive."""

    split: str
    number: int
    file: Path
    member: str  # of the archive; "" for a file of its own
    is_npz: bool

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file}:{self.member}" if self.member else str(self.file)


def batches_at(path: Path) -> list[Batch]:
    """All batches in a folder, or those of a file's folder that belong to it."""
    if path.is_dir():
        entries = _entries(path)
        below = [entry for entry in entries if _FOLDER.fullmatch(entry.name) and entry.is_dir()]
        files = [*entries, *(file for folder in below for file in _entries(folder))]
        archives = [file for file in files if _ARCHIVE.fullmatch(file.name)]
        _check_sides(path, archives)
        found = [batch for file in archives for batch in _in_archive(file)]
        if not any(is_image_file(entry.name) for entry in entries):
            found += [batch for file in files for batch in _of(file)]
    elif match := _ARCHIVE.fullmatch(path.name) if path.is_file() else None:
        parts = [f for f in _entries(path.parent) if _same_set(_ARCHIVE.fullmatch(f.name), match)]
        found = [batch for file in parts for batch in _in_archive(file)]
    else:
        found = _of(path)
    return _once(found)


def _check_sides(folder: Path, archives: Sequence[Path]) -> None:
    """Raise DdpmError for the archives of several sizes."""
    matches = [match for file in archives if (match := _ARCHIVE.fullmatch(file.name))]
    sides = sorted({int(match[1]) for match in matches})
    if len(sides) > 1:
        held = listed([f"{side}x{side}" for side in sides])
        raise DdpmError(
            f"{folder} holds ImageNet at {held}: name one of its archives, {archives[0]}"
        )


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing of a large one, which holds images and no batches."""
    try:
        entries = list(islice(folder.iterdir(), _FEW + 1))
    except OSError:  # who lists it says what is wrong
        return []
    return sorted(entries) if len(entries) <= _FEW else []


def _same_set(one: re.Match[str] | None, other: re.Match[str]) -> bool:
    return one is not None and [g and g.lower() for g in one.groups()] == [
        g and g.lower() for g in other.groups()
    ]


def _of(file: Path) -> list[Batch]:
    match = _BATCH.fullmatch(file.name)
    return [_batch(match, file, "")] if match and file.is_file() else []


def _in_archive(file: Path) -> list[Batch]:
    with open_zip(file) as archive:
        names = archive.namelist()
    matches = ((name, _BATCH.fullmatch(name)) for name in names if "__MACOSX" not in name)
    return [_batch(match, file, name) for name, match in matches if match]


def _batch(match: re.Match[str], file: Path, member: str) -> Batch:
    number, val, npz = match.groups()
    return Batch("val" if val else "train", int(number or 1), file, member, bool(npz))


def _once(found: Sequence[Batch]) -> list[Batch]:
    """Each batch once, in order: of several the .npz, and the unpacked one."""
    best: dict[tuple[str, int], Batch] = {}
    for batch in sorted(found, key=lambda b: (not b.is_npz, bool(b.member), str(b.file))):
        best.setdefault((batch.split, batch.number), batch)
    return [best[key] for key in sorted(best)]


def read(batch: Batch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images (N, 3 * side * side) of a batch and their labels from 0. Raises DdpmError."""
    try:
        with _opened(batch) as file:
            if batch.is_npz:
                content = io.BytesIO(file.read())
                _check_members(content)
                with np.load(content, allow_pickle=False) as arrays:
                    data, labels = arrays["data"], arrays["labels"]
            else:
                content = restricted_pickle.load(file)
                data, labels = content["data"], content["labels"]
        return _checked(data, labels)
    except DdpmError:
        raise
    except RefusedError as error:
        raise DdpmError(f"{batch.where} is not read: {error}") from error
    except MemoryError as error:
        raise DdpmError(f"{batch.where}: a batch needs more memory than there is") from error
    except (OSError, TypeError, *DAMAGED_FILE) as error:
        raise DdpmError(
            f"{batch.where} is no batch of down-sampled ImageNet, or damaged ({first_line(error)})"
        ) from error


@contextmanager
def _opened(batch: Batch) -> Iterator[IO[bytes]]:
    if not batch.member:
        _check_size(batch, batch.file.stat().st_size)
        with batch.file.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(batch.file) as archive:
        _check_size(batch, archive.getinfo(batch.member).file_size)
        with archive.open(batch.member) as member:
            yield member


def _check_size(batch: Batch, size: int) -> None:
    if size > _LARGEST:
        raise DdpmError(f"{batch.where} has {in_words(size)}; a batch has 1.6 GB at most")


def _check_members(content: IO[bytes]) -> None:
    """Raise ValueError for an .npz whose arrays would be larger than any batch."""
    with zipfile.ZipFile(content) as archive:
        infos = archive.infolist()
    usual = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if sum(i.file_size for i in infos) > _LARGEST or any(
        i.compress_type not in usual for i in infos
    ):
        raise ValueError("its arrays are larger than those of a batch, or compressed otherwise")


def _checked(data: Any, labels: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Raises ValueError for what are no images and labels."""
    sides = [side for side in SIDES if data.shape[1:] == (3 * side * side,)]
    if data.dtype != np.uint8 or not sides:
        raise ValueError(f"data is {data.dtype} {data.shape}, not uint8 (N, 3 * side * side)")
    numbers = np.asarray(labels)
    right = numbers.shape == data.shape[:1] and numbers.dtype.kind in "iu" and len(numbers) > 0
    if not right or numbers.min() < 1 or numbers.max() > CLASSES:
        raise ValueError(f"labels are not {len(data):,} whole numbers from 1 to {CLASSES}")
    return data, numbers.astype(np.int64) - 1


def key_of(batches: Sequence[Batch]) -> str:
    """Changes whenever one of the files is written."""
    stats = ((batch, batch.file.stat()) for batch in batches)
    lines = (f"{b.file.name} {b.member} {s.st_size} {s.st_mtime_ns}" for b, s in stats)
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
