"""The families of networks: a config -> the network that it describes."""

from __future__ import annotations

from functools import lru_cache

import torch

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.network import Network, parameter_count
from ddpm_cli.core.models.transformer import Transformer
from ddpm_cli.core.models.unet import UNet

NETWORKS: dict[str, type[Network]] = {"unet": UNet, "transformer": Transformer}


def build(config: NetworkConfig) -> Network:
    """The network of a config, with random weights. Raises UsageError for contradictions."""
    return NETWORKS[config.family](config)


@lru_cache(maxsize=64)
def parameters_of(config: NetworkConfig) -> int:
    """Trainable parameters of the network of a config, which takes no memory."""
    with torch.device("meta"):
        return parameter_count(build(config))
