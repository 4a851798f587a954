"""The cache folder: files that can be computed or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$DDPM_CACHE, or `ddpm` under the user's cache folder."""
    configured = os.environ.get("DDPM_CACHE")
    if configured:
        return Path(configured).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ddpm"
