"""Preprocessing of uint8 images for the feature network: named variants of resize and scaling.

Scores under different variants differ by tenths on small images, so a score without the name of its
protocol cannot be compared with anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ddpm_cli.core.config import choices
from ddpm_cli.core.config.fields import one_of
from ddpm_cli.core.data import resizing
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.networks import clip, dinov2
from ddpm_cli.core.metrics.networks.inception import INPUT_SIZE
from ddpm_cli.core.runtime import devices


@dataclass(frozen=True)
class Protocol:
    """A named preprocessing of images."""

    name: str
    resize: str  # described, for the line printed with a score
    transform: Callable[[Tensor], Tensor]  # float32 (N, channels, H, W) 0..255 -> network input
    channels: int = 3  # 3: grey is replicated; 1: RGB becomes luma (ITU-R BT.601)
    on_bytes: Callable[[Tensor], Tensor] | None = None  # uint8 -> uint8 beforehand, on the CPU

    def prepare(self, images: Tensor, device: torch.device | None = None) -> Tensor:
        """From uint8 (N, 1 or 3, H, W) to the network's input, float32 (N, channels, H', W').

        device: where the input is wanted; None: where the images are.
        """
        device = device or _checked(images).device
        if self.on_bytes is not None:
            images = self.on_bytes(_checked(images).cpu())
        x = devices.to_device(_checked(images), device).float()
        if self.channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        return self.transform(x.expand(-1, self.channels, -1, -1))


LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue, as in PIL


def _checked(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:  # FID of values not rounded to 8 bits is another quantity
        raise TypeError(f"images must be uint8, not {images.dtype}: use pixels.to_uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise TypeError(f"images must be (N, 1 or 3, H, W), not {tuple(images.shape)}")
    return images


def _half_pixel(x: Tensor) -> Tensor:
    """Resize with half-pixel centres, no antialiasing; scale to [-1, 1] by 2 (x / 255) - 1."""
    x = functional.interpolate(x / 255, (INPUT_SIZE,) * 2, mode="bilinear", align_corners=False)
    return 2 * x - 1


def _tensorflow_1(x: Tensor) -> Tensor:
    """Resize as TensorFlow 1; scale by (x - 128) / 128."""
    return (_resized_as_tensorflow_1(x, INPUT_SIZE) - 128) / 128


def _resized_as_tensorflow_1(x: Tensor, size: int) -> Tensor:
    """Resize to size x size as TensorFlow 1's resize_bilinear, bit for bit on a CPU.

    Output pixel i samples the input at i * in / out, without half-pixel centres. The order of
    roundings (columns first, then rows, low + (high - low) * d) is TensorFlow's.
    """
    low, high, weight = _taps(x.shape[3], size, x.device)
    left = x[..., low]
    x = left + (x[..., high] - left) * weight
    low, high, weight = _taps(x.shape[2], size, x.device)
    top = x[:, :, low]
    return top + (x[:, :, high] - top) * weight[:, None]


def _clean(x: Tensor) -> Tensor:
    """Resize as PIL's BICUBIC on each channel of floats (Parmar et al. 2022), clip to 0..255.

    PIL widens the kernel (a = -1/2) when downsampling, which is antialiasing, and sums in float64.
    This reproduces it on any device to 1e-4 of a grey level. Scale by (x - 128) / 128.
    """
    wide = x if x.device.type == "mps" else x.double()  # Metal has no float64
    wide = functional.interpolate(
        wide, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=False, antialias=True
    )
    return (wide.float().clamp(0, 255) - 128) / 128


def _taps(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input indices below and above each output pixel, and the weight of the upper, (after,)."""
    output = torch.arange(after, device=device, dtype=torch.float32)
    # the ratio is rounded to float32 first, as in TensorFlow
    position = output * torch.tensor(before / after, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(before - 1), position - low


def _pil_bicubic(images: Tensor, size: int, *, crop: bool = False) -> Tensor:
    """Resize uint8 images on the CPU by PIL, rounded to bytes."""
    return torch.from_numpy(resizing.bicubic(images.numpy(), size, crop=crop))


def _normalised(x: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / deviation, of each channel."""
    return (x / 255 - x.new_tensor(mean)[:, None, None]) / x.new_tensor(deviation)[:, None, None]


_imagenet = partial(_normalised, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
_clip = partial(
    _normalised,
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
)


def _edm2(x: Tensor) -> Tensor:
    """Resize as EDM2's calculate_metrics: what the kernel overshoots is not clipped."""
    size = (DINOV2_SIZE, DINOV2_SIZE)
    return _imagenet(functional.interpolate(x, size, mode="bicubic", antialias=True))


def _dinov2_tensorflow_1(x: Tensor) -> Tensor:
    """Resize as torch-fidelity's feature extractor of DINOv2."""
    return _imagenet(_resized_as_tensorflow_1(x, DINOV2_SIZE))


PYTORCH_FID = Protocol(
    choices.PYTORCH_FID,
    f"bilinear to {INPUT_SIZE}, half-pixel centres, no antialiasing",
    _half_pixel,
)
TORCH_FIDELITY = Protocol(
    choices.TORCH_FIDELITY,
    f"bilinear to {INPUT_SIZE} as TensorFlow 1, no antialiasing",
    _tensorflow_1,
)
CLEAN_FID = Protocol(
    choices.CLEAN_FID, f"PIL bicubic to {INPUT_SIZE} on floats, antialiased, not rounded", _clean
)
DINOV2_SIZE, CLIP_SIZE = dinov2.SHAPE.image, clip.SHAPE.image
DGM_EVAL = Protocol(
    choices.DGM_EVAL,
    f"PIL bicubic to {DINOV2_SIZE}, antialiased, rounded to bytes",
    _imagenet,
    on_bytes=partial(_pil_bicubic, size=DINOV2_SIZE),
)
EDM2 = Protocol(
    choices.EDM2, f"bicubic to {DINOV2_SIZE} on floats, antialiased, not clipped", _edm2
)
DINOV2_TORCH_FIDELITY = Protocol(
    choices.TORCH_FIDELITY,
    f"bilinear to {DINOV2_SIZE} as TensorFlow 1, no antialiasing",
    _dinov2_tensorflow_1,
)
CMMD = Protocol(
    choices.CMMD,
    f"the middle square, PIL bicubic to {CLIP_SIZE}, antialiased, rounded to bytes",
    _clip,
    on_bytes=partial(_pil_bicubic, size=CLIP_SIZE, crop=True),
)
PROTOCOLS = {  # of each named network, the default first
    choices.INCEPTION: (PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID),
    choices.DINOV2_L: (DGM_EVAL, EDM2, DINOV2_TORCH_FIDELITY),
    choices.CLIP_L336: (CMMD,),
}


def protocol(name: str | None, network: str = choices.INCEPTION) -> Protocol:
    """Find a network's protocol by name, or its default. Raises UsageError for other names."""
    by_name = {candidate.name: candidate for candidate in PROTOCOLS[network]}
    if name is None:
        return PROTOCOLS[network][0]
    others = [other for other, names in choices.PROTOCOLS.items() if name in names]
    if name not in by_name and others:
        raise UsageError(
            f"--protocol {name} is of --features {' and '.join(others)}; of {network} choose one "
            f"of {', '.join(by_name)}"
        )
    one_of("--protocol", name, by_name)
    return by_name[name]


def local_protocol(size: tuple[int, int], channels: int) -> Protocol:
    """Protocol for a classifier of (height, width) pixels: [-1, 1] at that size."""

    def transform(x: Tensor) -> Tensor:
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        return x / 127.5 - 1

    resize = f"bilinear to {size[1]}x{size[0]}x{channels} where they differ, antialiased"
    return Protocol(choices.LOCAL_PROTOCOL, resize, transform, channels)
