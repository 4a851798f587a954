"""Which columns of a Parquet table hold the images, their classes and their captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.data.annotations.tables import TEXT_COLUMNS
from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.runtime.files import parse_json

_METADATA = b"huggingface"  # {"info": {"features": {column: {"_type": "Image"}, …}}}
_IMAGE_NAMES = ("image", "img", "jpg", "png")  # of the image column, where there are several
_OTHER_KINDS = ("Audio", "Video", "Pdf")  # whose columns are of the same types as images
_LABEL_NAMES = ("label", "labels", "class", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The columns that are read, by name; "" for none."""

    image: str
    path: str  # of their own file names: "image.path"
    label: str
    classes: tuple[str, ...]  # names of the labels in order; () where the labels are the names
    text: str
    others: tuple[str, ...]  # those that are not read
    notices: tuple[str, ...] = ()


def columns_of(schema: Any, file: Path) -> Columns:
    """Find the columns in the schema (pyarrow) of a file.

    The features that the library `datasets` describes in it come first, then the columns' own
    types and names. Raises DdpmError for no image column, and where several could be meant.
    """
    features, notices = _features(schema.metadata or {})
    fields = {field.name: field.type for field in schema}
    image = _image_column(file, fields, features, notices)
    leaves = _leaves(fields[image])
    path = f"{image}.path" if "path" in leaves else ""
    label = _label_column(fields, features, image, notices)
    text = _text_column(fields, image, notices)
    others = tuple(name for name in fields if name not in (image, label, text))
    names = _class_names(features.get(label)) if label and is_number(fields[label]) else ()
    return Columns(image, path, label, names, text, others, tuple(notices))


def _features(metadata: dict[bytes, bytes]) -> tuple[dict[str, Any], list[str]]:
    """The features by column, as `datasets` describes them; {} without any."""
    if _METADATA not in metadata:
        return {}, []
    try:
        features = parse_json(metadata[_METADATA].decode())["info"]["features"]
        if isinstance(features, dict):
            return features, []
    except (ValueError, LookupError, TypeError):
        pass
    return {}, ["its metadata of Hugging Face cannot be read: columns are told by their types"]


def _type_of(feature: Any) -> str:
    return str(feature.get("_type")) if isinstance(feature, dict) else ""


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel in the order of its labels; () where it has none, or no others."""
    names = feature.get("names") if _type_of(feature) == "ClassLabel" else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return ()
    return tuple(names) if len(set(names)) == len(names) else ()


def _image_column(
    file: Path, fields: dict[str, Any], features: dict[str, Any], notices: list[str]
) -> str:
    """The column of images: the only one, or else the one of a usual name."""
    kinds = {name: _type_of(features.get(name)) for name in fields}
    readable = [n for n in fields if _may_hold_images(fields[n]) and kinds[n] not in _OTHER_KINDS]
    found = [name for name in readable if kinds[name] == "Image"] or readable
    if not found:
        held = listed([f"{name} ({kind})" for name, kind in fields.items()]) or "no columns"
        raise DdpmError(
            f"{file} has no column of images (bytes, or a struct of bytes and path); it holds "
            f"{held}"
        )
    named = [name for name in _IMAGE_NAMES if name in found]
    if len(found) > 1 and not named:
        raise DdpmError(
            f"{file}: any of the columns {listed(found)} may be the images; rename the one that is "
            "meant to image"
        )
    if len(found) > 1:
        others = [name for name in found if name != named[0]]
        notices.append(f"the images are those of the column {named[0]}, not of {listed(others)}")
    return named[0] if named else found[0]


def _may_hold_images(kind: Any) -> bool:
    """Whether a type is binary, or a struct of bytes and the path of a file, or one of them."""
    import pyarrow.types as t

    leaves = _leaves(kind)
    if not leaves:
        return _is_binary(kind)
    held, path = leaves.get("bytes"), leaves.get("path")
    return (held is not None or path is not None) and (
        (held is None or _is_binary(held) or t.is_null(held))
        and (path is None or _is_string(path) or t.is_null(path))
    )


def _leaves(kind: Any) -> dict[str, Any]:
    """The types of a struct's fields by name; {} for any other type."""
    import pyarrow.types as t

    return {field.name: field.type for field in kind} if t.is_struct(kind) else {}


def _label_column(
    fields: dict[str, Any], features: dict[str, Any], image: str, notices: list[str]
) -> str:
    """The column of classes: a ClassLabel, or one of a usual name that holds numbers or names."""

    def is_label(name: str) -> bool:
        return is_number(fields[name]) or _is_string(fields[name])

    candidates = [n for n in fields if n != image and is_label(n)]
    found = [name for name in candidates if _type_of(features.get(name)) == "ClassLabel"]
    found = found or [name for name in _LABEL_NAMES if name in candidates]
    if "label" not in found and "label" in fields and not is_label("label"):
        notices.append(f"the column label is of {fields['label']}, which gives no classes")
    if not found:
        return ""
    chosen = "label" if "label" in found else found[0]
    if others := [name for name in found if name != chosen]:
        notices.append(f"the classes are those of the column {chosen}, not of {listed(others)}")
    return chosen


def _text_column(fields: dict[str, Any], image: str, notices: list[str]) -> str:
    """The column of captions: text, caption or prompt, of strings or lists of strings."""
    import pyarrow.types as t

    def is_text(kind: Any) -> bool:
        listing = t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)
        return _is_string(kind.value_type if listing else kind)

    by_lower = {name.lower(): name for name in fields if name != image and is_text(fields[name])}
    found = [by_lower[name] for name in TEXT_COLUMNS if name in by_lower]
    if others := found[1:]:
        notices.append(f"captions are the column {found[0]}, not {listed(others)}")
    return found[0] if found else ""


def is_number(kind: Any) -> bool:
    """Whether a type is that of whole numbers."""
    import pyarrow.types as t

    return bool(t.is_integer(kind))


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as t

    checks = (t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _is_string(kind: Any) -> bool:
    import pyarrow.types as t

    kind = kind.value_type if t.is_dictionary(kind) else kind
    return any(check(kind) for check in (t.is_string, t.is_large_string, t.is_string_view))


def fits(columns: Columns, others: Columns) -> bool:
    """Whether two tables' columns are read alike, whatever else the tables hold."""
    return all(
        getattr(columns, name) == getattr(others, name)
        for name in ("image", "path", "label", "classes", "text")
    )


def shown(columns: Iterable[str]) -> str:
    """In words: "the columns id, width"."""
    names = list(columns)
    return f"the column{'s' if len(names) > 1 else ''} {listed(names)}"
