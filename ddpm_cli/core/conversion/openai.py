"""U-Nets of improved-diffusion and guided-diffusion -> NetworkConfig, from the state dict alone."""

from __future__ import annotations

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.conversion.layout import Tensors
from ddpm_cli.core.conversion.reference import AttentionHeads
from ddpm_cli.core.errors import DdpmError, UsageError

FIRST = "input_blocks.0.0.weight"  # which identifies their state dicts
_LAYERS = {"in_layers.2": "res", "qkv": "attn", "op": "downsample", "conv": "upsample"}

Sequence = list[str]  # kinds of the consecutive layers of one of their blocks
Level = list[Sequence]


def to_network_config(
    state: Tensors, heads: AttentionHeads, size: tuple[int, int], null_class: int | None
) -> NetworkConfig:
    """The config of the network with these tensors. Raises DdpmError for other networks."""
    for name in (
        FIRST,
        "out.2.weight",
        "time_embed.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
    ):
        if name not in state:
            raise DdpmError(f"{name} is missing: not a U-Net of improved- or guided-diffusion")
    width, channels = state[FIRST].shape[:2]
    outputs = state["out.2.weight"].shape[0]
    encoded = state["time_embed.0.weight"].shape[1]
    if channels == 6:
        raise DdpmError(
            f"it takes 6 channels and gives {outputs}: a super-resolution network, whose input is "
            "a noisy and a low-resolution image; ddpm's networks take the noisy image alone"
        )
    if outputs not in (channels, 2 * channels):
        raise DdpmError(
            f"it takes {channels} channels and gives {outputs}: not a pixel-space diffusion model"
        )
    if encoded != width:
        raise DdpmError(
            f"its timestep embedding has {encoded} dimensions and its first convolution {width} "
            "channels; in ours both are equal"
        )
    _check_heads(state, heads)
    down, up, resample = _levels(state)
    rows = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0
    conv, embedding = (
        state[f"input_blocks.1.0.{name}.weight"] for name in ("in_layers.2", "emb_layers.1")
    )
    time_width = state["time_embed.0.weight"].shape[0]
    return NetworkConfig(
        size=size,
        channels=channels,
        classes=tuple(str(i) for i in range(rows) if i != null_class),
        null_class=null_class is not None,
        width=width,
        multipliers=_multipliers(state, down, width),
        blocks=tuple(map(_flat, down)),
        up_blocks=() if up == [[*level, level[-1]] for level in down] else tuple(map(_flat, up)),
        middle=_flat([_sequence(state, "middle_block")]),
        heads=heads.number or 1,
        head_width=heads.width,
        modulation="add" if embedding.shape[0] == conv.shape[0] else "scale-shift",
        embedding_width=None if time_width == 4 * width else time_width,
        encoding="cos-sin",
        resample=resample,
        padding="around" if resample == "conv" else "after",
        groups=32,
        epsilon=1e-5,
        dropout=0.0,
        learned_variance=outputs != channels,
    )


def _check_heads(state: Tensors, heads: AttentionHeads) -> None:
    """Raise UsageError where the heads, which the file lacks, do not divide its channels."""
    option = f"--head-width {heads.width}" if heads.number is None else f"--heads {heads.number}"
    for name, tensor in state.items():
        channels = tensor.shape[0] // 3
        if name.endswith(".qkv.weight") and channels % (heads.number or heads.width or 1):
            raise UsageError(
                f"{option} does not divide the {channels} channels of {name}: it is not that of "
                "its training (num_heads, num_head_channels)"
            )


def split_interleaved_qkv(state: Tensors, heads: AttentionHeads) -> Tensors:
    """Reorder qkv from head by head to all q, then all k, then all v, as in our network."""
    if not heads.legacy:
        return state
    changed = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            count = heads.over(tensor.shape[0] // 3)
            changed[name] = (
                tensor.reshape(count, 3, -1, *tensor.shape[1:]).transpose(0, 1).flatten(0, 2)
            )
    return state | changed


def _levels(state: Tensors) -> tuple[list[Level], list[Level], str]:
    """The stages of every level, down and up, finest first, and the kind of resampling."""
    inputs, outputs = _sequences(state, "input_blocks"), _sequences(state, "output_blocks")
    if len(inputs) != len(outputs):
        raise DdpmError(
            f"it has {len(inputs)} input_blocks and {len(outputs)} output_blocks; such a U-Net has "
            "as many of both"
        )
    down: list[Level] = [[]]
    kinds = set()
    for sequence, mirrored in zip(inputs[1:], outputs[-2::-1], strict=True):
        if sequence in (["downsample"], []) or (sequence == ["res"] and "res" in mirrored[1:]):
            kinds.add({"downsample": "conv", "res": "res"}[sequence[0]] if sequence else "pool")
            down.append([])
        else:
            down[-1].append(sequence)
    if len(kinds) > 1:
        raise DdpmError(f"its levels resample in several ways, by {' and '.join(sorted(kinds))}")
    stages = [["res", "attn"] if "attn" in sequence else ["res"] for sequence in outputs]
    finest_first = iter(reversed(stages))
    up = [[next(finest_first) for _ in range(len(level) + 1)][::-1] for level in down]
    return down, up, next(iter(kinds), "conv")


def _sequences(state: Tensors, path: str) -> list[Sequence]:
    """The blocks of a path in order; empty where a block has no tensors (pooling)."""
    numbers = [int(name.split(".")[1]) for name in state if name.startswith(f"{path}.")]
    return [_sequence(state, f"{path}.{i}") for i in range(max(numbers, default=-1) + 1)]


def _sequence(state: Tensors, prefix: str) -> Sequence:
    return [
        kind
        for number in range(3)
        for layer, kind in _LAYERS.items()
        if f"{prefix}.{number}.{layer}.weight" in state
    ]


def _multipliers(state: Tensors, down: list[Level], width: int) -> tuple[int, ...]:
    multipliers, number = [], 0
    for level in down:
        multipliers.append(
            state[f"input_blocks.{number + 1}.0.in_layers.2.weight"].shape[0] // width
        )
        number += len(level) + 1
    return tuple(multipliers)


def _flat(level: Level) -> str:
    return ",".join(kind for sequence in level for kind in sequence)
