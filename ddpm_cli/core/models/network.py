"""What every network F(x, c_noise, condition) is to the rest: one interface for all families."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.checkpoint import checkpoint

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig


class Network(nn.Module):
    """A network as its config describes it, which is all that is needed to build it again."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.checkpointed = False  # keep only layers' inputs in training, and compute them again

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        """x (B, C, H, W) of any H and W, c_noise (B,), condition -> F (B, C or 2 C, H, W)."""

    @property
    @abstractmethod
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers, in order, of which `checkpointed` keeps the inputs alone."""

    @abstractmethod
    def forward_operations(self) -> int:
        """Floating point operations of one image's forward pass, but for what is negligible."""

    def patches(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), and the image given beside it, as patches: (B, C', rows, columns).

        Zeros are added on the right and below, up to multiples of the config's `size_multiple`.
        """
        if self.config.given_channels:
            x = torch.cat([x, given_image(condition, x, self.config.given_channels)], dim=1)
        below, right = (-side % self.config.size_multiple for side in x.shape[2:])
        if below or right:
            x = nnf.pad(x, (0, right, 0, below))
        return nnf.pixel_unshuffle(x, self.config.patch)

    def pixels(self, h: Tensor, like: Tensor) -> Tensor:
        """Patches h as pixels, cropped to the height and width of images `like`."""
        height, width = like.shape[2:]
        return nnf.pixel_shuffle(h, self.config.patch)[..., :height, :width]

    def through(self, layer: nn.Module, *inputs: object) -> Tensor:
        """A layer's output; `checkpointed`, only the inputs are kept (Chen et al. 2016)."""
        if not (self.checkpointed and self.training and torch.is_grad_enabled()):
            output: Tensor = layer(*inputs)
        else:
            with_noise = self.config.dropout > 0
            output = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=with_noise)
        return output


def parameter_count(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def weight_count(*parts: nn.Module, dimensions: tuple[int, ...]) -> int:
    """Number of weights in the tensors of so many dimensions: 2 in matrices, 4 in convolutions."""
    tensors = (p for part in parts for p in part.parameters())
    return sum(p.numel() for p in tensors if p.ndim in dimensions)


def given_image(condition: Condition, x: Tensor, channels: int) -> Tensor:
    """The image given beside noisy ones x (B, C, H, W): (B, channels, H, W) (Saharia et al. 2021).

    Raises ValueError for a condition without one of that shape.
    """
    shape, given = (len(x), channels, *x.shape[2:]), condition.given
    if given is None or given.shape != shape:
        found = "none" if given is None else tuple(given.shape)
        raise ValueError(f"the network is given an image {shape} by condition.given, not {found}")
    return given
