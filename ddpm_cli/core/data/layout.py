"""What the files of a folder or .zip are, by their names: images, tables, parts, our own output.

Left out, and named: what ddpm itself wrote (runs and sampled images), and the test and validation
parts of a data set that is trained on.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from shlex import quote

from ddpm_cli.core.data import npy_image
from ddpm_cli.core.data.files import is_image_file
from ddpm_cli.core.data.formats import count_suffixes, describe_left_out
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.files import parse_json

TEXTS = (".txt", ".caption", ".cls", ".csv", ".tsv", ".jsonl", ".json", ".xml")

_SYSTEM = frozenset(  # folders of operating systems and storage boxes, besides hidden ones
    {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "#recycle"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_PART = re.compile(
    r"(train(?:ing)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?)"
    r"(?:[-_ ]?(?:set|data|images?|imgs?|split|part|\d{4}|[ab]))?",
    re.IGNORECASE,
)
_MARKERS = {  # files that only we write: their first object has these keys
    "config.json": {"network", "diffusion", "optimiser"},
    "sampling.json": {"seed", "steps"},
    "manifest.jsonl": {"file", "seed"},
}
_RUN, _MANIFEST = "config.json", "manifest.jsonl"
_LISTED = 4  # names in a message

ReadText = Callable[[str], str]


@dataclass(frozen=True)
class Layout:
    """The files that count; names are relative to the folder or archive."""

    images: tuple[str, ...]  # sorted
    texts: frozenset[str]  # tables and captions that lie beside the images
    notices: tuple[str, ...] = ()  # what was left out, one line each
    part: str = ""  # the folder of the training part that was taken, with its /


def arrange(
    path: Path,
    files: Collection[str],
    folders: Collection[str],
    read_text: ReadText,
    *,
    training: bool,
    archived: bool = False,
) -> Layout:
    """Sort out the files of `path`; `folders` are all its folders, empty ones too.

    training: take the training part where there is one. Otherwise, and where there is none, raises
    DdpmError for images of several parts rather than mix them. There may be no images. archived:
    the files lie in an archive, where each .npy is an image if there are no others.
    """
    files = [name for name in files if not is_system_name(name)]
    own = _own_folders(files, read_text)
    outside = [name for name in files if not _lies_in(name, own)] if own else files
    images = sorted(filter(is_image_file, outside))
    if archived and not images and not own:
        images = sorted(name for name in outside if name.lower().endswith(npy_image.SUFFIX))
    notices: list[str] = []
    if images:
        if left_out := _topmost(own):
            notices.append(f"left out: {_listed(left_out)} (made by ddpm)")
    elif own:
        images, outside = _sampled_images(path, files, own, read_text, notices)
    images, part = _take_part(path, images, notices, training=training)
    if part is not None:
        outside = [name for name in outside if not _lies_in(name, part.left_out)]
    if empty := _without_images(images, folders, {*own, *(part.left_out if part else ())}):
        notices.append(f"no images in {_listed(empty)}")
    texts = frozenset(name for name in outside if name.lower().endswith(TEXTS))
    images_or_texts = {*images, *texts}
    others = [n for n in outside if n not in images_or_texts and not is_image_file(n)]
    if others and images:
        notices.append(f"left out: {describe_left_out(count_suffixes(others), _LISTED)}")
    return Layout(
        tuple(images),
        texts - {name for name in texts if _is_marker(name, own)},
        tuple(f"{path}: {notice}" for notice in notices),
        part.taken if part else "",
    )


def is_system_name(name: str) -> bool:
    """Whether a file or folder is hidden, or in a folder of the operating system."""
    folder, _, base = name.rpartition("/")
    return base.lower() in _SYSTEM_FILES or _is_system_part(base) or _is_system_folder(folder)


@lru_cache(maxsize=4096)
def _is_system_folder(folder: str) -> bool:
    return any(map(_is_system_part, folder.split("/")))


def _is_system_part(part: str) -> bool:
    hidden = part.startswith(".") and part not in (".", "..")
    return hidden or part.lower() in _SYSTEM


def part_kind(folder: str) -> str | None:
    """train or test, for the folder of a part; None for any other name."""
    match = _PART.fullmatch(folder)
    return None if match is None else "train" if match[1].lower().startswith("train") else "test"


def shared_folder(names: Iterable[str]) -> str:
    """The deepest folder that all files lie in, with its /; "" for the root."""
    common = posixpath.commonprefix(sorted({_folder(name) for name in names}))
    return common[: common.rfind("/") + 1]


def _own_folders(files: Collection[str], read_text: ReadText) -> dict[str, str]:
    """Folders that ddpm wrote, with their / ("" for the root), and the marker file of each."""
    own: dict[str, str] = {}
    markers = (name for name in files if _base(name) in _MARKERS)
    for name in sorted(markers):  # config.json comes before sampling.json
        file = _base(name)
        if _first_keys(name, read_text) >= _MARKERS[file]:
            own.setdefault(_folder(name), file)
    return own


def refuse_previews(folder: Path, read_text: ReadText) -> None:
    """Raise DdpmError for the folder of a run that holds its previews, each a grid of images."""
    run = folder.resolve().parent
    if (
        folder.resolve().name == "samples"
        and _first_keys("../config.json", read_text) >= (_MARKERS[_RUN])
    ):
        raise DdpmError(
            f"{folder} holds the previews of the run {run.name}, which are grids of images; ddpm "
            "sample draws images from a run, as do fid REAL RUN and inception-score RUN"
        )


def _first_keys(name: str, read_text: ReadText) -> set[str]:
    """The keys of the object that a JSON file, or its first line, holds."""
    try:
        text = read_text(name)
        first = parse_json(text.partition("\n")[0] if name.endswith(".jsonl") else text)
    except (DdpmError, ValueError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def _is_marker(name: str, own: Collection[str]) -> bool:
    return posixpath.basename(name) in _MARKERS and _folder(name) in own


def _folder(name: str) -> str:
    """The folder of a file, with its /; "" for the root."""
    return name[: name.rfind("/") + 1]


def _base(name: str) -> str:
    """The name of a file without its folder."""
    return name[name.rfind("/") + 1 :]


def _sampled_images(
    path: Path,
    files: Sequence[str],
    own: dict[str, str],
    read_text: ReadText,
    notices: list[str],
) -> tuple[list[str], list[str]]:
    """The images of folders that `ddpm sample` wrote, where there are no others; and the texts.

    They are those of the manifest; without one, all but grid.png.
    """
    runs = [folder for folder, marker in own.items() if marker == _RUN]
    folders = [folder for folder in own if folder not in runs and not _lies_in(folder, runs)]
    if not folders and any(map(is_image_file, files)):
        where = "is a run" if "" in runs else f"holds no images but those of {_listed(runs)}"
        raise DdpmError(
            f"{path} {where}, made by ddpm, and its plots and previews are no images to use; "
            "ddpm sample draws images from a run, as do fid REAL RUN and inception-score RUN"
        )
    images, unlisted = [], []
    for folder in folders:
        inside = [n for n in files if n.startswith(folder) and not _lies_in(n, runs)]
        present = set(filter(is_image_file, inside))
        manifest = _manifest(folder, read_text)
        kept = present.intersection(manifest) or present - {f"{folder}grid.png"}
        images += sorted(kept)
        unlisted += sorted(present - kept - {f"{folder}grid.png"})
        if missing := len(set(manifest) - present):
            notices.append(f"{missing} of the images of {folder}{_MANIFEST} are missing")
    unlisted = sorted(set(unlisted) - set(images))
    if unlisted:
        notices.append(f"left out: {_listed(unlisted)} (not listed in {_MANIFEST})")
    return sorted(set(images)), [name for name in files if not _lies_in(name, runs)]


def _manifest(folder: str, read_text: ReadText) -> list[str]:
    """The images that a manifest.jsonl lists; [] without a readable one."""
    try:
        rows = [parse_json(line) for line in read_text(f"{folder}{_MANIFEST}").splitlines()]
        return [f"{folder}{row['file']}" for row in rows]
    except (DdpmError, ValueError, TypeError, KeyError):
        return []


@dataclass(frozen=True)
class _Part:
    """The training part that was taken, "" where it is spread over folders, and the others."""

    taken: str
    left_out: tuple[str, ...]


def _take_part(
    path: Path, images: list[str], notices: list[str], *, training: bool
) -> tuple[list[str], _Part | None]:
    """The images of the training part, where a data set lies in train/, val/ and test/."""
    top = shared_folder(images)
    if training:
        _refuse_test_part(path, top)
    children, with_images = _folders_with_images(images)
    taken: list[str] = []
    left_out: list[str] = []
    emptied: list[str] = []  # folders whose own images, beside the training part, are left out
    for folder in sorted(children):
        names = children[folder]
        trains = sorted(name for name in names if part_kind(name) == "train")
        others = sorted(names.difference(trains))
        loose = folder in with_images
        split = trains and any(map(part_kind, others))
        all_parts = folder == top and all(map(part_kind, names)) and len(names) + loose > 1
        if not (split or all_parts) or _lies_in(folder, left_out):
            continue
        if not training or len(trains) > 1 or not (trains or loose):
            raise DdpmError(_which_part(path, folder, names, loose=loose, training=training))
        taken += [f"{folder}{name}/" for name in trains]
        left_out += [f"{folder}{name}/" for name in others]
        emptied += [folder] if trains and loose else []
    if not left_out and not taken:
        return images, None
    what = f"only {_listed(taken)} is trained on" if taken else "images outside of parts are taken"
    beside = [name for name in images if _folder(name) in emptied]
    notices.append(f"{what}; left out: {_listed([*left_out, *beside])}")
    dropped = {*beside}
    kept = [name for name in images if not _lies_in(name, left_out) and name not in dropped]
    part = taken[0] if len(taken) == 1 and all(n.startswith(taken[0]) for n in kept) else ""
    return kept, _Part(part, tuple(left_out))


def _refuse_test_part(path: Path, top: str) -> None:
    """Raise DdpmError where all images lie in a folder called test/ or val/ below the one given."""
    for folder in top.split("/")[:-1]:
        if part_kind(folder) == "test" and folder.lower() != path.stem.lower():
            part = top[: top.index(folder) + len(folder)]
            raise DdpmError(
                f"the images of {path} all lie in {part}/, which is no part to train on; "
                f"--data {quote(f'{path}/{part}')} does so nevertheless"
            )


def _folders_with_images(images: Iterable[str]) -> tuple[dict[str, set[str]], set[str]]:
    """For each folder, with its /: its sub-folders with images; and the folders of images."""
    children: dict[str, set[str]] = defaultdict(set)
    with_images = {_folder(name) for name in images}
    for folder in with_images:
        for inner in [folder, *_above(folder)] if folder else []:
            parent = _folder(inner[:-1])
            children[parent].add(inner[len(parent) : -1])
    return children, with_images


def _which_part(
    path: Path, folder: str, names: Collection[str], *, loose: bool, training: bool
) -> str:
    parts = [f"{name}/" for name in sorted(names)]
    trains = [part for part in parts if part_kind(part[:-1]) == "train"]
    held = _listed([*parts, *(["other images"] if loose else [])])
    example = quote(f"{path}/{folder}{(trains or parts)[0][:-1]}")
    if not training:
        return f"{path}/{folder} holds {held}: name the part that is meant, as {example}"
    if trains:
        return f"{path}/{folder} holds {held}: name the part to train on, as --data {example}"
    return (
        f"{path}/{folder} holds {held}, none of which is to train on; --data {example} does so "
        "nevertheless"
    )


def _without_images(
    images: Sequence[str], folders: Collection[str], left_out: Collection[str]
) -> list[str]:
    """Folders without images, beside the class folders or beside one that all images lie in."""
    if not images:
        return []
    children, _ = _folders_with_images(images)
    levels = {"", *accumulate(f"{part}/" for part in shared_folder(images).split("/")[:-1])}
    inner = {above for folder in left_out for above in _above(folder)}
    return sorted(
        f"{folder}/"
        for folder in folders
        if _folder(folder) in levels
        and posixpath.basename(folder) not in children[_folder(folder)]
        and not is_system_name(folder)
        and not _lies_in(f"{folder}/", left_out)
        and f"{folder}/" not in inner
    )


def _above(folder: str) -> Iterator[str]:
    """The folders that a folder lies in, all with their /."""
    while folder := _folder(folder[:-1]):
        yield folder


def _lies_in(name: str, folders: Collection[str]) -> bool:
    """Whether a name is one of the folders (given with their /), or lies below one."""
    if not folders:
        return False
    if "" in folders:
        return True
    end = name.find("/")
    while end >= 0:
        if name[: end + 1] in folders:
            return True
        end = name.find("/", end + 1)
    return False


def _topmost(folders: Iterable[str]) -> list[str]:
    """The folders that lie in none of the others."""
    kept: list[str] = []
    for folder in sorted(folders):
        if not _lies_in(folder, kept):
            kept.append(folder)
    return kept


def _listed(names: Sequence[str]) -> str:
    return listed(names, _LISTED)
