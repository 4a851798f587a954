"""Which captions a training learns, and the settings that follow from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.config.network import OF_FAMILY, NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.serialisation import to_dict, updated
from ddpm_cli.core.config.unet import with_text_attention, without_text_attention
from ddpm_cli.core.data.annotations.captions import Captions
from ddpm_cli.core.data.sources import Source, captions_of
from ddpm_cli.core.errors import UsageError

EXAMPLES = 64  # captions kept in the config, for images sampled without a prompt


def captions_to_learn(
    source: Source, requested: bool | None, templates: Sequence[str]
) -> Captions | None:
    """Captions made of templates, or those beside the images; None: no captions are learned.

    requested: None leaves it to whether there are any.
    """
    if requested or (requested is None and (templates or source.captioned)):
        return captions_of(source, templates)
    return None


def network_settings(
    config: NetworkConfig, options: dict[str, Any], captions: Captions | None
) -> dict[str, Any]:
    """The network's settings for captions: the text encoder, and text-attn after every attn.

    options: the user's settings over the config. Without captions, the config's text-attn blocks
    are removed, but not those that the user names. A transformer has no recipes: all its blocks
    attend to captions.
    """
    if captions is None and options.get("text"):
        raise UsageError("--text-encoder and --text-length are for captions: there are none")
    text = None if captions is None else _text(config, options, captions)
    if "blocks" not in OF_FAMILY[options.get("family", config.family)]:
        return {"text": text}
    up_blocks = () if "blocks" in options else config.up_blocks  # they follow new blocks
    recipes: dict[str, Any] = {
        "blocks": config.blocks,
        "up_blocks": up_blocks,
        "middle": config.middle,
    }
    if captions is None:
        recipes = {name: _each(without_text_attention, recipe) for name, recipe in recipes.items()}
        return {"text": None} | {k: v for k, v in recipes.items() if k not in options}
    recipes = {
        name: _each(with_text_attention, options.get(name, recipe))
        for name, recipe in recipes.items()
    }
    if "text-attn" not in json.dumps(recipes):
        raise UsageError(
            "captions are read by text-attn blocks: --blocks should have text-attn, or attn, after "
            "which one is added"
        )
    return {"text": text, **recipes}


def _text(config: NetworkConfig, options: dict[str, Any], captions: Captions) -> dict[str, Any]:
    text = updated(config.text or TextConfig(), options.get("text", {}))
    return to_dict(tokens.resolve_encoder(text, captions.sentences))


def _each(change: Callable[[str], str], recipe: str | Sequence[str]) -> str | list[str]:
    """Change a recipe, or each recipe of several levels."""
    return change(recipe) if isinstance(recipe, str) else [change(level) for level in recipe]


def data_settings(captions: Captions | None, templates: Sequence[str]) -> dict[str, Any]:
    """What the config keeps of the captions."""
    if captions is None:
        return {"captions": "", "templates": [], "examples": []}
    return {
        "captions": captions.fingerprint,
        "templates": list(templates),
        "examples": list(captions.examples(EXAMPLES)[0]),
    }
