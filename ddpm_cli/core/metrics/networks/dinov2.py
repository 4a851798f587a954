"""DINOv2 ViT-L/14 (Oquab et al. 2023), by whose features FD-DINOv2 is defined (Stein et al. 2023).

The features are the class token behind the last norm, of images of 224 x 224 pixels. The network
was trained at 518, so the embeddings of its 37 x 37 positions are interpolated to 16 x 16. The
published distances are of Meta's own code, which scales them by 16.1 / 37 where transformers takes
16 / 37: their features differ.
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

PUBLISHED = RemoteFile(  # converted from Meta's by Hugging Face
    description="the DINOv2 weights",
    url="https://huggingface.co/facebook/dinov2-large/resolve/"
    "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c/model.safetensors",
    sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
    size=1_217_522_888,
    option="--weights FILE",
    instead="ddpm train-classifier --data IMAGES, then --features FILE",
    name="dinov2-large.safetensors",
)
# dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth, the same weights
META_SHA256 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
SHAPE = Shape(width=1024, depth=24, heads=16, patch=14, image=224)
VARIANT = Variant(epsilon=1e-6, activation=functional.gelu, layer_scale=True, norm_before=False)
TRAINED_AT = 37  # patches a side
OFFSET = 0.1  # added to the patches a side before the scale is computed, in Meta's code
_NAMES = (  # of transformers (facebook/dinov2-large)
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.query\.", ".attn.q."),
    (r"\.attention\.attention\.key\.", ".attn.k."),
    (r"\.attention\.attention\.value\.", ".attn.v."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


class Dinov2(VisionTransformer):
    """Images (N, 3, 224, 224), normalised as ImageNet's -> Features of 1024, without logits."""

    classes = None

    def __init__(self) -> None:
        super().__init__(SHAPE, VARIANT)
        self.width = SHAPE.width

    def forward(self, x: Tensor) -> Features:
        """Run the network on (N, 3, 224, 224)."""
        return Features(self.embed(x))


def load_dinov2(path: Path, device: torch.device, option: str = "--weights") -> Dinov2:
    """Load the network for inference: Meta's file, or that of transformers (dinov2-large).

    Raises DdpmError where the file is of another network.
    """
    with torch.device("meta"):  # no initial weights only to be overwritten
        network = Dinov2()
        positions = torch.empty(1, 1 + TRAINED_AT**2, SHAPE.width)
    found = renamed(weights_file.read(path, option, PUBLISHED), _NAMES)
    found.pop("mask_token", None)  # of its training
    needed = network.state_dict() | {"pos_embed": positions}
    weights_file.check(found, needed, path, "DINOv2 ViT-L/14", PUBLISHED)
    floats = {key: tensor.float() for key, tensor in found.items()}
    floats["pos_embed"] = positions_at(floats["pos_embed"], SHAPE.image // SHAPE.patch)
    network.load_state_dict(floats, assign=True)
    return network.eval().requires_grad_(False).to(device)


def positions_at(embeddings: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + n^2, width) for side^2 patches, interpolated as Meta's code does.

    Bicubic, without antialiasing, at the centres of patches by the scale (side + 0.1) / n.
    """
    first, grid = embeddings[:, :1], embeddings[:, 1:]
    n, width = round(grid.shape[1] ** 0.5), grid.shape[2]
    grid = grid.reshape(1, n, n, width).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / n
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, grid.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)
