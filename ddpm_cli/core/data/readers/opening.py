"""The reader for what a path leads to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ddpm_cli.core.config.fields import near_names
from ddpm_cli.core.data import layout
from ddpm_cli.core.data.formats import REMEDIES
from ddpm_cli.core.data.image_files import ImageFiles
from ddpm_cli.core.data.readers import celeba, parquet_parts, tars
from ddpm_cli.core.data.readers.celeba_tables import tables_among
from ddpm_cli.core.data.readers.folder import FolderFiles
from ddpm_cli.core.data.readers.parquet import ParquetFiles
from ddpm_cli.core.data.readers.shards import shards_of
from ddpm_cli.core.data.readers.tars import TarFiles
from ddpm_cli.core.data.readers.tree import Tree
from ddpm_cli.core.data.readers.zips import ZipFiles
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.content import describe_file
from ddpm_cli.core.runtime.reporting import SILENT, Reporter


def open_image_files(
    path: Path,
    *,
    training: bool = False,
    part: str = "",
    attributes: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> ImageFiles:
    """List the images of a folder, an archive, a folder in one (photos.zip/train), or a table.

    Several .tar are named by their folder, or as data-{000..127}.tar.

    training: take the training part where a data set lies in train/, test/ and the like. part,
    attributes: of a CelebA. Raises DdpmError where there are no images, or those of several parts,
    or where part or attributes are given of what is no CelebA.
    """
    shards = parquet_parts.of(path, training=training)
    if shards is not None and not (part or attributes):
        return ParquetFiles(path, shards)
    if published := celeba.open_published(path):
        return celeba.CelebaFiles(path, *published, part, attributes, training=training)
    tree = _open_tree(path, reporter, training=training)
    if tables := tables_among(tree.texts, tree.text):
        return celeba.CelebaFiles(path, tree, tables, part, attributes, training=training)
    if part or attributes:
        given = f":{part}" if part else f"--attributes {','.join(attributes)}"
        raise DdpmError(f"{given} is for CelebA, and {path} has no list_attr_celeba.txt")
    return tree


def _open_tree(path: Path, reporter: Reporter, *, training: bool) -> Tree:
    """The files of a folder, of an archive or of several."""
    if shards := shards_of(path):
        return TarFiles(path, shards, training=training, reporter=reporter)
    if path.is_dir():
        if shards := tars.shards_in(path):
            shards, notices = tars.shards_of_part(path, shards, training=training)
            return TarFiles(path, shards, training=training, notices=notices, reporter=reporter)
        return FolderFiles(path, training=training)
    for place in (path, *path.parents):
        if tars.is_tar(place) and place.is_file():
            inside = path.relative_to(place).as_posix()
            return TarFiles(path, [place], inside, training=training, reporter=reporter)
    zips = (place for place in (path, *path.parents) if place.suffix.lower() == ".zip")
    if archives := [place for place in zips if place.is_file()]:
        return ZipFiles(archives[0], path.relative_to(archives[0]).as_posix(), training=training)
    if path.exists():
        raise DdpmError(
            f"{path} is neither a folder nor a .zip, .tar, .parquet, .npy or .npz{_content(path)}"
        )
    raise DdpmError(f"{path}: no such folder or archive{_similar_names(path)}")


def _content(path: Path) -> str:
    """What a file is that is neither, with what to do: ", but a tar archive: unpack it"."""
    what, remedy = describe_file(path), REMEDIES.get(path.suffix.lower(), "")
    if what and "image" in what:
        remedy = "give its folder"
    return (f", but {what}" if what else "") + (f" ({remedy})" if remedy else "")


def _similar_names(path: Path) -> str:
    """What lies beside a path that is not there: "; did you mean photos? photos/ holds …"."""
    names = names_beside(path)
    near = near_names(path.name, names)
    meant = f" did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    others = [*near, *(name for name in names if name not in near)][:4]
    return f";{meant if near else ''} {path.parent}/ holds {', '.join(others)}" if names else ""


def names_beside(path: Path) -> list[str]:
    """The names in the folder that a path lies in, without hidden ones."""
    try:
        return sorted(e.name for e in path.parent.iterdir() if not layout.is_system_name(e.name))
    except OSError:
        return []
