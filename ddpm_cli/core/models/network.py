"""What every network F(x, c_noise, condition) is to the rest: one interface for all families."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

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


def parameter_count(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def given_image(condition: Condition, x: Tensor, channels: int) -> Tensor:
    """The image given beside noisy ones x (B, C, H, W): (B, channels, H, W) (Saharia et al. 2021).

    Raises ValueError for a condition without one of that shape.
    """
    shape, given = (len(x), channels, *x.shape[2:]), condition.given
    if given is None or given.shape != shape:
        found = "none" if given is None else tuple(given.shape)
        raise ValueError(f"the network is given an image {shape} by condition.given, not {found}")
    return given
