"""A network part by part: resolution, width, blocks, parameters and operations of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.unet import ATTENTION, StageBlocks
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import Network, parameter_count
from ddpm_cli.core.models.transformer import Transformer
from ddpm_cli.core.models.unet import Stage, UNet

EMBEDDING, INPUT, ENCODER, MIDDLE, DECODER, OUTPUT = (
    "embedding",
    "input",
    "encoder",
    "middle",
    "decoder",
    "output",
)
BLOCKS, IN_CONTEXT = "blocks", "blocks in context"  # of a transformer


@dataclass(frozen=True)
class Part:
    """A part of the network: one level of a U-Net's encoder or decoder, or what is around them.

    Of a transformer its blocks, and apart from those the ones with context tokens.
    """

    name: str  # embedding, input, encoder, middle, decoder, blocks, blocks in context or output
    level: int  # from 0, the finest; of a transformer and of the embedding 0
    size: tuple[int, int] | None  # height and width of its feature maps; None: it has none
    width: int  # channels; of the embedding its width
    stages: tuple[StageBlocks, ...]  # its blocks in order; resampling is "down" and "up"
    heads: int  # of its attention; 0 without
    parameters: int
    flops: int  # of one image

    @property
    def blocks(self) -> str:
        """The blocks as a recipe writes them."""
        return ",".join(kind for stage in self.stages for kind in stage)


@dataclass(frozen=True)
class Anatomy:
    """The parts of a network in the order in which an image passes them, the embedding first."""

    parts: tuple[Part, ...]
    image: tuple[int, int, int]  # channels, height and width
    parameters: int
    flops: int  # of the forward pass of one image: two for a multiplication and an addition

    def of(self, name: str) -> list[Part]:
        """The parts of this name."""
        return [part for part in self.parts if part.name == name]

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        parts = [asdict(part) | {"stages": list(map(list, part.stages))} for part in self.parts]
        return {
            "parameters": self.parameters,
            "flops": self.flops,
            "image": list(self.image),
            "parts": parts,
        }


def anatomy(config: NetworkConfig) -> Anatomy:
    """The parts of a network, built without memory for its weights.

    Operations are those of convolutions and matrix products, as torch counts them, in the forward
    pass of one image with its condition; normalisation and activations are not counted.
    """
    with torch.device("meta"):
        network = build(config).eval()
    flops = _flops(network)
    parts = tuple(_parts(network, flops))
    image = (config.channels, *config.size)
    return Anatomy(parts, image, parameter_count(network), flops["Global"])


def _flops(network: Network) -> dict[str, int]:
    """Operations of the network and of its modules by name, "Global" for all."""
    config = network.config
    with torch.device("meta"):
        x, c_noise = torch.empty(1, config.channels, *config.size), torch.empty(1)
        condition = _condition(config)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(x, c_noise, condition)
    counts = counter.get_flop_counts()
    named = {name: sum(by_operator.values()) for name, by_operator in counts.items()}
    prefix = f"{type(network).__name__}."
    return {"Global": 0} | {name.removeprefix(prefix): count for name, count in named.items()}


def _condition(config: NetworkConfig) -> Condition:
    """A condition of everything that the network takes, of one image; captions are of full length.

    Its tensors are on the device that is the default.
    """
    labels: Tensor | None = None
    if config.classes:
        shape = (1, len(config.classes)) if config.multi_label else (1,)
        labels = torch.empty(*shape, dtype=torch.int64)
    text: Tensor | None = None
    if config.text is not None:
        words = (1, config.text.length)
        of_bytes = config.text.encoder == "bytes"
        text = torch.empty(
            words if of_bytes else (*words, config.text.width),
            dtype=torch.int64 if of_bytes else torch.float32,
        )
    given = torch.empty(1, config.given_channels, *config.size) if config.given_channels else None
    return Condition(labels, text, given=given)


def _parts(network: Network, flops: dict[str, int]) -> Iterator[Part]:
    config = network.config
    rows, columns = _patches(config)

    def part(
        name: str, level: int, width: int, stages: Sequence[StageBlocks], modules: Sequence[str]
    ) -> Part:
        kinds = {kind for stage in stages for kind in stage}
        size = None if name == EMBEDDING else (rows >> level, columns >> level)
        heads = config.heads_of(width) if kinds & set(ATTENTION) else 0
        parameters = sum(_parameters(network, module) for module in modules)
        operations = sum(flops.get(module, 0) for module in modules)
        return Part(name, level, size, width, tuple(stages), heads, parameters, operations)

    yield part(EMBEDDING, 0, config.embedding_dim, (), ["embedding"])
    if isinstance(network, Transformer):
        yield from _of_transformer(network, part)
    elif isinstance(network, UNet):
        yield from _of_unet(network, part)
    else:
        raise TypeError(f"the parts of a {type(network).__name__} are not known")


def _of_unet(network: UNet, part: Callable[..., Part]) -> Iterator[Part]:
    config = network.config
    yield part(INPUT, 0, config.width, (), ["inputs"])
    levels, last = config.levels, len(config.levels) - 1
    down, up = _by_level(network.down, "down"), _by_level(network.up, "up")
    for depth, level in enumerate(levels):
        stages = [("down",)] * bool(depth) + list(level.down)
        yield part(ENCODER, depth, level.width, stages, down[depth])
    middle = [f"middle.{i}" for i in range(len(network.middle))]
    yield part(MIDDLE, last, levels[-1].width, config.middle_stages, middle)
    for depth, level in reversed(list(enumerate(levels))):
        stages = [("up",)] * (depth < last) + list(level.up)
        yield part(DECODER, depth, level.width, stages, up[last - depth])
    yield part(OUTPUT, 0, levels[0].width, (), ["norm", "outputs"])


def _of_transformer(network: Transformer, part: Callable[..., Part]) -> Iterator[Part]:
    config = network.config
    block = ("attn", "mlp") if config.text is None else ("attn", "text-attn", "mlp")
    blocks = [f"blocks.{i}" for i in range(config.depth)]
    apart = config.depth if network.context is None else config.context_from
    yield part(INPUT, 0, config.width, (), ["inputs", "widen", "context"])
    for name, those in ((BLOCKS, blocks[:apart]), (IN_CONTEXT, blocks[apart:])):
        if those:
            yield part(name, 0, config.width, [block] * len(those), those)
    yield part(OUTPUT, 0, config.width, (), ["norm", "modulation", "outputs"])


def _parameters(network: Network, name: str) -> int:
    """Of a module, or a parameter, of that name; 0 of one that the network is without."""
    found = getattr(network, name) if "." not in name else network.get_submodule(name)
    if isinstance(found, nn.Parameter):
        return found.numel()
    return 0 if found is None else parameter_count(found)


def _by_level(layers: nn.ModuleList, name: str) -> list[list[str]]:
    """The names of layers by the level at whose resolution their outputs are, in order."""
    found: list[list[str]] = [[]]
    for i, layer in enumerate(layers):
        if not isinstance(layer, Stage):  # resampling, which begins a level
            found.append([])
        found[-1].append(f"{name}.{i}")
    return found


def _patches(config: NetworkConfig) -> tuple[int, int]:
    """Rows and columns of patches in the padded image: the finest level's feature maps."""
    padded = [-(-side // config.size_multiple) * config.size_multiple for side in config.size]
    return padded[0] // config.patch, padded[1] // config.patch
