"""Paths as users write them, where `~` is a home folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ddpm_cli.core.config.fields import near_names
from ddpm_cli.core.errors import UsageError

_MOST = 2000  # names in a folder that are compared


def home() -> Path | None:
    """The user's home folder; None without one: HOME is not set, and no account has one."""
    try:
        folder = Path("~").expanduser()
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def near(path: Path) -> str:
    """The end of a message on a path that is not there: "; did you mean runs/shapes-32?", or ""."""
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), _MOST)]
    except (OSError, ValueError):  # the folder is not there, either; no name of a file
        names = []
    meant = [str(path.parent / name) for name in near_names(path.name, names)]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def exists(path: str | Path) -> bool:
    """Whether a file or folder is there; what cannot be a path is not."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of a leading `~` or `~user`.

    Raises UsageError where there is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        first = Path(path).parts[0]
    if first == "~":
        raise UsageError(f"{path}: ~ has no meaning, as HOME is not set; give the whole path")
    raise UsageError(
        f"{path}: there is no user {first[1:]!r}, whose home {first} would be; if that is the name "
        f"of a folder, give ./{path}"
    )
