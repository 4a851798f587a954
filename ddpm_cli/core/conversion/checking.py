"""Whether a converted network still says what it said before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.run import NULL_CLASS, DiffusionConfig
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.unet import UNet

Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x (B, C, H, W), what t the network is told (B,), classes (B,) in their numbering -> F."""

_LARGEST = 1e-4  # difference allowed, of the largest output
_PICTURES = 4


@torch.inference_mode()
def difference(
    network: UNet, theirs: Compute, diffusion: DiffusionConfig, null_class: int | None
) -> float:
    """The largest difference of two networks' outputs, as a share of the largest output.

    They see the same random pictures, small ones: a convolution is the same on all sizes. Raises
    DdpmError where the networks differ by more than rounding, or nothing can differ from zero.
    """
    config = network.config
    side = 2 * config.granularity
    generator = torch.Generator().manual_seed(0)
    shape = (_PICTURES, config.channels, side, side + config.granularity)
    x = torch.randn(shape, generator=generator)
    t = torch.linspace(0, diffusion.timesteps - 1, _PICTURES).round() * diffusion.time_scale
    classes = None
    if config.classes:
        known = len(config.classes) + config.null_class
        classes = torch.arange(_PICTURES) * (known - 1) // (_PICTURES - 1)
    ours = network.eval()(x, t, Condition(_our_labels(classes, null_class)))
    wanted = theirs(x, t, classes)
    if ours.shape != wanted.shape:
        raise DdpmError(f"the converted network gives {ours.shape[1:]}, not {wanted.shape[1:]}")
    if not wanted.any():
        raise DdpmError(
            "the network gives zeros for any picture, as one that was never trained: whether the "
            "converted one is the same cannot be told, so it was not kept"
        )
    found = float((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if not found <= _LARGEST:
        raise DdpmError(
            f"the converted network's outputs differ from the original's by {found:.1e} of the "
            f"largest (at most {_LARGEST:g} is rounding), so it was not kept"
        )
    return found


def _our_labels(classes: Tensor | None, null_class: int | None) -> Tensor | None:
    """Their numbers of classes (B,) as ours, which leave the null class out."""
    if classes is None or null_class is None:
        return classes
    labels = classes - (classes > null_class).long()
    return labels.masked_fill(classes == null_class, NULL_CLASS)
