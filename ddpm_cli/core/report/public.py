"""What a page for others leaves out: folders, of which only the last part stays."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.published import last_part

_PATHS = re.compile(
    r"""(?<![\w.:/+=-])(?:file://)?(?:~\w*)?(?:/[^/\s"'<>,;:|]+)+/?"""  # absolute, not of a URL
    r"""|\b[A-Za-z]:\\[^\s"'<>,;|]+"""
)


def shortened(value: Any) -> Any:
    """A text with the last parts of the absolute paths in it; anything else as it is."""
    if type(value) is not str or value.startswith("data:"):
        return value
    for folder in _private():
        value = value.replace(folder, "~")
    return _PATHS.sub(lambda found: last_part(found[0]), value)


@cache
def _private() -> tuple[str, ...]:
    """Folders that may have blanks in their names, by which a path in a text could not be told."""
    folders = [str(Path.home())]
    return tuple(folder for folder in folders if len(Path(folder).parts) > 1)
