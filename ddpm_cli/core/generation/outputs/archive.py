"""Generated images in one file: .npz as the field's evaluators read it, or .zip of PNGs.

Until all are there, each batch is a file of its own in a folder beside it: so any number of
processes can write them in any order, on any file system, and go on after a kill. Then the archive
is written in a stream, a batch in memory at a time.
"""

from __future__ import annotations

import glob
import json
import math
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.outputs import record
from ddpm_cli.core.runtime import provenance
from ddpm_cli.core.runtime.files import (
    atomic_write,
    create_folder,
    dumps,
    read_json,
    write_json,
)
from ddpm_cli.core.runtime.reporting import Reporter, track

FORMATS = (".npz", ".zip")
_BATCH = 256  # images in memory at a time
_DATE = (1980, 1, 1, 0, 0, 0)  # of members: so equal images are equal files


@dataclass(frozen=True)
class ImageArchive:
    """The .npz or .zip file of a request's images, and the folder of those written so far."""

    path: Path
    model: Model
    request: GenerationRequest

    def claim(self) -> bool:
        """Take the name, unless it holds images of other settings, or more: False then."""
        if self.path.exists():
            return self._fits(self._recorded())
        return create_folder(self._folder) or self._fits(self._begun())

    def prepare(self, *, overwrite: bool) -> None:
        """Begin or go on. Raises DdpmError rather than mix images of different settings."""
        recorded = self._recorded()
        if self.path.exists() and recorded is None:
            raise DdpmError(
                f"{self.path} was not written by ddpm sample, which does not replace it; "
                "choose another --out"
            )
        init = self.request.init
        if self._is_npz and init is not None and not init.of_one_size:
            raise DdpmError(
                f"{self.path} is to be one array, but the images have different sizes; choose a "
                ".zip or a folder as --out"
            )
        begun = self._begun()
        for other, place in ((recorded, self.path), (begun, self._folder)):
            if other is not None and not overwrite and not self._fits(other):
                what = "images of other settings"
                if self._same(other):
                    what = f"{other['n']} images, not {self.request.count}"
                raise DdpmError(f"{place} holds {what}; choose another --out, or add --overwrite")
        if overwrite:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        elif self._complete():
            return
        for cut_short in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.part"):
            cut_short.unlink(missing_ok=True)  # where a process was killed
        create_folder(self._folder)
        write_json(self._folder / record.SETTINGS, self.record(), durable=False)
        if self.path.exists():
            self._unpack()

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of these images that no batch has."""
        if self._complete():
            return []
        there = {index for path in self._batches() for index in _indices(path)}
        return [index for index in indices if index not in there]

    def tasks(self, indices: Sequence[int], images: NDArray[np.uint8]) -> list[Callable[[], None]]:
        """One for all images (B, C, H, W)."""
        return [partial(self._write, list(indices), images.transpose(0, 2, 3, 1))]

    def finish(self, reporter: Reporter) -> None:
        """Write the archive, whole or not at all, and delete the batches."""
        if not self._complete():
            images = track(
                self._in_order(),
                reporter,
                f"writing {self.path.name}",
                self.request.count,
                "images",
            )
            with atomic_write(self.path, durable=False) as path:
                write = _write_npz if self._is_npz else _write_zip
                write(path, images, self)
        shutil.rmtree(self._folder, ignore_errors=True)

    def is_finished(self) -> bool:
        """Whether the archive has all images."""
        return self._complete()

    def recorded_count(self) -> int | None:
        """How many images the archive has, or is to have; None where there is none."""
        recorded = self._recorded() or self._begun()
        return None if recorded is None else int(recorded["n"])

    @property
    def locked(self) -> Path:
        """The file whose lock is held while what other processes read is changed."""
        return self.path

    @property
    def grid(self) -> None:
        """An archive has no picture."""
        return None

    @property
    def _is_npz(self) -> bool:
        return self.path.suffix.lower() == ".npz"

    @property
    def _folder(self) -> Path:
        """That of the batches written so far."""
        return self.path.with_name(f".{self.path.name}.batches")

    def record(self) -> dict[str, Any]:
        """The settings of the images, their number, and where they come from."""
        settings = record.settings_of(self.model, self.request) | {"n": self.request.count}
        return settings | {"provenance": provenance.gather(self.model.device)}

    def _recorded(self) -> dict[str, Any] | None:
        """The record in the archive; None without one."""
        try:
            if self._is_npz:
                with np.load(self.path) as arrays:
                    document = json.loads(str(arrays["sampling"]))
            else:
                with zipfile.ZipFile(self.path) as archive:
                    document = json.loads(archive.read(record.SETTINGS))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return document if isinstance(document, dict) else None

    def _begun(self) -> dict[str, Any] | None:
        """The record of the batches written so far; None without one."""
        try:
            document = read_json(self._folder / record.SETTINGS)
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def _same(self, recorded: dict[str, Any]) -> bool:
        own = record.settings_of(self.model, self.request)
        return record.identity(recorded) == record.identity(own)

    def _fits(self, recorded: dict[str, Any] | None) -> bool:
        """Whether these are images of the same settings, and none that is not requested."""
        if recorded is None or not self._same(recorded):
            return False
        count = int(recorded.get("n", 0))
        if self.request.init is not None:  # whose finished images cannot go back to batches
            return count == self.request.count
        return count <= self.request.count

    def _complete(self) -> bool:
        recorded = self._recorded()
        return self._fits(recorded) and recorded is not None and recorded["n"] == self.request.count

    def _batches(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.npz"))

    def _write(self, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        """Write a batch (B, H, W, C), whole or not at all."""
        name = self._folder / f"{indices[0]:09d}-{secrets.token_hex(4)}.npz"
        with atomic_write(name, durable=False) as path, path.open("wb") as file:
            np.savez(file, indices=np.asarray(indices), images=images)

    def _in_order(self) -> Iterator[ImageArray]:
        """All images (C, H, W), in order. Of an image in two batches, which are equal, one."""
        places: dict[int, tuple[Path, int]] = {}
        for path in self._batches():
            places |= {index: (path, row) for row, index in enumerate(_indices(path))}
        opened, images = None, np.empty(0, np.uint8)
        for index in range(self.request.count):
            path, row = places[index]
            if path != opened:
                with np.load(path) as arrays:
                    opened, images = path, arrays["images"]
            image = images[row].transpose(2, 0, 1)
            yield generate.finished(self.model, self.request, index, image)

    def _unpack(self) -> None:
        """Write the images of the archive as batches, to add others to them."""
        count = int((self._recorded() or {})["n"])
        missing = set(self.missing(range(count)))  # of a process that was killed meanwhile
        if self._is_npz:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as file:
                npy.read_magic(file)
                shape = npy.read_array_header_1_0(file)[0][1:]
                for indices in _in_batches(count):
                    content = file.read(len(indices) * math.prod(shape))
                    if missing.intersection(indices):
                        self._write(indices, np.frombuffer(content, np.uint8).reshape(-1, *shape))
            return
        transform = Transform(self.model.config.network.channels)
        with zipfile.ZipFile(self.path) as archive:
            for indices in filter(missing.intersection, _in_batches(count)):
                names = [self.request.file_names[index] for index in indices]
                images = [files.decode(archive.read(name), name, transform) for name in names]
                self._write(indices, np.stack(images).transpose(0, 2, 3, 1))


def _in_batches(count: int) -> Iterator[range]:
    return (range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH))


def _indices(batch: Path) -> list[int]:
    with np.load(batch) as arrays:
        return list(map(int, arrays["indices"]))


def _write_npz(path: Path, images: Iterator[ImageArray], archive: ImageArchive) -> None:
    """arr_0: images (N, H, W, C) uint8; arr_1: labels (N,) or (N, K), where there are classes."""
    request, network = archive.request, archive.model.config.network
    size = network.size if request.init is None else request.init.size(0)
    shape = (request.count, *size, network.channels)
    with zipfile.ZipFile(path, "w", allowZip64=True) as target:
        with _member(target, "arr_0.npy") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, header)
            for image in images:
                file.write(np.ascontiguousarray(image.transpose(1, 2, 0)).data)
        arrays = {"sampling": np.array(dumps(archive.record(), indent=None))}
        if request.conditions.labels:
            labels = [request.label_and_prompt(index)[0] for index in range(request.count)]
            arrays["arr_1"] = np.array(labels, dtype=np.int64)
        if request.conditions.prompts:
            prompts = [request.label_and_prompt(index)[1] for index in range(request.count)]
            arrays["prompts"] = np.array(prompts)
        for name, array in arrays.items():
            with _member(target, f"{name}.npy") as file:
                npy.write_array(file, array, allow_pickle=False)


def _write_zip(path: Path, images: Iterator[ImageArray], archive: ImageArchive) -> None:
    """PNGs and dataset.json as in data sets of EDM, classes.txt, manifest.jsonl, sampling.json."""
    model, request = archive.model, archive.request
    network, every = model.config.network, range(request.count)
    labels: list[Any] | None = None
    if request.conditions.labels and not network.multi_label:  # whose labels are vectors
        labels = [
            [request.file_names[index], request.label_and_prompt(index)[0]] for index in every
        ]
    texts = {
        "dataset.json": dumps({"labels": labels}, indent=None),
        "manifest.jsonl": record.manifest(model, request),
        record.SETTINGS: dumps(archive.record()),
    }
    if labels is not None:
        texts["classes.txt"] = "".join(f"{name}\n" for name in network.classes)
    with zipfile.ZipFile(path, "w", allowZip64=True) as target:
        for index, image in enumerate(images):
            text = record.text_of(model, request, index)
            with _member(target, request.file_names[index]) as file:
                file.write(files.png(image, text))
        for name, content in texts.items():
            with _member(target, name) as file:
                file.write(content.encode())


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A new member, stored: images hardly get smaller, and readers may map it."""
    return archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=True)
