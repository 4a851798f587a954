"""CLIP ViT-L/14 at 336 pixels (Radford et al. 2021), by whose embeddings CMMD is defined.

Jayasumana et al. 2024: the projected embeddings of images, each divided by its norm.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.metrics.networks import weights_file
from ddpm_cli.core.metrics.networks.network import Features
from ddpm_cli.core.metrics.networks.vision_transformer import (
    Shape,
    Variant,
    VisionTransformer,
    renamed,
)
from ddpm_cli.core.runtime.downloads import RemoteFile

PUBLISHED = RemoteFile(
    description="the CLIP weights",
    url="https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/"
    "ce19dc912ca5cd21c8a653c79e251e808ccabcd1/pytorch_model.bin",
    sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    size=1_711_974_081,
    option="--weights FILE",
    instead="ddpm train-classifier --data IMAGES, then --features FILE",
    name="clip-vit-large-patch14-336.bin",
)
SHAPE = Shape(width=1024, depth=24, heads=16, patch=14, image=336, output=768)
_OTHERS = ("text_model.", "text_projection.", "logit_scale")  # of the text's half
_NAMES = (  # of transformers
    (r"^vision_model\.embeddings\.class_embedding$", "cls_token"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^vision_model\.pre_layrnorm\.", "norm_pre."),
    (r"^vision_model\.post_layernorm\.", "norm."),
    (r"^vision_model\.encoder\.layers\.", "blocks."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^visual_projection\.", "head."),
)


def quick_gelu(x: Tensor) -> Tensor:
    """The activation that CLIP was trained with, x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


VARIANT = Variant(epsilon=1e-5, activation=quick_gelu, layer_scale=False, norm_before=True)


class ClipVision(VisionTransformer):
    """Images (N, 3, 336, 336), normalised as CLIP's -> Features of 768 and of length 1."""

    classes = None

    def __init__(self) -> None:
        super().__init__(SHAPE, VARIANT)
        self.width = SHAPE.output or SHAPE.width

    def forward(self, x: Tensor) -> Features:
        """Run the network on (N, 3, 336, 336)."""
        return Features(functional.normalize(self.embed(x).float(), dim=1))


def load_clip(path: Path, device: torch.device, option: str = "--weights") -> ClipVision:
    """Load the image half of CLIP for inference, from a file of transformers.

    Raises DdpmError where the file is of another network.
    """
    with torch.device("meta"):  # no initial weights only to be overwritten
        network = ClipVision()
    state = weights_file.read(path, option, PUBLISHED)
    images = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(_OTHERS) and not name.endswith(".position_ids")
    }
    found = renamed(images, _NAMES)
    for name in {
        "cls_token",
        "pos_embed",
    } & found.keys():  # behind dimensions of length 1
        found[name] = found[name][(None,) * (3 - found[name].ndim)]
    weights_file.check(found, network.state_dict(), path, "CLIP ViT-L/14 at 336", PUBLISHED)
    network.load_state_dict({key: x.float() for key, x in found.items()}, assign=True)
    return network.eval().requires_grad_(False).to(device)
