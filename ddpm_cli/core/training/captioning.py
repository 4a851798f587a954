"""What a training learns of captions: which ones, and what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.requests import default_plan
from ddpm_cli.core.config.network import (
    NetworkConfig,
    TextConfig,
    with_text_attention,
    without_text_attention,
)
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict, updated
from ddpm_cli.core.data.captions import Captions
from ddpm_cli.core.data.loader import DecodedImages
from ddpm_cli.core.data.sources import Source, captions_of
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.reporting import Reporter

_EXAMPLES = 64  # captions kept in the config, for pictures that are drawn unasked


def learned(source: Source, wanted: bool | None, templates: Sequence[str]) -> Captions | None:
    """The captions to learn: made of templates, or those of the pictures; None for none."""
    if wanted or (wanted is None and (templates or source.captioned)):
        return captions_of(source, templates)
    return None


def network_settings(
    config: NetworkConfig, given: dict[str, Any], told: Captions | None
) -> dict[str, Any]:
    """The network's settings for captions: what reads them, and text-attn wherever attn is.

    given: the user's settings over the config, whose text-attn goes where there are no captions.
    """
    if told is None:
        if given.get("text"):
            raise UsageError("--text-encoder and --text-length are for captions: there are none")
        recipes = {
            "blocks": [without_text_attention(recipe) for recipe in config.blocks],
            "up_blocks": [without_text_attention(recipe) for recipe in config.up_blocks],
            "middle": without_text_attention(config.middle),
        }
        return {"text": None} | {k: v for k, v in recipes.items() if k not in given}
    text = updated(config.text or TextConfig(), given.get("text", {}))
    blocks, up_blocks, middle = (
        given.get(name, getattr(config, name)) for name in ("blocks", "up_blocks", "middle")
    )
    recipes = {
        "blocks": [with_text_attention(recipe) for recipe in blocks],
        "up_blocks": [with_text_attention(recipe) for recipe in up_blocks],
        "middle": with_text_attention(middle),
    }
    if "text-attn" not in json.dumps(recipes):
        raise UsageError(
            "pixels read captions in text-attn blocks: --blocks should have text-attn, or attn, "
            "which one follows"
        )
    return {"text": to_dict(tokens.resolve_encoder(text, told.sentences)), **recipes}


def data_settings(
    told: Captions | None, templates: Sequence[str], labels: NDArray[np.int64] | None
) -> dict[str, Any]:
    """What the config keeps of the captions; with `labels` also of their pictures' classes."""
    if told is None:
        return {"captions": "", "templates": [], "examples": [], "example_labels": []}
    examples, rows = told.examples(_EXAMPLES)
    return {
        "captions": told.fingerprint,
        "templates": list(templates),
        "examples": list(examples),
        "example_labels": [] if labels is None else [int(labels[row]) for row in rows],
    }


def with_texts(
    pictures: DecodedImages,
    told: Captions | None,
    config: RunConfig,
    device: torch.device,
    reporter: Reporter,
) -> DecodedImages:
    """The pictures with their captions, as the network reads them."""
    if told is None or config.network.text is None:
        return pictures
    with distributed.local_rank0_first():
        default_plan(config).encode_prompts(
            config, device, reporter
        )  # previews find it in the cache
        read = tokens.tokenise(config.network.text, told.sentences, device, reporter)
    return replace(pictures, captions=told, texts=read)
