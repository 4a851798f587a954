"""The settings of a run as others may see them: names in place of its owner's paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ddpm_cli.core.config.run import RunConfig


def last_part(path: str) -> str:
    """The name at the end of a path of any system, without the folders above it."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def is_path(text: str) -> bool:
    """Whether a text is written as a path: /models/clip and ./clip are, openai/clip is not."""
    return re.match(r"[/\\~.]|\w:[/\\]", text) is not None


def renamed(config: RunConfig, rename: Callable[[str], str] = last_part) -> RunConfig:
    """The settings with other names of data sets, initial weights and encoders that are paths."""
    data, network, origin = config.data, config.network, config.origin
    if network.text is not None and is_path(network.text.encoder):
        text = replace(network.text, encoder=rename(network.text.encoder))
        network = replace(network, text=text)
    return replace(
        config,
        data=replace(data, source=rename(data.source), given_data=rename(data.given_data)),
        network=network,
        holdout_data=rename(config.holdout_data),
        origin=origin and replace(origin, path=rename(origin.path)),
    )
