"""Down-sampled ImageNet (Chrabaszcz et al. 2017) as a source to train on."""

from __future__ import annotations

import io
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.annotations.captions import Captions, only_classes
from ddpm_cli.core.data.files import ImageArray, UnreadableError, fit
from ddpm_cli.core.data.readers.imagenet_batches import (
    CLASSES,
    SIDES,
    Batch,
    batches_at,
    key_of,
    read,
)
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DAMAGED_FILE, DdpmError, UsageError, first_line, listed
from ddpm_cli.core.runtime.cache import cache_root
from ddpm_cli.core.runtime.files import write_bytes
from ddpm_cli.core.runtime.reporting import SILENT, Reporter, track

SPLITS = ("train", "val")
NAMES = ("imagenet64", "imagenet32", "imagenet16", "imagenet8")

_BATCHES = 10
_NAMES = "map_clsloc.txt"  # "n02119789 1 kit_fox", a class a line, in the order of the labels


def open_imagenet(
    path: Path, split: str = "", *, training: bool = False, reporter: Reporter = SILENT
) -> ImagenetSource | None:
    """The batches of a folder, or of a published archive and its other parts; None for others.

    split: train or val; "" for the only one, or the training's. Raises DdpmError where both could
    be meant, and for damaged batches.
    """
    batches = batches_at(path)
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
    if side == max(SIDES) and part == "train":
        parts = [f"Imagenet{side}_train_part{number}.zip" for number in (1, 2)]
    raise DdpmError(
        f"{name} is not in {folder}: it is given to registered users by "
        f"https://image-net.org/download-images; put {listed(parts)} there (or the _npz), "
        "or give --data their folder"
    )


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
        self.cache_key = key_of(batches)
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
        raise only_classes(self.name)

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
            return read(self._batches[number])[0]
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
            data, labels = read(batch)
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


def _names(path: Path) -> tuple[str, ...]:
    """The names in map_clsloc.txt, where it lies beside or below; else the labels from 0."""
    folder = path if path.is_dir() else path.parent
    places = [folder / _NAMES, folder.parent / _NAMES, *sorted(folder.glob(f"*/{_NAMES}"))]
    numbers = tuple(map(str, range(CLASSES)))
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
    if sorted(by_label) != list(range(1, CLASSES + 1)):
        raise DdpmError(f"{file} does not name the labels 1 to {CLASSES}, each once")
    times = Counter(name for _, name in by_label.values())  # two kinds of crane, and of maillot
    pairs = (by_label[label] for label in range(1, CLASSES + 1))
    return tuple(name if times[name] == 1 else f"{name}_{wnid}" for wnid, name in pairs)


def _notices(path: Path, batches: Sequence[Batch], splits: Sequence[str]) -> Iterator[str]:
    split, numbers = batches[0].split, {batch.number for batch in batches}
    if split == "train" and len(splits) > 1:
        yield f"{path}: only train is trained on; left out: val"
    missing = [number for number in range(1, _BATCHES + 1) if number not in numbers]
    if split == "train" and missing:
        others = listed([f"train_data_batch_{number}" for number in missing])
        yield f"{path}: {len(numbers)} of {_BATCHES} batches are there; missing: {others}"
