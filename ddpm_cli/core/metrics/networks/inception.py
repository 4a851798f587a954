"""The Inception network by which FID and IS are defined, and the loading of its weights.

Inception-v3 (Szegedy et al. 2015) as released for TensorFlow on 2015-12-05, whose weights
pytorch-fid published for PyTorch. It differs from torchvision's in four places: 1008 logits,
average pools that do not count their padding, a max pool in the last block's pool branch, and no
auxiliary head. The state dict keys are the published ones, which are torchvision's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import inception as blocks

from ddpm_cli.core.metrics.networks import weights_file
from ddpm_cli.core.metrics.networks.network import Features
from ddpm_cli.core.runtime.downloads import RemoteFile

PUBLISHED = RemoteFile(
    description="the FID Inception weights",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
    option="--weights FILE",
    instead="ddpm train-classifier --data IMAGES, then --features FILE",
)
INPUT_SIZE = 299  # height and width in pixels
FEATURES = 2048
CLASSES = 1008
SPATIAL_CHANNELS = 7  # of the 17x17 places of a layer
SPATIAL = SPATIAL_CHANNELS * 17 * 17  # dimension of Features.spatial


class FidInception(nn.Module):
    """Inception-v3 with the FID changes: (N, 3, 299, 299) of about [-1, 1] -> Features."""

    width = FEATURES  # dimension of Features.pool
    classes = CLASSES  # dimension of Features.logits

    def __init__(self) -> None:
        super().__init__()
        conv = blocks.BasicConv2d  # convolution without bias, batch norm (eps .001), ReLU
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3)
        self.Mixed_5b = InceptionA(192, pool_features=32)
        self.Mixed_5c = InceptionA(256, pool_features=64)
        self.Mixed_5d = InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = InceptionC(768, channels_7x7=128)
        self.Mixed_6c = InceptionC(768, channels_7x7=160)
        self.Mixed_6d = InceptionC(768, channels_7x7=160)
        self.Mixed_6e = InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = LastInceptionE(2048)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor, *, spatial: bool = False) -> Features:
        """Run the network on (N, 3, 299, 299): "pool3", and logits without bias.

        spatial: also those of ADM's evaluator, the first 7 channels of the node mixed_6/conv of the
        2015 graph, which is the output of Mixed_6d's 1x1 branch after its ReLU, the first of those
        that the block concatenates. In that graph's order: channels last.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)  # 64 x 73 x 73
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)  # 192 x 35 x 35
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # 288 x 35 x 35
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  # 768 x 17 x 17
        x = self.Mixed_6d(x)
        places = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1) if spatial else None
        x = self.Mixed_6e(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # 2048 x 8 x 8
        pool = x.mean(dim=(2, 3))
        return Features(pool, pool @ self.fc.weight.T, places)


class InceptionA(blocks.InceptionA):  # type: ignore[misc]
    """Torchvision's block, with an average pool that does not count the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average_pool(x)),
        ]


class InceptionC(blocks.InceptionC):  # type: ignore[misc]
    """Torchvision's block, with an average pool that does not count the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
        double = self.branch7x7dbl_4(self.branch7x7dbl_3(double))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(double),
            self.branch_pool(_average_pool(x)),
        ]


class InceptionE(blocks.InceptionE):  # type: ignore[misc]
    """Torchvision's block, with an average pool that does not count the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self._pool(x)),
        ]

    def _pool(self, x: Tensor) -> Tensor:
        return _average_pool(x)


class LastInceptionE(InceptionE):
    """Mixed_7c, with the max pool of the 2015 graph where the paper has an average pool."""

    def _pool(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)


def _average_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def load_inception(path: Path, device: torch.device, option: str = "--weights") -> FidInception:
    """Load the network for inference, on a device: batch norms folded, channels last.

    Raises DdpmError where the file is of another network.
    """
    with torch.device("meta"):  # no initial weights only to be overwritten
        network = FidInception()
    state_dict = weights_file.read(path, option, PUBLISHED)
    counts = "num_batches_tracked"  # of training: the file may lack them
    needed = {
        key: value
        for key, value in network.state_dict().items()
        if not key.endswith(counts) or key in state_dict
    }
    weights_file.check(state_dict, needed, path, "the FID Inception network", PUBLISHED)
    floats = {key: tensor.float() for key, tensor in state_dict.items()}
    network.load_state_dict(floats, assign=True)
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, blocks.BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
    network.to(memory_format=torch.channels_last)
    return network.to(device)
