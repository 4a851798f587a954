"""The tensors that a forward pass of training keeps, counted without computing them."""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as nnf
from torch.overrides import TorchFunctionMode

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.models import group_norm
from ddpm_cli.core.models.embeddings import AUGMENTATIONS
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.group_norm import why_unfused
from ddpm_cli.core.runtime import devices


@lru_cache(maxsize=32)
def saved_bytes(
    network: NetworkConfig,
    images: int,
    precision: torch.dtype,
    device: torch.device,
    text_length: int,
    checkpointed: bool = False,
) -> int:
    """Bytes of the tensors, but for weights, that a forward pass keeps for the backward pass.

    device: which would compute it. Nothing is computed: the tensors are torch's fake ones, which
    have a shape and no content. checkpointed: only inputs of layers are kept, and what the largest
    layer keeps when it is computed again.
    """
    every, largest = _kept(network, images, precision, device, text_length, checkpointed=False)
    if not checkpointed:
        return every
    inputs, _ = _kept(network, images, precision, device, text_length, checkpointed=True)
    return inputs + largest


def _kept(
    network: NetworkConfig,
    images: int,
    precision: torch.dtype,
    device: torch.device,
    text_length: int,
    *,
    checkpointed: bool,
) -> tuple[int, int]:
    """Bytes that are kept in all, and by the layer that keeps most."""
    kept: dict[int, Tensor] = {}  # one tensor of each storage

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            kept.setdefault(storage, tensor)
        return tensor

    cpu = torch.device("cpu")
    with FakeTensorMode():
        net = build(network)
        for parameter in net.parameters():
            if parameter.ndim == 4:  # as TrainingState.initial: net.to() cannot, of fake ones
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
        net.checkpointed = checkpointed
        before = [0]  # bytes kept when each layer began
        for layer in net.layers:
            layer.register_forward_pre_hook(lambda *_: before.append(_bytes(kept)))
        x = torch.zeros(images, network.channels, *network.size)
        condition = _condition(network, images, text_length)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            Kernels(device.type, fused=device.type == "cuda" and not why_unfused(device)),
            devices.autocast(cpu, precision),
        ):
            output = net(x, x[:, 0, 0, 0], condition)
        del output
        in_all = _bytes(kept)
    largest = max(after - start for start, after in itertools.pairwise([*before, in_all]))
    return in_all, largest


def _bytes(kept: dict[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class Kernels(TorchFunctionMode):
    """Choose the kernels that a type of device chooses for tensors with a content.

    Attention never holds all pairs of pixels, where its kernel takes such heads. Group
    normalisation on CUDA is ours if it is `fused`; other normalisations are computed in float32 by
    autocast on a GPU, but not on a CPU.
    """

    def __init__(self, device: str, *, fused: bool) -> None:
        super().__init__()
        self._device, self._fused = device, fused

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if function is group_norm.eager:
            if self._device == "cuda" and self._fused:
                return group_norm.Fused.apply(*args)
            with self:
                return group_norm.unfused(*args)
        if self._device != "cpu" and function in (nnf.group_norm, nnf.layer_norm):
            args = (args[0].float(), *args[1:])
        if function is nnf.scaled_dot_product_attention and args[0].shape[-1] == args[2].shape[-1]:
            mask = kwargs.get("attn_mask")
            bias = None if mask is None else torch.zeros(mask.shape, dtype=args[0].dtype)
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args, 0.0, False, attn_mask=bias)[0]
        return function(*args, **kwargs)


def _condition(network: NetworkConfig, images: int, text_length: int) -> Condition:
    """The condition of so many images, as large as training makes it; of the null class."""
    augmented = torch.zeros(images, AUGMENTATIONS) if network.augmented else None
    text = None
    if network.text is not None and network.text.encoder == "bytes":
        text = torch.zeros(images, max(1, text_length), dtype=torch.int64)
    elif network.text is not None:
        text = torch.zeros(images, max(1, text_length), network.text.width)
    given = None
    if network.given_channels:
        given = torch.zeros(images, network.given_channels, *network.size)
    return Condition(text=text, augmented=augmented, given=given)
