"""Paths as users write them, where `~` is a home folder."""

from __future__ import annotations

from pathlib import Path

from ddpm_cli.core.errors import UsageError


def home() -> Path | None:
    """The user's home folder; None without one: HOME is not set, and no account has one."""
    try:
        folder = Path("~").expanduser()
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


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
