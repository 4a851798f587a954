"""The cache folder: files that can be computed or downloaded again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ddpm_cli.core.config import environment, paths
from ddpm_cli.core.errors import DdpmError


def cache_root() -> Path:
    """$DDPM_CACHE, `ddpm` under the user's cache folder, or a temporary folder without a home."""
    configured = environment.value(environment.CACHE)
    if configured:
        return paths.expanded(configured)
    return _in_home() or _temporary()


def data_root(given: Path | None = None) -> Path:
    """Where data sets by name lie: --data-root, $DDPM_DATA, or `datasets` in the cache."""
    if given is not None:
        return paths.expanded(given)
    configured = environment.value(environment.DATA)
    return paths.expanded(configured) if configured else cache_root() / "datasets"


def notice() -> str | None:
    """What to tell the user where the cache is a temporary folder; None where it is not."""
    if environment.value(environment.CACHE) or _in_home() is not None:
        return None
    return (
        f"there is no home folder that can be written to, so the cache is {cache_root()}; set "
        "DDPM_CACHE to keep it elsewhere"
    )


def _in_home() -> Path | None:
    """The cache below XDG_CACHE_HOME or the home; None where it cannot be created there."""
    base, home = os.environ.get("XDG_CACHE_HOME"), paths.home()
    if base:
        return paths.expanded(base) / "ddpm"
    if home is None:
        return None
    existing = folder = home / ".cache" / "ddpm"
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return folder if existing == folder or os.access(existing, os.W_OK | os.X_OK) else None


def _temporary() -> Path:
    """A folder of this user's alone under the temporary folder. Raises DdpmError without one."""
    try:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        folder = Path(tempfile.gettempdir()) / f"ddpm-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise DdpmError(
            f"no folder for the cache: {error.strerror or error}; set DDPM_CACHE to one"
        ) from error
    if folder.is_symlink() or (hasattr(os, "getuid") and owner != os.getuid()):
        raise DdpmError(f"{folder} belongs to another user; set DDPM_CACHE to a folder of yours")
    return folder
