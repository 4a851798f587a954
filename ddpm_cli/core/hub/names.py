"""What of a run is published: names in place of the paths of its owner's machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.config.published import is_path, last_part, renamed
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.runtime.files import read_json
from ddpm_cli.core.runtime.reporting import Warned

RECORD = "pulled.json"  # in a folder that was pulled: where it is from


def published(config: RunConfig, run: Path) -> RunConfig:
    """The settings of a run, with names in place of paths on which no sampled image depends."""
    changed = replace(renamed(config, _name), network=config.network)
    if config.origin is not None and config.origin.path == pulled_record(run).get("repo"):
        return replace(changed, origin=config.origin)
    return changed


def pulled_record(run: Path) -> dict[str, Any]:
    """What `ddpm pull` noted in a folder; {} of any other."""
    try:
        record = read_json(run / RECORD)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def notices(config: RunConfig, changed: RunConfig) -> Iterator[str]:
    """What a user should know of their own words in the files, before these are uploaded."""
    if changed != config:
        yield (
            "config.json and the weights carry names in place of your paths, so the file's sha256 "
            "is not that of yours; the tensors are the same"
        )
    text = config.network.text
    if text is not None and is_path(text.encoder):
        yield Warned(
            f"config.json and the weights name the caption encoder by its path, "
            f"{shortened(text.encoder)}: sampling needs it, so it is uploaded"
        )
    captions = () if config.data.templates else config.data.examples
    if captions:
        yield Warned(
            f"config.json and the weights carry {len(captions)} captions of your images, which are "
            f"sampled where no prompt is given, such as {shortened(captions[0])}: they are uploaded"
        )


def _name(path: str) -> str:
    """A path as one beside: ./photos, so that it is not taken for a data set of that name."""
    name = last_part(path)
    return path if name in (path, "") else f"./{name}"
