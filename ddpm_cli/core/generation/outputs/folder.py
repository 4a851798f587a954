"""A folder of generated images: 000000.png and up, grid.png, manifest.jsonl, sampling.json."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.generate import GenerationRequest
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.generation.outputs import record
from ddpm_cli.core.generation.pictures.arrangement import DEFAULT, GridLayout
from ddpm_cli.core.runtime import provenance
from ddpm_cli.core.runtime.files import (
    create_folder,
    is_written,
    parse_json,
    read_json,
    write_json,
    write_text,
)
from ddpm_cli.core.runtime.reporting import Reporter

_MANIFEST = "manifest.jsonl"
_TILE = 512  # pixels of the longer side of such a tile, at most
_SHOWN = 100  # images whose sizes decide that of the tiles of a grid


@dataclass(frozen=True)
class ImageFolder:
    """The folder of a request's images. Each is a file, written whole."""

    path: Path
    model: Model
    request: GenerationRequest
    layout: GridLayout = DEFAULT  # of grid.png

    def claim(self) -> bool:
        """Create the folder, or take one with no more than these images: False for others."""
        return create_folder(self.path) or (
            self._recorded() == self._identity and not self._has_more()
        )

    def prepare(self, *, overwrite: bool) -> None:
        """Write sampling.json. Raises DdpmError rather than mix images of different settings."""
        self.layout.check(self.model)
        folder = self.path
        entries = folder.iterdir() if folder.is_dir() else ()
        existing = sorted(path for path in entries if path.name[0] != ".")
        if existing and not overwrite:
            if self._recorded() != self._identity:
                raise DdpmError(self._what_is_there(existing[0].name))
            if self._has_more():
                raise DdpmError(
                    f"{folder} holds more than {self.request.count} images; add --overwrite"
                )
        if existing and overwrite:
            if not (folder / record.SETTINGS).is_file():
                raise DdpmError(
                    f"{folder} holds files that ddpm did not write ({existing[0].name}, …), which "
                    "--overwrite does not delete; choose another --out"
                )
            for path in {*self._images(), *self._named()}:
                path.unlink(missing_ok=True)
        settings = record.settings_of(self.model, self.request) | {"n": self.request.count}
        settings["provenance"] = provenance.gather(self.model.device)
        write_json(folder / record.SETTINGS, settings, durable=False)
        if self.request.inputs:
            self._write_manifest()  # so that it is known which files are of this folder

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of these images without a file; a power cut may have left empty ones."""
        if self.request.inputs:  # whose names may have folders in them
            return [index for index in indices if not is_written(self._file(index))]
        with os.scandir(self.path) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return [index for index in indices if not sizes.get(self._file(index).name)]

    def tasks(self, indices: Sequence[int], images: NDArray[np.uint8]) -> list[Callable[[], None]]:
        """One for each image (C, H, W): write it as a PNG, whole or not at all."""
        return [
            partial(self._write, index, image) for index, image in zip(indices, images, strict=True)
        ]

    def _write(self, index: int, image: ImageArray) -> None:
        text = record.text_of(self.model, self.request, index)
        image = generate.finished(self.model, self.request, index, image)
        files.write_png(self._file(index), image, text)

    def finish(self, reporter: Reporter) -> None:
        """Write grid.png, and last manifest.jsonl."""
        transform, layout = self._shown(), self.layout.arrange(self.model, self.request)

        def image(index: int) -> ImageArray:
            path = self._file(index)
            return files.decode(path.read_bytes(), str(path), transform)

        files.write_png(self.path / "grid.png", layout.draw(image))
        self._write_manifest()

    def is_finished(self) -> bool:
        """Whether the manifest lists all images, and they are there."""
        every = range(self.request.count)
        return len(self._listed()) == len(every) and not self.missing(every)

    def _write_manifest(self) -> None:
        manifest = record.manifest(self.model, self.request)
        write_text(self.path / _MANIFEST, manifest, durable=False)

    def _shown(self) -> Transform:
        """How images are brought to one size: by itself where they are the network's."""
        channels = self.model.config.network.channels
        if self.request.init is None:
            return Transform(channels)
        height, width = self.request.init.largest(_SHOWN)
        share = min(1, _TILE / max(height, width))
        return Transform(channels, (round(height * share), round(width * share)), "pad")

    def recorded_count(self) -> int | None:
        """How many images the folder has, or is to have; None where there is none."""
        try:
            settings = read_json(self.path / record.SETTINGS)
            return int(settings.get("n") or len(self._images()))
        except (OSError, ValueError, AttributeError):
            return None

    @property
    def locked(self) -> Path:
        """The file whose lock is held while what other processes read is changed."""
        return self.path / record.SETTINGS

    @property
    def grid(self) -> Path:
        """The picture of the first images."""
        return self.path / "grid.png"

    @property
    def _identity(self) -> dict[str, Any]:
        return record.identity(record.settings_of(self.model, self.request))

    def _what_is_there(self, first: str) -> str:
        """The message where the folder has other files: whose samples they are, if they are."""
        try:
            settings = read_json(self.path / record.SETTINGS)
        except (OSError, ValueError):
            settings = None
        fix = "choose another --out"
        if not isinstance(settings, dict) or "weights_sha256" not in settings:
            remedy = ", or add --overwrite" if (self.path / record.SETTINGS).is_file() else ""
            return f"{self.path} holds other files ({first}, …); {fix}{remedy}"
        whose = "with other settings"
        if settings.get("weights_sha256") != self.model.sha256:
            of = settings.get("weights")
            whose = f"of {of}" if of not in (None, str(self.model.path)) else "of other weights"
        return f"{self.path} holds samples {whose}; {fix}, or add --overwrite"

    def _recorded(self) -> dict[str, Any] | None:
        """The identity of the folder's images; None where it has no settings."""
        try:
            settings = read_json(self.path / record.SETTINGS)
        except (OSError, ValueError):
            return None
        return record.identity(settings) if isinstance(settings, dict) else None

    def _has_more(self) -> bool:
        """Whether there are images of an index that is not requested."""
        if self.request.inputs:
            return (self.recorded_count() or 0) > self.request.count
        return any(int(path.stem) >= self.request.count for path in self._images())

    def _images(self) -> list[Path]:
        return [path for path in self.path.glob("*.png") if re.fullmatch(r"\d{6,}", path.stem)]

    def _listed(self) -> list[PurePosixPath]:
        """The names that the manifest lists."""
        try:
            lines = (self.path / _MANIFEST).read_text().splitlines()
            return [PurePosixPath(parse_json(line)["file"]) for line in lines]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def _named(self) -> list[Path]:
        """The images that it lists, within the folder."""
        names = self._listed()
        inside = [name for name in names if not name.is_absolute() and ".." not in name.parts]
        return [self.path / name for name in inside if name.suffix == ".png"]

    def _file(self, index: int) -> Path:
        return self.path / self.request.file_names[index]
