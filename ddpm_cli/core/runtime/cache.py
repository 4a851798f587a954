"""Where things that can be made or fetched again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$DDPM_CACHE, or `ddpm` under the user's cache folder."""
    given = os.environ.get("DDPM_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ddpm"
