"""CelebA: aligned faces of a folder or archive, their 40 attributes, and the official parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm_cli.core.config.fields import did_you_mean, shortened
from ddpm_cli.core.data.annotations.classes import Classes
from ddpm_cli.core.data.readers.celeba_tables import (
    Rows,
    Tables,
    attribute_rows,
    is_table,
    read_parts,
    stem,
    tables_among,
)
from ddpm_cli.core.data.readers.tree import Tree, decode_text, digest, read_file
from ddpm_cli.core.data.readers.zips import ZipFiles
from ddpm_cli.core.errors import DdpmError, UsageError, listed

PARTS = ("train", "valid", "test")  # 0, 1 and 2 in the table of parts
EVERY = "all"  # of the parts, or of the attributes
_IMAGES = "img_align_celeba"
_FOLDERS = ("", "Anno", "Eval", "Img")  # of the publication, in which tables and archive lie
_BITS = {"1": 1, "-1": 0}


def open_published(folder: Path) -> tuple[ZipFiles, Tables] | None:
    """The images and tables of a folder in which img_align_celeba.zip is not unpacked."""
    if (folder / _IMAGES).is_dir():
        return None
    places = [folder / place for place in _FOLDERS]
    archive = next((file for p in places if (file := p / f"{_IMAGES}.zip").is_file()), None)
    texts = [file.relative_to(folder).as_posix() for p in places for file in p.glob("list_*")]
    tables = tables_among(texts, lambda name: decode_text(read_file(folder / name), name))
    return None if archive is None or tables is None else (ZipFiles(archive), tables)


class CelebaFiles(Tree):
    """The images of one part of a CelebA, with some of its attributes as classes.

    part: of PARTS, or "all"; "": with `training` train, where it is divided, and otherwise a
    DdpmError. attributes: names, or "all"; one gives two classes, several a multi-label. Raises
    DdpmError for tables that do not fit the images.
    """

    def __init__(
        self,
        path: Path,
        tree: Tree,
        tables: Tables,
        part: str = "",
        attributes: Sequence[str] = (),
        *,
        training: bool = False,
    ) -> None:
        self.path, self._tree, self._tables = path, tree, tables
        self.sequential = tree.sequential
        self.texts = frozenset(name for name in tree.texts if not is_table(name))
        aligned = [i for i, name in enumerate(tree.names) if _IMAGES in name.split("/")[:-1]]
        rows = aligned or list(range(len(tree.names)))
        others = [] if len(rows) == len(tree.names) else [f"only {_IMAGES}/ is taken"]
        self._row_of = _by_stem(self.path, [(tree.names[row], row) for row in rows])
        self._rows, notices = self._of_part(part, rows, training=training)
        self.names = tuple(tree.names[row] for row in self._rows)
        said = [f"{self.path}: {line}" for line in (*others, *notices)]
        self.notices = (*tree.notices, *said)
        self._attributes = tuple(attributes)

    def read(self, index: int) -> bytes:
        """Read the bytes of one image file. Raises UnreadableError."""
        return self._tree.read(self._rows[index])

    def text(self, name: str) -> str:
        """Read one of the text files beside the images. Raises UnreadableError."""
        return self._tree.text(name)

    def fingerprint(self) -> str:
        """That of all images, and the names of these."""
        return digest([self._tree.fingerprint(), *self.names])

    def cache_key(self) -> str:
        """That of all images, and the names of these."""
        return digest([self._tree.cache_key(), *self.names])

    def classes(self) -> Classes:
        """The attributes as classes: two of one attribute, or else a label (N, K) of 0 and 1."""
        table = self._tables.attributes
        known, rows = attribute_rows(str(self.path / table), self._tables.text(table))
        if not self._attributes:
            why = (
                f"--attributes {known[-1]} learns one of the {len(known)} attributes in {table}, "
                f"several as a,b, and --attributes {EVERY} every one"
            )
            return Classes((), np.full(len(self.names), -1), why)
        chosen = self._chosen(known)
        labels, absent = self._labels(chosen, known, rows)
        notices = [f"the classes are attributes in {table}"]
        if absent:
            notices.append(f"{_count(len(absent), 'row')} of {table} without image: {_few(absent)}")
        names = chosen
        if len(chosen) == 1:
            labels, names = labels[:, 0], (f"not {chosen[0]}", chosen[0])
        hashed = sha256(repr(names).encode() + labels.tobytes()).hexdigest()
        return Classes(names, labels, "", tuple(notices), hashed)

    def _of_part(
        self, part: str, rows: list[int], *, training: bool
    ) -> tuple[list[int], list[str]]:
        """The rows of the tree's images that belong to the part, and what is said of that."""
        table = self._tables.parts
        if part and part not in (*PARTS, EVERY):
            raise UsageError(
                f"{self.path}:{part}: the parts of CelebA are {', '.join(PARTS)} and {EVERY}"
            )
        if table is None and part in PARTS:
            raise DdpmError(
                f"{self.path} has no list_eval_partition.txt, which says what is {part}"
            )
        if table is None or part == EVERY:
            return rows, []
        numbers = read_parts(str(self.path / table), self._tables.text(table))
        of_row = {row: numbers.get(name) for name, row in self._row_of.items()}
        counts = Counter(of_row.values())
        held = ", ".join(f"{name} {counts[i]:,}" for i, name in enumerate(PARTS))
        if not part and not training:
            raise DdpmError(
                f"{self.path} is divided by {table} ({held}): name the part that is meant, as "
                f"{self.path}:test, or {self.path}:{EVERY}"
            )
        taken = part or PARTS[0]
        chosen = [row for row in rows if of_row[row] == PARTS.index(taken)]
        if not chosen:
            raise DdpmError(f"no image of {self.path} is {taken} by {table} ({held})")
        outside = [self._tree.names[row] for row in rows if of_row[row] is None]
        said = [] if part else [f"only {taken} of {table} is trained on ({held})"]
        if outside:
            said.append(f"left out: {_count(len(outside), 'image')} in no part: {_few(outside)}")
        return chosen, said

    def _chosen(self, known: Sequence[str]) -> tuple[str, ...]:
        """The attributes requested. Raises UsageError for an unknown one, or one named twice."""
        if self._attributes == (EVERY,):
            return tuple(known)
        for name, count in Counter(self._attributes).items():
            if name not in known:
                raise UsageError(
                    f"--attributes {shortened(name)} is not an attribute of {self.path}"
                    f"{did_you_mean(name, known)}; it has {listed(known, len(known))}"
                )
            if count > 1:
                raise UsageError(f"--attributes names {name} twice")
        return self._attributes

    def _labels(
        self, chosen: Sequence[str], known: Sequence[str], rows: Rows
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Labels (N, K) of the images, and the names of rows that belong to no image at all."""
        table, columns = self._tables.attributes, [known.index(name) for name in chosen]
        index = {row: i for i, row in enumerate(self._rows)}
        labels = np.full((len(self.names), len(chosen)), -1)
        seen, absent = set[str](), []
        for line, (name, *values) in rows:
            key = stem(name)
            if len(values) != len(known):
                raise DdpmError(
                    f"{self.path}: {table}, line {line} has {len(values)} values for {len(known)} "
                    "attributes; it may be cut short: copy it again"
                )
            if key in seen:
                raise DdpmError(f"{self.path}: {table}, line {line}: {name} is there twice")
            seen.add(key)
            bits = [_BITS.get(values[column], -1) for column in columns]
            if -1 in bits:
                wrong = bits.index(-1)
                raise DdpmError(
                    f"{self.path}: {table}, line {line}: {chosen[wrong]} of {name} is "
                    f"{shortened(values[columns[wrong]])}; it should be 1 or -1"
                )
            row = self._row_of.get(key)
            if row is None:
                absent.append(name)
            elif row in index:
                labels[index[row]] = bits
        if missing := [self.names[i] for i in np.flatnonzero(labels[:, 0] == -1)]:
            raise DdpmError(
                f"{self.path}: {table} has no row for {_count(len(missing), 'image')}: "
                f"{_few(missing)}; add them, or remove the images"
            )
        return labels, absent


def _by_stem(path: Path, images: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The row of each image by its name without folder and suffix, which tables name it by."""
    rows: dict[str, int] = {}
    names: dict[str, str] = {}
    for name, row in images:
        key = stem(name)
        if key in rows:
            raise DdpmError(f"{path}: {names[key]} and {name} are one image of CelebA; keep one")
        rows[key], names[key] = row, name
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    return listed(names, 3)
