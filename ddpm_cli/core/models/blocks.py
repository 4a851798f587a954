"""Convolutional blocks: residual (Ho et al. 2020, appendix B), ConvNeXt, down- and upsampling."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.layers import ChannelNorm, glorot, normalisation, zeroed


class ResidualBlock(nn.Module):
    """Two convolutions, modulated in between, around a skip connection.

    With `resampling` "down" or "up" both branches halve or double the resolution after the first
    activation (BigGAN's block; Song et al. 2021; Dhariwal & Nichol 2021).
    """

    def __init__(
        self, inputs: int, outputs: int, config: NetworkConfig, resampling: str = ""
    ) -> None:
        super().__init__()
        self.resampling, self.scale = resampling, config.skip_scale
        self.norm1 = normalisation(inputs, config)
        self.conv1 = glorot(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.modulation = _modulation(outputs, config)
        self.norm2 = normalisation(outputs, config)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        identity = inputs == outputs and not (resampling and config.resample_skip)
        self.skip = nn.Identity() if identity else glorot(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H, W), or half or twice H and W."""
        h = self.norm1(x, silu=True)
        if self.resampling:
            x, h = _resample(x, self.resampling), _resample(h, self.resampling)
        h = self.norm2(self.conv1(h), self.modulation(embeddings.global_embedding), silu=True)
        h = self.conv2(self.dropout(h))
        return _scaled(self.skip(x) + h, self.scale)


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution and an inverted bottleneck (Liu et al. 2022, figure 4)."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        self.scale = config.skip_scale
        self.depthwise = glorot(nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs))
        self.modulation = _modulation(inputs, config)
        self.norm = ChannelNorm(inputs, eps=config.epsilon)
        self.expand = glorot(nn.Conv2d(inputs, 4 * outputs, 1))
        self.dropout = nn.Dropout(config.dropout)
        self.out = zeroed(nn.Conv2d(4 * outputs, outputs, 1))
        self.skip = nn.Identity() if inputs == outputs else glorot(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, inputs, H, W) -> (B, outputs, H, W)."""
        h = self.norm(self.depthwise(x), self.modulation(embeddings.global_embedding))
        h = self.out(self.dropout(nnf.gelu(self.expand(h))))
        return _scaled(self.skip(x) + h, self.scale)


class Downsample(nn.Module):
    """Halve the resolution: by a strided convolution, or by 2x2 average pooling.

    The convolution is padded on the right and below, as TensorFlow's SAME, or on all sides.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.around = config.padding == "around"
        padding = 1 if self.around else 0
        self.conv = (
            glorot(nn.Conv2d(channels, channels, 3, stride=2, padding=padding))
            if config.resample == "conv"
            else None
        )

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> (B, C, H/2, W/2)."""
        if self.conv is None:
            return _resample(x, "down")
        out: Tensor = self.conv(x if self.around else nnf.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours; with `resample` "conv", then a convolution."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        convolved = config.resample == "conv"
        self.conv = glorot(nn.Conv2d(channels, channels, 3, padding=1)) if convolved else None

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, C, H, W) -> (B, C, 2H, 2W)."""
        out = _resample(x, "up")
        return out if self.conv is None else self.conv(out)


def _modulation(channels: int, config: NetworkConfig) -> nn.Linear:
    """The projection of the embedding to a shift, or a scale and a shift, of each channel."""
    outputs = 2 * channels if config.modulation == "scale-shift" else channels
    return glorot(nn.Linear(config.embedding_dim, outputs))


def _resample(x: Tensor, direction: str) -> Tensor:
    """2x2 average pooling ("down"), or nearest-neighbour upsampling by 2 ("up")."""
    if direction == "down":
        return nnf.avg_pool2d(x, 2)
    return nnf.interpolate(x, scale_factor=2.0, mode="nearest")


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else scale * x
