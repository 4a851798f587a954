"""The U-Net of improved-diffusion and guided-diffusion, as a recipe read off its tensors."""

from __future__ import annotations

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.conversion.layout import Tensors
from ddpm_cli.core.conversion.reference import Heads
from ddpm_cli.core.errors import DdpmError

FIRST = "input_blocks.0.0.weight"  # by which their state dicts are known
_LAYERS = {"in_layers.2": "res", "qkv": "attn", "op": "halve", "conv": "double"}

Sequence = list[str]  # kinds of the layers that follow each other in one of their blocks
Level = list[Sequence]


def recipe(
    state: Tensors, heads: Heads, size: tuple[int, int], null_class: int | None
) -> NetworkConfig:
    """The network that has these tensors. Raises DdpmError for what is no such U-Net."""
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
            f"it takes 6 channels and gives {outputs}: a super-resolution network, which is shown "
            "a small picture beside the noisy one; ddpm's networks see the noisy one alone"
        )
    if outputs not in (channels, 2 * channels):
        raise DdpmError(f"it takes {channels} channels and gives {outputs}: no plain diffusion")
    if encoded != width:
        raise DdpmError(
            f"it encodes the noise level in {encoded} numbers and begins with {width} channels; "
            "ours encode it in as many as that"
        )
    down, up, resample = _levels(state)
    rows = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0
    first, told = (state[f"input_blocks.1.0.{n}.weight"] for n in ("in_layers.2", "emb_layers.1"))
    time_width = state["time_embed.0.weight"].shape[0]
    return NetworkConfig(
        size=size,
        channels=channels,
        classes=tuple(str(i) for i in range(rows) if i != null_class),
        null_class=null_class is not None,
        width=width,
        multipliers=_multipliers(state, down, width),
        blocks=tuple(map(_words, down)),
        up_blocks=() if up == [[*level, level[-1]] for level in down] else tuple(map(_words, up)),
        middle=_words([_sequence(state, "middle_block")]),
        heads=heads.number or 1,
        head_width=heads.width,
        modulation="add" if told.shape[0] == first.shape[0] else "scale-shift",
        embedding_width=None if time_width == 4 * width else time_width,
        encoding="cos-sin",
        resample=resample,
        padding="around" if resample == "conv" else "after",
        groups=32,
        epsilon=1e-5,
        dropout=0.0,
        learned_variance=outputs != channels,
    )


def split_interleaved_qkv(state: Tensors, heads: Heads) -> Tensors:
    """The same with all q of the attention first, then all k, then all v, as ours has them."""
    if not heads.legacy:
        return state
    changed = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            count = heads.of(tensor.shape[0] // 3)
            changed[name] = (
                tensor.reshape(count, 3, -1, *tensor.shape[1:]).transpose(0, 1).flatten(0, 2)
            )
    return state | changed


def _levels(state: Tensors) -> tuple[list[Level], list[Level], str]:
    """The stages of every level on the way down and up, finest first, and how levels are parted."""
    inputs, outputs = _sequences(state, "input_blocks"), _sequences(state, "output_blocks")
    if len(inputs) != len(outputs):
        raise DdpmError(
            f"it has {len(inputs)} input_blocks and {len(outputs)} output_blocks; such a U-Net has "
            "as many of both"
        )
    down: list[Level] = [[]]
    kinds = set()
    for sequence, back in zip(inputs[1:], outputs[-2::-1], strict=True):
        if sequence in (["halve"], []) or (sequence == ["res"] and "res" in back[1:]):
            kinds.add({"halve": "conv", "res": "res"}[sequence[0]] if sequence else "pool")
            down.append([])
        else:
            down[-1].append(sequence)
    if len(kinds) > 1:
        raise DdpmError(f"its levels are parted in several ways, by {' and '.join(sorted(kinds))}")
    ways = iter(reversed([["res", "attn"] if "attn" in back else ["res"] for back in outputs]))
    up = [[next(ways) for _ in range(len(level) + 1)][::-1] for level in down]
    return down, up, next(iter(kinds), "conv")


def _sequences(state: Tensors, side: str) -> list[Sequence]:
    """Its blocks on one side in order; an empty one where a block has no tensors (pooling)."""
    numbers = [int(name.split(".")[1]) for name in state if name.startswith(f"{side}.")]
    return [_sequence(state, f"{side}.{i}") for i in range(max(numbers, default=-1) + 1)]


def _sequence(state: Tensors, place: str) -> Sequence:
    return [
        kind
        for number in range(3)
        for layer, kind in _LAYERS.items()
        if f"{place}.{number}.{layer}.weight" in state
    ]


def _multipliers(state: Tensors, down: list[Level], width: int) -> tuple[int, ...]:
    found, number = [], 0
    for level in down:
        found.append(state[f"input_blocks.{number + 1}.0.in_layers.2.weight"].shape[0] // width)
        number += len(level) + 1
    return tuple(found)


def _words(level: Level) -> str:
    return ",".join(kind for sequence in level for kind in sequence)
