"""Image sources: files of images, the built-in shapes, data sets by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config import paths
from ddpm_cli.core.config.fields import did_you_mean
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.data import named
from ddpm_cli.core.data.annotations import captions
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.readers import celeba, imagenet
from ddpm_cli.core.data.readers.arrays import open_arrays
from ddpm_cli.core.data.readers.opening import names_beside, open_image_files
from ddpm_cli.core.data.readers.shards import shards_of
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.cache import data_root
from ddpm_cli.core.runtime.reporting import SILENT, Reporter


class Source(Protocol):
    """Images by index, with class labels and captions where there are any."""

    @property
    def name(self) -> str:
        """A short name, used for the run directory."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The images' own (height, width), in pixels; None where they differ."""

    @property
    def native_size(self) -> tuple[int, int]:
        """The default (height, width) for training, in pixels."""

    @property
    def native_channels(self) -> int:
        """1 where all images are grey, else 3."""

    @property
    def transparent(self) -> bool:
        """Whether some images have transparency, which only 4 channels keep."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty without classes."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) indices into classes, -1 without classes; or (N, K): 1 for each that it has."""

    @property
    def why_no_classes(self) -> str:
        """Why there are no classes where there could be some; "" where all is in order."""

    @property
    def label_table(self) -> str:
        """Hash of the labels where a table gives them; "" where the images' names do."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What was left out, or taken otherwise than its names say: one line each."""

    @property
    def fingerprint(self) -> str:
        """Identifies the images; the same for every copy of them."""

    @property
    def cache_key(self) -> str:
        """Changes whenever the images may have changed; the key of caches."""

    @property
    def captioned(self) -> bool:
        """Whether there are captions to train on by default."""

    @property
    def blocks(self) -> tuple[range, ...]:
        """Images that lie together and are read as a whole; () where each is read by itself."""

    @property
    def sequential(self) -> bool:
        """Whether images can only be read one after the other, from the first."""

    def __len__(self) -> int: ...

    def captions(self) -> Captions:
        """The captions of all images. Raises DdpmError where some or all have none."""

    def unread(self, captions: Captions | None) -> str:
        """One line on tables and texts that lie beside the images and are not read; "" for none."""

    def size_of(self, index: int) -> tuple[int, int]:
        """One image's own (height, width), in pixels. Raises UnreadableError."""

    def image(self, index: int, transform: Transform) -> ImageArray:
        """One image as uint8 (channels, height, width). Raises UnreadableError."""


def open_source(
    spec: str,
    reporter: Reporter = SILENT,
    *,
    training: bool = False,
    attributes: Sequence[str] = (),
    root: Path | None = None,
) -> Source:
    """The source that `--data` names: "shapes", a data set ("mnist", "cifar10:test"), or a path.

    Says that it waits where another process is downloading the data set. training: of a folder with
    a training part take that; otherwise several parts are a DdpmError. attributes: those of CelebA
    that are the classes. root: where data sets by name lie, as `cache.data_root`.
    """
    root = data_root(root)
    data_set = _open_data_set(spec, root, reporter)
    if data_set is None:
        return _open_path(spec, root, reporter, training=training, attributes=attributes)
    if attributes:
        raise DdpmError(f"--attributes is for CelebA, and {spec} has none")
    return data_set


def _open_path(
    spec: str, root: Path, reporter: Reporter, *, training: bool, attributes: Sequence[str]
) -> Source:
    """The images that a path leads to; an error names what else may have been meant."""
    path, part = _path_and_part(spec, root)
    if shards_of(path) or any(place.exists() for place in (path, *path.parents[:-1])):
        arrays = None if part or attributes else open_arrays(path, training=training)
        if arrays is not None:
            return arrays
        if not (part or attributes):
            batches = imagenet.open_imagenet(path, training=training, reporter=reporter)
            if batches is not None:
                return batches
        files = open_image_files(
            path, training=training, part=part, attributes=attributes, reporter=reporter
        )
        return FileSource(files)
    known = ["shapes", "celeba", *named.known(), *imagenet.NAMES]
    if meant := did_you_mean(spec.partition(":")[0], [*known, *names_beside(path)]):
        raise DdpmError(f"{spec}: no such folder or archive{meant}")
    raise DdpmError(
        f"{spec}: no such folder or archive, nor a data set's name ({', '.join(known)})"
    )


def _path_and_part(spec: str, root: Path) -> tuple[Path, str]:
    """The path, and the part of a CelebA behind it: "faces.zip:test"; "celeba" is in the root."""
    path = paths.expanded(spec)
    name, _, part = spec.partition(":")
    if name == "celeba" and not path.exists() and not Path(name).exists():
        return _celeba_folder(root), part or celeba.PARTS[0]
    name, _, part = spec.rpartition(":")
    if path.exists() or part not in (*celeba.PARTS, celeba.EVERY):
        return path, ""
    return paths.expanded(name), part


def _celeba_folder(root: Path) -> Path:
    """Where the data set called celeba lies. Raises DdpmError where it does not."""
    folder = root / "celeba"
    if folder.is_dir():
        return folder
    raise DdpmError(
        f"celeba is not in {folder}: it is given for research by "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; put img_align_celeba.zip, "
        "list_attr_celeba.txt and list_eval_partition.txt there, or give --data their folder"
    )


def _open_data_set(spec: str, root: Path, reporter: Reporter) -> Source | None:
    """The built-in shapes or a data set by name; None for any other name, and for a path."""
    name, _, split = spec.partition(":")
    try:
        if Path(spec).exists():  # a folder takes precedence over a data set of that name
            return None
    except OSError as error:  # a name that is too long, say
        raise DdpmError(f"{spec[:80]}: {error.strerror or error}") from error
    if spec == "shapes":
        return Shapes()
    if name in imagenet.NAMES:
        return imagenet.open_by_name(name, split or "train", root, reporter)
    if name in named.known():
        return named.open_named(name, split or "train", root, reporter)
    return None


def captions_of(source: Source, templates: Sequence[str]) -> Captions:
    """Captions from templates over the class names; without templates the source's own."""
    if templates:
        return captions.from_class_names(templates, source.classes, source.labels)
    return source.captions()


def with_class_order(source: Source, names: Sequence[str]) -> Source:
    """The same source with its classes, which are the same names, in this order."""
    reordered: Any = copy.copy(source)
    reordered.classes = tuple(names)
    if source.labels.ndim == 2:
        reordered.labels = source.labels[:, [source.classes.index(name) for name in names]]
    else:
        new = np.array([names.index(name) for name in source.classes])
        reordered.labels = new[source.labels]
    return cast(Source, reordered)


def labels_for(source: Source, network: NetworkConfig, data: str, whose: str) -> NDArray[np.int64]:
    """The labels (N,) or (N, K) of the source as those of a network's classes.

    data, whose: what the source and the network are called in errors. Raises DdpmError where the
    classes of the source are not all among the network's.
    """
    names = network.classes
    if not names:
        return np.full(len(source), -1)
    unknown = [name for name in source.classes if name not in names]
    if unknown or not source.classes:
        found = f"a class {unknown[0]!r}" if unknown else "no classes"
        raise DdpmError(
            f"{data} has {found}, and {whose} needs the class of each image, one of "
            f"{listed(names, 10)}: sort them into folders of these names"
        )
    if network.multi_label:
        if source.labels.ndim == 1 or len(source.classes) != len(names):
            raise DdpmError(
                f"{data} does not say which of {listed(names, 10)} each image has, as {whose} needs"
            )
        return with_class_order(source, names).labels
    if source.labels.ndim == 2:
        raise DdpmError(f"{data} has several classes an image, and {whose} needs one")
    indices = np.array([names.index(name) for name in source.classes])
    return indices[source.labels]
