"""Verification of a converted network: its outputs against those of the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet

Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x (B, C, H, W), the network's t (B,), classes (B,) in the original's numbering -> F."""

_TOLERANCE = 1e-4  # of the largest output
_BATCH = 4


@torch.inference_mode()
def difference(
    network: UNet, original: Compute, diffusion: DiffusionConfig, null_class: int | None
) -> float:
    """Largest difference of two networks' outputs, relative to the largest output.

    Both get the same small random images, since convolutions do not depend on the image's size.
    Raises DdpmError where they differ by more than rounding, or where the original's output is 0.
    """
    config = network.config
    size = 2 * config.size_multiple
    generator = torch.Generator().manual_seed(0)
    shape = (_BATCH, config.channels, size, size + config.size_multiple)
    x = torch.randn(shape, generator=generator)
    t = torch.linspace(0, diffusion.timesteps - 1, _BATCH).round() * diffusion.time_scale
    classes = None
    if config.classes:
        count = len(config.classes) + config.null_class
        classes = torch.arange(_BATCH) * (count - 1) // (_BATCH - 1)
    output = network.eval()(x, t, Condition(_our_labels(classes, null_class)))
    expected = original(x, t, classes)
    if output.shape != expected.shape:
        raise DdpmError(
            f"the converted network's output is {output.shape[1:]}, not {expected.shape[1:]}"
        )
    if not expected.any():
        raise DdpmError(
            "the network's output is zero for any image, as before training: the conversion cannot "
            "be verified, so it was not kept"
        )
    relative = float((output - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not relative <= _TOLERANCE:
        raise DdpmError(
            f"the converted network's outputs differ from the original's by {relative:.1e} of the "
            f"largest (at most {_TOLERANCE:g} is rounding), so it was not kept"
        )
    return relative


def _our_labels(classes: Tensor | None, null_class: int | None) -> Tensor | None:
    """The original's class numbers (B,) as ours, which do not count the null class."""
    if classes is None or null_class is None:
        return classes
    labels = classes - (classes > null_class).long()
    return labels.masked_fill(classes == null_class, NULL_CLASS)
