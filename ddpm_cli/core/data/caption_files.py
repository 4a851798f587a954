"""Captions in files beside the images: a table, in any folder, or a file for each image."""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ddpm_cli.core.conditioning.tokens import is_valid_utf8
from ddpm_cli.core.data import classes
from ddpm_cli.core.data.captions import Captions, from_sentences
from ddpm_cli.core.data.image_files import FileTree
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.devices import cores
from ddpm_cli.core.runtime.files import parse_json

# In the order in which they are looked for: the first that has captions is the one that is read.
TABLES = (
    *("captions.csv", "captions.tsv", "captions.jsonl", "captions.json"),
    *("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json"),
)
BESIDE = (".txt", ".caption", ".json")
FILE_COLUMNS = ("file_name", "file", "filename", "image")
TEXT_COLUMNS = ("text", "caption", "prompt")

_DELIMITERS = ",;\t|"
_READ = (
    "captions are read from captions or metadata (.csv .tsv .jsonl .json) with a column "
    "file_name and a column text, or from a .txt, .caption or .json beside each image"
)

Row = dict[str | None, Any]  # by column, in lower case; None: columns that the header lacks


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
        tables = sorted(n for n in listing.texts if posixpath.basename(n).lower() == kind)
        if tables and (kind == "captions.csv" or _has_text(listing, tables)):
            return Found(kind, tuple(tables))
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
            _check(listing, row)
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


def unread(listing: FileTree, captions: Captions | None) -> str:
    """One line on the tables and texts that are not read, and why; "" where there are none."""
    known = captions.files if captions is not None else frozenset[str]()
    others = [
        name
        for name in sorted(listing.texts - known, key=lambda name: (name.count("/"), name))
        if posixpath.basename(name) != classes.TABLE and not _is_note(name)
    ]
    if not others:
        return ""
    beside = {file: suffix for suffix in (*BESIDE, ".xml") for file, _ in _beside(listing, suffix)}
    tables = [name for name in others if name not in beside]
    counts = Counter(beside[name] for name in others if name in beside)
    named = [*tables[:2], *([f"{len(tables) - 2} more"] if tables[2:] else [])]
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


def _check(listing: FileTree, row: _Text) -> None:
    """Raise DdpmError for a caption that is empty or no Unicode."""
    text = row.text or ""
    if not text.strip():
        raise DdpmError(f"{listing.path}: {row.place}: the caption of {row.image} is empty")
    if not is_valid_utf8(text):
        raise DdpmError(
            f"{listing.path}: {row.place}: the caption of {row.image} is not UTF-8 (it contains a "
            f"lone surrogate): {text[:60]!r}"
        )


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
    """Pairs (file with the suffix in any case, image): a.txt or a.png.txt beside a.png."""
    files: dict[str, str] = {}
    for name in listing.texts:
        stem, end = posixpath.splitext(name)
        if end.lower() == suffix:
            files[stem] = name
    pairs = []
    for image in listing.names if files else ():
        file = files.get(posixpath.splitext(image)[0], files.get(image))
        if file is not None:
            pairs.append((file, image))
    return pairs


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
    text = _first(_lower(document), TEXT_COLUMNS)[1] if isinstance(document, dict) else None
    texts = [text] if isinstance(text, str) else text
    return [t for t in texts if isinstance(t, str)] if isinstance(texts, list) else []


def _has_text(listing: FileTree, tables: Sequence[str]) -> bool:
    rows = (row for table in tables for _, row in _parse(listing, table))
    return any(_first(row, TEXT_COLUMNS)[1] is not None for row in rows)


def _table_rows(listing: FileTree, tables: Sequence[str], columns: Counter[str]) -> Iterator[_Text]:
    """The captions in tables: each row has a file name, and one caption or a list of them.

    Counts the rows that have each column of text.
    """
    for table in tables:
        folder = table[: table.rfind("/") + 1]
        for where, row in _parse(listing, table):
            place = f"{table} {where}"
            if None in row:
                raise DdpmError(
                    f"{listing.path}: {place} has more columns than the header: put a caption with "
                    "commas in quotes"
                )
            (_, file), (_, text) = _first(row, FILE_COLUMNS), _first(row, TEXT_COLUMNS)
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
            image = posixpath.normpath(folder + file.replace("\\", "/"))
            yield from (_Text(place, image, caption) for caption in texts)


def _first(row: Row, columns: Sequence[str]) -> tuple[str, Any]:
    """The first of the columns that a row has, and its value; None without any."""
    return next(((c, row[c]) for c in columns if row.get(c) is not None), ("", None))


def _parse(listing: FileTree, table: str) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its place in it: "line 3"."""
    content = listing.text(table)
    suffix = posixpath.splitext(table)[1].lower()
    if suffix in (".csv", ".tsv"):
        yield from _parse_csv(listing, table, content)
    elif suffix == ".jsonl":
        yield from _parse_lines(listing, table, content)
    else:
        try:
            document = parse_json(content)
        except ValueError as error:
            if content.lstrip()[:1] == "{" and "\n" in content.strip():
                yield from _parse_lines(listing, table, content)
                return
            raise DdpmError(_damaged(listing, table, error)) from error
        yield from _rows_of(listing, table, document)


def _parse_csv(listing: FileTree, table: str, content: str) -> Iterator[tuple[str, Row]]:
    header = content.lstrip("\r\n").splitlines()[:1]
    known = {*FILE_COLUMNS, *TEXT_COLUMNS}

    def columns_known(delimiter: str) -> int:
        names = header[0].split(delimiter) if header else []
        return len(known.intersection(name.strip(' "').lower() for name in names))

    delimiter = max(_DELIMITERS, key=columns_known)
    reader = csv.DictReader(
        io.StringIO(content, newline=None), strict=True, delimiter=delimiter, skipinitialspace=True
    )
    try:
        yield from ((f"line {reader.line_num}", _lower(row)) for row in reader)
    except csv.Error as error:
        place = f"{table} line {reader.line_num + 1}"  # the first line of the row
        raise DdpmError(f"{listing.path}: {place}: {error}; is a quote left open?") from error


def _parse_lines(listing: FileTree, table: str, content: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                place = f"{table} line {number}"
                raise DdpmError(_damaged(listing, place, error)) from error
            yield f"line {number}", _lower(row) if isinstance(row, dict) else {"": row}


def _rows_of(listing: FileTree, table: str, document: Any) -> Iterator[tuple[str, Row]]:
    """The rows of a JSON document: a list of objects, or an object of captions by file."""
    if isinstance(document, list):
        for number, row in enumerate(document, 1):
            yield f"row {number}", _lower(row) if isinstance(row, dict) else {"": row}
    elif isinstance(document, dict):
        images = {posixpath.normpath(name) for name in listing.names}
        folder = table[: table.rfind("/") + 1]
        if any(posixpath.normpath(folder + f.replace("\\", "/")) in images for f in document):
            for file, value in document.items():
                row = _lower(value) if isinstance(value, dict) else {"text": value}
                yield f"entry {file!r}", {**row, "file_name": file}


def _lower(row: dict[Any, Any]) -> Row:
    """A row with its columns in lower case, as spreadsheets do not write them."""
    return {key.strip().lower() if isinstance(key, str) else key: row[key] for key in row}


def _damaged(listing: FileTree, place: str, error: ValueError) -> str:
    return f"{listing.path}: {place}: {error}; fix it, or add --no-captions"
