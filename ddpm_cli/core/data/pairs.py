"""Images of one source paired with those of another by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import DdpmError, listed

_LISTED = 5  # names in a message


def pair(source: Source, others: Source, said: str) -> NDArray[np.int64]:
    """For each image of a source the index of the one of the others with its name: (N,).

    Images without names, such as arrays, are paired in order, others as `match` says. said: the
    option that names the others. Raises DdpmError that names images without a counterpart.
    """
    if not isinstance(source, FileSource) or not isinstance(others, FileSource):
        one_has_names = isinstance(source, FileSource) or isinstance(others, FileSource)
        if one_has_names or len(source) != len(others):
            raise DdpmError(
                f"{said} should hold an image for each of {source.name}: {len(others):,} images "
                f"for {len(source):,}, and not both have names to pair them by"
            )
        return np.arange(len(source))
    return np.array(match(source.files.names, others.files.names, said), np.int64)


def match(names: Sequence[str], others: Sequence[str], said: str) -> tuple[int, ...]:
    """For each name the index of the other that is equal but for the suffix.

    Where one side has no folders, the files' names alone are compared. said: the option that names
    the others. Raises DdpmError for names without a counterpart, and where one has several.
    """
    flat = not all(any("/" in name for name in side) for side in (names, others))

    def key(name: str) -> str:
        return PurePosixPath(stem(name)).name if flat else stem(name)

    for side in (names, others):
        times = Counter(map(key, side))
        same = [name for name in side if times[key(name)] > 1]
        if same:
            raise DdpmError(
                f"{said}: several images have one name but for the suffix or the folder, so that "
                f"it is not clear which go together: {listed(same, 3)}; give the folders of both "
                "the same names"
            )
    found = {key(name): row for row, name in enumerate(others)}
    missing = [name for name in names if key(name) not in found]
    if missing:
        raise DdpmError(
            f"{said} has no image of the name of {len(missing):,} of {len(names):,} images: "
            f"{listed(missing, _LISTED)}; it has {listed(others, 3)}"
        )
    return tuple(found[key(name)] for name in names)


def stem(name: str) -> str:
    """A name without its suffix, with the folders it lies in."""
    return name.removesuffix(PurePosixPath(name).suffix)
