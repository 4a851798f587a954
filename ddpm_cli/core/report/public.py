"""What a page for others leaves out: folders, of which only the last part stays."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

_PATHS = re.compile(
    r"""(?<![\w.:/+=-])(?:file://)?(?:~\w*)?(?:/[^/\s"'<>,;:|]+)+/?"""  # absolute, not of a URL
    r"""|\b[A-Za-z]:\\[^\s"'<>,;|]+"""
)
_OF_FILES = {"source", "given_data", "holdout_data", "path"}  # settings that are paths


def shortened(value: Any) -> Any:
    """A text with the last parts of the absolute paths in it; anything else as it is."""
    if type(value) is not str or value.startswith("data:"):
        return value
    for folder in _private():
        value = value.replace(folder, "~")
    return _PATHS.sub(lambda found: _last(found[0]), value)


def settings(value: Any, name: str = "") -> Any:
    """Settings of a run, of whose files only the names stay."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: settings(getattr(value, one.name), one.name) for one in fields(value)}
        return replace(value, **parts)
    if isinstance(value, tuple):
        return tuple(settings(one, name) for one in value)
    if isinstance(value, str) and (name in _OF_FILES or Path(value).is_absolute()):
        return _last(value)
    return value


def _last(path: str) -> str:
    """The last part of a path, of any system."""
    return PureWindowsPath(path).name or path


@cache
def _private() -> tuple[str, ...]:
    """Folders that may have blanks in their names, by which a path in a text could not be told."""
    folders = [str(Path.home())]
    return tuple(folder for folder in folders if len(Path(folder).parts) > 1)
