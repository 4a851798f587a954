"""Images of one source paired with those of another by their names."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.data.file_source import FileSource
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.errors import DdpmError, listed

_LISTED = 5  # names in a message


def pair(source: Source, others: Source, said: str) -> NDArray[np.int64]:
    """For each image of a source the index of the one of the others with its name: (N,).

    A name is the path below the folder without suffix; where one source has no folders, the file's
    name alone. Images without names, such as arrays, are paired in order. said: the option that
    names the others. Raises DdpmError that names images without a counterpart.
    """
    if not isinstance(source, FileSource) or not isinstance(others, FileSource):
        one_has_names = isinstance(source, FileSource) or isinstance(others, FileSource)
        if one_has_names or len(source) != len(others):
            raise DdpmError(
                f"{said} should hold an image for each of {source.name}: {len(others):,} images "
                f"for {len(source):,}, and not both have names to pair them by"
            )
        return np.arange(len(source))
    names, theirs = source.files.names, others.files.names
    flat = not all(any("/" in name for name in listed_names) for listed_names in (names, theirs))
    key = _stem if flat else _path
    found = {key(name): row for row, name in enumerate(theirs)}
    if len(found) < len(theirs) or len(set(map(key, names))) < len(names):
        raise DdpmError(
            f"{said}: several images of {source.name}, or of these, have one name but for the "
            "suffix or the folder, so that it is not clear which go together; give the folders of "
            "both the same names"
        )
    rows = [found.get(key(name), -1) for name in names]
    missing = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if missing:
        raise DdpmError(
            f"{said} has no image of the name of {len(missing):,} of {len(names):,} images: "
            f"{listed(missing, _LISTED)}; it has {listed(list(theirs), 3)}"
        )
    return np.array(rows, np.int64)


def _path(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def _stem(name: str) -> str:
    return PurePath(name).stem
