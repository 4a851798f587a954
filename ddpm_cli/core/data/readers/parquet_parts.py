"""The Parquet files of a data set on disk, by its parts: train, test and the like.

As they are published: `data/train-00000-of-00002.parquet` by the library `datasets`, and
`default/train/0000.parquet` in the converted branch of the hub.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

from ddpm_cli.core.data import layout
from ddpm_cli.core.data.files import is_image_file
from ddpm_cli.core.data.readers.shards import shards_of
from ddpm_cli.core.errors import DdpmError, listed

SUFFIX = ".parquet"
_SHARD = re.compile(  # train-00000-of-00002, train-00000-of-00001-b42a775f407cee45, 0000, train_1
    r"(?P<part>.*?)[-_.]?(?P<number>\d+)(?:-of-(?P<count>\d+)(?:-[0-9a-f]{16})?)?"
)
_LISTED = 4  # parts in a message


@dataclass(frozen=True)
class Shards:
    """The files of one part of a data set, in order."""

    root: Path
    files: tuple[str, ...]  # relative to the root
    notices: tuple[str, ...] = ()


def of(path: Path, *, training: bool) -> Shards | None:
    """The Parquet files that a path leads to: a file, a folder of them, or a part (data/test).

    Some of them: data/train-{00000..00003}-of-00008.parquet. None where there are none, or other
    images beside them.
    """
    if path.is_dir():
        shards = _find(path)
        return _choose(path, shards, "", training=training) if shards else None
    if path.suffix.lower() == SUFFIX and (named := shards_of(path)):
        root = Path(os.path.commonpath([file.parent for file in named]))
        return Shards(root, tuple(file.relative_to(root).as_posix() for file in named))
    if path.exists():
        return Shards(path.parent, (path.name,)) if path.suffix.lower() == SUFFIX else None
    shards = _find(path.parent) if path.parent.is_dir() else ()
    part_there = path.name in {_part_of(name)[1] for name in shards}
    return _choose(path.parent, shards, path.name, training=training) if part_there else None


def _find(folder: Path) -> tuple[str, ...]:
    """The Parquet files under a folder, relative to it, sorted; () where images lie there, too."""
    shards = []
    for file in _walk(folder):
        if is_image_file(file.name):
            return ()
        if file.suffix.lower() == SUFFIX:
            shards.append(file.relative_to(folder).as_posix())
    return tuple(sorted(shards))


def _walk(folder: Path) -> Iterator[Path]:
    """The files under a folder one by one, those of large folders, too; links are not followed."""
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # who opens it says more
            for entry in entries:
                if layout.is_system_name(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield Path(entry)


def _choose(folder: Path, shards: Sequence[str], part: str, *, training: bool) -> Shards:
    """The shards of one part: the one that is named, the training part, or the only one.

    Raises DdpmError where several could be meant.
    """
    sets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in shards:
        below, found = _part_of(name)
        sets[below][found].append(name)
    if len(sets) > 1:
        held = listed([below or "the folder itself" for below in sorted(sets)], _LISTED)
        example = quote(str(folder / max(sets)))
        raise DdpmError(f"{folder} holds several data sets ({held}): name one, as {example}")
    [parts] = sets.values()
    notices = []
    chosen = part
    if not part:
        chosen = _training_part(folder, list(parts)) if training else _only(folder, list(parts))
        if others := [name for name in parts if name != chosen]:
            notices.append(f"{folder}: only {chosen} is trained on; left out: {_listed(others)}")
    if missing := _missing(parts[chosen]):
        notices.append(f"{folder}: shards are missing: {listed(missing, _LISTED)}")
    return Shards(folder, tuple(parts[chosen]), tuple(notices))


def _part_of(name: str) -> tuple[str, str]:
    """The folder of a shard's data set, and the part that the shard is of; "" for none."""
    folder, stem = PurePosixPath(name).parent, PurePosixPath(name).stem
    match = _SHARD.fullmatch(stem)
    part = match["part"] if match else stem
    if part and (layout.part_kind(part) or (match and match["count"])):
        return folder.as_posix().removeprefix("."), part
    if folder.name and (not part or layout.part_kind(folder.name)):
        return folder.parent.as_posix().removeprefix("."), folder.name.removeprefix("partial-")
    return folder.as_posix().removeprefix("."), ""


def _training_part(folder: Path, parts: list[str]) -> str:
    trains = [name for name in parts if layout.part_kind(name) == "train"]
    if len(trains) == 1:
        return trains[0]
    if len(parts) == 1 and layout.part_kind(parts[0]) is None:
        return parts[0]
    example = f"--data {quote(str(folder / (trains or parts)[0]))}"
    if trains:
        raise DdpmError(f"{folder} holds {_listed(parts)}: name the part to train on, as {example}")
    raise DdpmError(
        f"{folder} holds {_listed(parts)}, which is no part to train on; {example} does so "
        "nevertheless"
    )


def _only(folder: Path, parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    example = quote(str(folder / next(filter(None, parts))))
    raise DdpmError(f"{folder} holds {_listed(parts)}: name the part that is meant, as {example}")


def _listed(parts: Sequence[str] | dict[str, list[str]]) -> str:
    return listed([part or "others" for part in parts], _LISTED)


def _missing(shards: Sequence[str]) -> list[str]:
    """The shards that the others' names count, and which are not there."""
    matches = [_SHARD.fullmatch(PurePosixPath(name).stem) for name in shards]
    counted = [match for match in matches if match and match["count"]]
    if not counted or len({match["count"] for match in counted}) > 1:
        return []
    first, width = counted[0], len(counted[0]["number"])
    there = {int(match["number"]) for match in counted}
    return [
        f"{first['part']}-{number:0{width}d}-of-{first['count']}{SUFFIX}"
        for number in range(min(int(first["count"]), 100_000))
        if number not in there
    ]
