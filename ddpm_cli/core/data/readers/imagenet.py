"""Down-sampled ImageNet (Chrabaszcz et al. 2017): batches of images in pickles, or in .npz files.

The published archives, and what is in them: Imagenet64_train_part1.zip and part2, with
train_data_batch_1 to 10; Imagenet32_train.zip; Imagenet64_val.zip with val_data; and the same with
_npz. A batch holds `data`, uint8 (N, 3 * side * side), planar, and `labels` from 1.
"""

from __future__ import annotations

import io
import math
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.files import ImageArray, UnreadableError, fit, is_image_file
from ddpm_cli.core.data.readers import restricted_pickle
from ddpm_cli.core.data.readers.restricted_pickle import RefusedError
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, UsageError, first_line, listed
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.content import describe_file
from ddpm_cli.core.runtime.files import in_words, write_bytes
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, track

SPLITS = ("train", "val")
NAMES = ("imagenet64", "imagenet32", "imagenet16", "imagenet8")

_ARCHIVE = re.compile(r"imagenet(8|16|32|64)_(train|val)(?:_part\d)?(_npz)?\.zip", re.IGNORECASE)
_BATCH = re.compile(r"(?:.*/)?(?:train_data_batch_(\d+)|(val_data))(\.npz)?")
_FOLDER = re.compile(r"imagenet(?:8|16|32|64)_.*", re.IGNORECASE)  # of an unpacked archive
_FEW = 1000  # entries of a folder that may hold batches, at most
_CLASSES, _BATCHES = 1000, 10
_NAMES = "map_clsloc.txt"  # "n02119789 1 kit_fox", a class a line, in the order of the labels
_SIDES = (8, 16, 32, 64)
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


def open_imagenet(
    path: Path, split: str = "", *, training: bool = False, reporter: Reporter = SILENT
) -> ImagenetSource | None:
    """The batches of a folder, or of a published archive and its other parts; None for others.

    split: train or val; "" for the only one, or the training's. Raises DdpmError where both could
    be meant, and for damaged batches.
    """
    batches = _batches_at(path)
    if not batches:
        return None
    splits = sorted({batch.split for batch in batches})
    if not split and len(splits) > 1 and not training:
        example = next(batch.file for batch in batches if batch.split == "val")
        raise DdpmError(f"{path} holds train and val: name the one that is meant, as {example}")
    chosen = split or splits[0]  # train comes before val
    if chosen not in splits:
        raise DdpmError(f"{path} holds no batches of {chosen}")
    return ImagenetSource(path, [b for b in batches if b.split == chosen], splits, reporter)


def open_by_name(name: str, split: str, root: Path, reporter: Reporter) -> ImagenetSource:
    """What lies in the folder `name` of the root, "imagenet64" or another of NAMES.

    split: train; val or test. Raises DdpmError where it is not there, and UsageError.
    """
    if split not in (*SPLITS, "test"):
        raise UsageError(f"--data {name}:{split}: the splits are {name}:train and {name}:val")
    folder, side = root / name, int(name.removeprefix("imagenet"))
    part = "train" if split == "train" else "val"
    source = open_imagenet(folder, part, reporter=reporter) if folder.is_dir() else None
    if source is not None and source.image_size == (side, side):
        return source
    parts = [f"Imagenet{side}_{part}.zip"]
    if side == max(_SIDES) and part == "train":
        parts = [f"Imagenet{side}_train_part{number}.zip" for number in (1, 2)]
    raise DdpmError(
        f"{name} is not in {folder}: it is given to registered users by "
        f"https://image-net.org/download-images; put {listed(parts)} there (or the _npz), "
        "or give --data their folder"
    )


def _batches_at(path: Path) -> list[Batch]:
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
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, *DAMAGED_FILE) as error:
        what = describe_file(file)
        if what and "zip archive" not in what:
            raise DdpmError(f"{file} is not a zip archive but {what}") from error
        raise DdpmError(f"{file}: damaged or cut short ({first_line(error)})") from error
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


class ImagenetSource:
    """The batches of one split as a source; one of them at a time is in memory (1.6 GB at 64x64).

    The labels of all are read at the first opening, and then kept in the cache.
    """

    captioned = transparent = False
    sequential = True  # a batch is read as a whole
    native_channels = 3
    why_no_classes = ""

    def __init__(
        self, path: Path, batches: Sequence[Batch], splits: Sequence[str], reporter: Reporter
    ) -> None:
        self._batches = tuple(batches)
        self._loaded: tuple[int, NDArray[np.uint8]] | None = None
        self._lock = threading.Lock()
        self.cache_key = _key(batches)
        counts, labels, side = self._index(reporter)
        self.name = f"imagenet{side}" + ("-val" if batches[0].split == "val" else "")
        self.image_size = self.native_size = (side, side)
        self.labels, ends = labels, list(accumulate(counts, initial=0))
        self.blocks = tuple(range(first, last) for first, last in pairwise(ends))
        self.classes = _names(path)
        hashed = f"{self.name} {counts}".encode() + labels.tobytes()
        self.label_table = sha256(labels.tobytes()).hexdigest()
        self.fingerprint = sha256(hashed).hexdigest()
        self.notices = tuple(_notices(path, batches, splits))

    def __len__(self) -> int:
        return len(self.labels)

    def captions(self) -> Captions:
        """Raise DdpmError: there are none."""
        raise DdpmError(
            f"{self.name} has classes and no captions; make captions of the class names with "
            '--caption "a photo of a {class}"'
        )

    def unread(self, captions: Captions | None) -> str:
        """Nothing else is looked at."""
        return ""

    def size_of(self, index: int) -> tuple[int, int]:
        """The (height, width) of each."""
        return self.image_size

    def image(self, index: int, transform: Transform) -> ImageArray:
        """One image as uint8 (channels, height, width). Raises UnreadableError."""
        number = next(n for n, block in enumerate(self.blocks) if index in block)
        with self._lock:
            if self._loaded is None or self._loaded[0] != number:
                self._loaded = None  # two would not fit
                self._loaded = (number, self._load(number))
            row = self._loaded[1][index - self.blocks[number].start]
        return fit(row.reshape(3, *self.image_size), transform)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _loaded=None)

    def _load(self, number: int) -> NDArray[np.uint8]:
        try:
            return _read(self._batches[number])[0]
        except DdpmError as error:
            raise UnreadableError(str(error)) from error

    def _index(self, reporter: Reporter) -> tuple[list[int], NDArray[np.int64], int]:
        """Images of each batch, the labels (N,) from 0 and the side of an image."""
        kept = cache_root() / "imagenet" / f"{self.cache_key[:16]}.npz"
        try:
            with np.load(kept, allow_pickle=False) as index:
                return index["counts"].tolist(), index["labels"], int(index["side"])
        except (OSError, *DAMAGED_FILE):
            pass
        found, sides = [], set()
        for batch in track(
            self._batches, reporter, "reading labels", len(self._batches), "batches"
        ):
            data, labels = _read(batch)
            found.append(labels)
            sides.add(math.isqrt(data.shape[1] // 3))
        if len(sides) > 1:
            where = self._batches[0].file.parent
            raise DdpmError(f"{where} holds batches of several sizes: {sorted(sides)}")
        counts, labels = [len(each) for each in found], np.concatenate(found)
        content = io.BytesIO()
        side = sides.pop()
        np.savez(content, counts=counts, labels=labels, side=side)
        write_bytes(kept, content.getvalue(), durable=False)
        return counts, labels, side


def _read(batch: Batch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
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
    sides = [side for side in _SIDES if data.shape[1:] == (3 * side * side,)]
    if data.dtype != np.uint8 or not sides:
        raise ValueError(f"data is {data.dtype} {data.shape}, not uint8 (N, 3 * side * side)")
    numbers = np.asarray(labels)
    right = numbers.shape == data.shape[:1] and numbers.dtype.kind in "iu" and len(numbers) > 0
    if not right or numbers.min() < 1 or numbers.max() > _CLASSES:
        raise ValueError(f"labels are not {len(data):,} whole numbers from 1 to {_CLASSES}")
    return data, numbers.astype(np.int64) - 1


def _names(path: Path) -> tuple[str, ...]:
    """The names in map_clsloc.txt, where it lies beside or below; else the labels from 0."""
    folder = path if path.is_dir() else path.parent
    places = [folder / _NAMES, folder.parent / _NAMES, *sorted(folder.glob(f"*/{_NAMES}"))]
    numbers = tuple(map(str, range(_CLASSES)))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return numbers
    try:
        rows = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
        by_label = {int(row[1]): (row[0], row[2]) for row in rows}
    except (OSError, ValueError, IndexError) as error:
        line = "n02119789 1 kit_fox"
        raise DdpmError(
            f"{file} should have lines such as {line!r}: {first_line(error)}"
        ) from error
    if sorted(by_label) != list(range(1, _CLASSES + 1)):
        raise DdpmError(f"{file} does not name the labels 1 to {_CLASSES}, each once")
    times = Counter(name for _, name in by_label.values())  # two kinds of crane, and of maillot
    pairs = (by_label[label] for label in range(1, _CLASSES + 1))
    return tuple(name if times[name] == 1 else f"{name}_{wnid}" for wnid, name in pairs)


def _notices(path: Path, batches: Sequence[Batch], splits: Sequence[str]) -> Iterator[str]:
    split, numbers = batches[0].split, {batch.number for batch in batches}
    if split == "train" and len(splits) > 1:
        yield f"{path}: only train is trained on; left out: val"
    missing = [number for number in range(1, _BATCHES + 1) if number not in numbers]
    if split == "train" and missing:
        others = listed([f"train_data_batch_{number}" for number in missing])
        yield f"{path}: {len(numbers)} of {_BATCHES} batches are there; missing: {others}"


def _key(batches: Sequence[Batch]) -> str:
    stats = ((batch, batch.file.stat()) for batch in batches)
    lines = (f"{b.file.name} {b.member} {s.st_size} {s.st_mtime_ns}" for b, s in stats)
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
