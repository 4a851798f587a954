"""Captions in files beside the images: a table, in any folder, or a file for each image."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ddpm_cli.core.data.annotations import tables
from ddpm_cli.core.data.annotations.captions import Captions, check_sentence, from_sentences
from ddpm_cli.core.data.annotations.tables import (
    FILE_COLUMNS,
    TEXT_COLUMNS,
    Row,
    first,
    image_of,
    lower,
)
from ddpm_cli.core.data.image_files import FileTree
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.files import parse_json
from ddpm_cli.core.runtime.threads import cores

# In the order in which they are looked for: the first that has captions is the one that is read.
TABLES = (
    *("captions.csv", "captions.tsv", "captions.jsonl", "captions.json"),
    *("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json"),
)
BESIDE = (".txt", ".caption", ".json")

_READ = (
    "captions are read from captions or metadata (.csv .tsv .jsonl .json) with a column "
    "file_name and a column text, or from a .txt, .caption or .json beside each image"
)


@dataclass(frozen=True)
class Found:
    """The caption files of a folder or .zip."""

    kind: str  # the tables' file name, or the suffix of the files beside the images
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Text:
    """One caption of an image, or None where its row has none."""

    place: str  # file and line, for messages
    image: str  # as the file spells it, relative to the root
    text: str | None


def find(listing: FileTree) -> Found | None:
    """The first kind of caption files that there is. Raises DdpmError for damaged tables."""
    for kind in TABLES:
        files = sorted(n for n in listing.texts if posixpath.basename(n).lower() == kind)
        if files and (kind == "captions.csv" or _has_text(listing, files)):
            return Found(kind, tuple(files))
    for kind in BESIDE:
        files = [file for file, _ in _beside(listing, kind)]
        if files and (kind != ".json" or any(_json_text(listing, file) for file in files)):
            return Found(kind, tuple(files))
    return None


def read(listing: FileTree) -> Captions:
    """Read the captions of a folder or .zip.

    Raises DdpmError where there are none, and for images that have none.
    """
    found = find(listing)
    if found is None:
        raise DdpmError(
            f"{listing.path} holds no captions: put a .txt beside each image, or captions.csv "
            "(file,caption) or metadata.jsonl (file_name, text) into its folder"
        )
    columns: Counter[str] = Counter()
    if found.kind in BESIDE:
        rows = _beside_rows(listing, found.kind)
    else:
        rows = _table_rows(listing, found.files, columns)
    images = {posixpath.normpath(name): name for name in listing.names}
    texts: dict[str, list[str]] = {}
    unmatched: list[str] = []  # files named in the captions that are not among the images
    for row in rows:
        image = images.get(row.image)
        if row.text is not None:
            check_sentence(row.text, f"{listing.path}: {row.place}", row.image)
            if image is None:
                unmatched.append(row.image)
            else:
                texts.setdefault(image, []).append(row.text.strip())
    notices = _notices(listing, found, columns, unmatched)
    if missing := [image for image in listing.names if image not in texts]:
        raise DdpmError(_missing(listing, found, missing, notices))
    origin = f"{found.kind} files" if found.kind in BESIDE else found.kind
    if columns and columns.keys() <= {"prompt"}:
        origin += ", column prompt"
    captions = from_sentences(origin, (texts[image] for image in listing.names))
    return replace(captions, files=frozenset(found.files), notices=notices)


def unread(listing: FileTree, captions: Captions | None, labels: frozenset[str]) -> str:
    """One line on the tables and texts that are not read, and why; "" where there are none.

    labels: those that the classes were read from.
    """
    known = labels | (captions.files if captions is not None else frozenset[str]())
    others = [
        name
        for name in sorted(listing.texts - known, key=lambda name: (name.count("/"), name))
        if not _is_note(name)
    ]
    if not others:
        return ""
    beside = {file: suffix for suffix in (*BESIDE, ".xml") for file, _ in _beside(listing, suffix)}
    whole = [name for name in others if name not in beside]
    counts = Counter(beside[name] for name in others if name in beside)
    named = [*whole[:2], *([f"{len(whole) - 2} more"] if whole[2:] else [])]
    named += [f"{count} {suffix} beside images" for suffix, count in counts.items()]
    why = _READ
    if captions is not None:
        why = f"the captions are those of {captions.origin}"
    elif _found(listing) is not None:
        why = "captions are not learned; --captions does"
    return f"{listing.path}: not read: {', '.join(named)} ({why})"


def _found(listing: FileTree) -> Found | None:
    try:
        return find(listing)
    except DdpmError:
        return None


def _is_note(name: str) -> bool:
    """Whether a text is one about the data set, not one of its images."""
    stem = posixpath.basename(name).lower().partition(".")[0]
    return stem in ("readme", "license", "licence", "copying", "citation", "changelog", "notice")


def _notices(
    listing: FileTree, found: Found, columns: Counter[str], unmatched: Sequence[str]
) -> tuple[str, ...]:
    notices = []
    if len(columns) > 1:
        used, *others = [column for column in TEXT_COLUMNS if column in columns]
        notices.append(
            f"{listing.path}: captions are the column {used} of {found.kind}; not read: "
            f"{', '.join(others)}"
        )
    if unmatched:
        notices.append(
            f"{listing.path}: {len(unmatched)} captions in {found.kind} are of files that are not "
            f"among the images: {listed(unmatched, 3)}"
        )
    return tuple(notices)


def _missing(
    listing: FileTree, found: Found, missing: Sequence[str], notices: Sequence[str]
) -> str:
    examples = listed(missing)
    where = f"in a {found.kind} beside them" if found.kind in BESIDE else f"in {found.kind}"
    also = "".join(f"; {notice.partition(': ')[2]}" for notice in notices if "not among" in notice)
    return (
        f"{listing.path}: {len(missing)} of {len(listing.names)} images have no caption {where}: "
        f"{examples}{also}. Write them, or add --no-captions"
    )


def _beside(listing: FileTree, suffix: str) -> list[tuple[str, str]]:
    """Pairs of a file with the suffix and the image that it lies beside."""
    return list(tables.beside(listing.names, listing.texts, suffix))


def _beside_rows(listing: FileTree, suffix: str) -> Iterator[_Text]:
    """The captions in files beside images: a line each, or a key of a JSON object."""
    pairs = _beside(listing, suffix)
    with ThreadPoolExecutor(cores()) as pool:
        if suffix == ".json":
            contents = pool.map(lambda pair: _json_text(listing, pair[0]), pairs)
        else:
            contents = pool.map(lambda pair: listing.text(pair[0]).splitlines(), pairs)
        for (file, image), lines in zip(pairs, contents, strict=True):
            image = posixpath.normpath(image)
            filled = [line for line in lines if line.strip()]
            if suffix != ".json":
                filled = filled or [""]
            yield from (_Text(file, image, line) for line in filled)


def _json_text(listing: FileTree, file: str) -> list[str]:
    """The captions in the JSON object beside an image; [] where it has none or is damaged."""
    try:
        document = parse_json(listing.text(file))
    except (DdpmError, ValueError):
        return []
    text = first(lower(document), TEXT_COLUMNS)[1] if isinstance(document, dict) else None
    texts = [text] if isinstance(text, str) else text
    return [t for t in texts if isinstance(t, str)] if isinstance(texts, list) else []


def _has_text(listing: FileTree, files: Sequence[str]) -> bool:
    rows = (row for table in files for _, row in _parse(listing, table))
    return any(first(row, TEXT_COLUMNS)[1] is not None for row in rows)


def _table_rows(listing: FileTree, files: Sequence[str], columns: Counter[str]) -> Iterator[_Text]:
    """The captions in tables: each row has a file name, and one caption or a list of them.

    Counts the rows that have each column of text.
    """
    for table in files:
        for where, row in _parse(listing, table):
            place = f"{table} {where}"
            if None in row:
                raise DdpmError(
                    f"{listing.path}: {place} has more columns than the header: put a caption with "
                    "commas in quotes"
                )
            (_, file), (_, text) = first(row, FILE_COLUMNS), first(row, TEXT_COLUMNS)
            columns.update(c for c in TEXT_COLUMNS if row.get(c) is not None)
            texts = [text] if isinstance(text, str) else text
            if text is None and isinstance(file, str) and not table.endswith("captions.csv"):
                texts = [None]
            elif not isinstance(file, str) or not (
                isinstance(texts, list) and all(isinstance(caption, str) for caption in texts)
            ):
                named = row.keys() & {*FILE_COLUMNS, *TEXT_COLUMNS}
                header = "" if named else "; a first line such as file_name,text names the columns"
                raise DdpmError(
                    f"{listing.path}: {place} should have file_name or file and text or caption; "
                    f"it has {str(row)[:200]}{header}"
                )
            image = image_of(table, file)
            yield from (_Text(place, image, caption) for caption in texts)


def _parse(listing: FileTree, table: str) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its place in it: "line 3". Raises DdpmError."""
    try:
        yield from tables.rows(listing.text(table), table, listing.names)
    except ValueError as error:
        raise DdpmError(f"{listing.path}: {error}; fix it, or add --no-captions") from error
