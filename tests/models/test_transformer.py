"""The transformer: against references written here, published sizes, and what it must depend on."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as nnf
from torch.utils.flop_counter import FlopCounterMode

from ddpm_cli.core.conditioning.condition import UNCONDITIONAL, Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.models import positions
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.families import build
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.transformer import Transformer
from ddpm_cli.core.models.transformer_blocks import TransformerBlock
from ddpm_cli.core.runtime import devices
from tests.support.networks import randomised

JIT = NetworkConfig(
    family="transformer", size=(8, 8), classes=("a", "b", "c"), width=16, heads=2, patch=2,
    depth=3, bottleneck=4, context_tokens=2, dropout=0.0, encoding_width=8,
)  # fmt: skip
DIT = replace(
    JIT, norm="layer", mlp="gelu", positions="sin-cos", qk_norm=False, bottleneck=None,
    context_tokens=0, learned_variance=True,
)  # fmt: skip
TEXT = TextConfig(length=5, width=8, layers=1, heads=2)
EVERYTHING = replace(
    JIT, text=TEXT, augmented=True, given_channels=1, given_noise=True, learned_variance=True
)
THREE = {"JiT": JIT, "DiT": DIT, "everything": EVERYTHING}
every_kind = pytest.mark.parametrize("kind", THREE)


def condition_of(config: NetworkConfig, count: int, size: tuple[int, int]) -> Condition:
    """Of everything that the network takes."""
    labels = torch.arange(count) % len(config.classes) if config.classes else None
    return Condition(
        labels,
        None if config.text is None else 98 + torch.arange(5).expand(count, 5),
        augmented=torch.rand(count, 9) if config.augmented else None,
        given=torch.randn(count, 1, *size) if config.given_channels else None,
        given_noise=torch.rand(count) if config.given_noise else None,
    )


def output(config: NetworkConfig, size: tuple[int, int] = (8, 8)) -> Tensor:
    torch.manual_seed(2)
    network = randomised(build(config), std=0.2).float().eval()
    x, condition = torch.randn(2, config.channels, *size), condition_of(config, 2, size)
    with torch.no_grad():
        found: Tensor = network(x, torch.tensor([3.0, 700.0]), condition)
    return found


CLASSES = tuple(f"c{i}" for i in range(1000))
# Depth, width, heads and bottleneck, and the parameters in millions (Li & He 2025, table 9; Peebles
# & Xie 2023, table 1). DiT's are of latents of 32x32x4 in patches of 2, with learned variance.
PUBLISHED: dict[str, tuple[int, int, int, int | None, int]] = {
    "JiT-B/16": (12, 768, 12, 128, 131),
    "JiT-L/16": (24, 1024, 16, 128, 459),
    "JiT-H/16": (32, 1280, 16, 256, 953),
    "DiT-S/2": (12, 384, 6, None, 33),
    "DiT-B/2": (12, 768, 12, None, 130),
    "DiT-L/2": (24, 1024, 16, None, 458),
    "DiT-XL/2": (28, 1152, 16, None, 675),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    """With the null class, and with fixed positions, which both papers' code counts."""
    depth, width, heads, bottleneck, millions = PUBLISHED[name]
    shape = {"depth": depth, "width": width, "heads": heads, "bottleneck": bottleneck}
    shape |= {"classes": CLASSES, "embedding_width": None, "encoding_width": 256}
    if name.startswith("JiT"):
        config = replace(JIT, **shape, size=(256, 256), patch=16, context_tokens=32)
    else:
        config = replace(DIT, **shape, size=(32, 32), channels=4, patch=2)
    with torch.device("meta"):
        count = parameter_count(build(config)) + 256 * width  # positions of 16 x 16 patches
    assert abs(count / 1e6 - millions) < 1
    if name == "DiT-XL/2":
        assert count == 675_129_632  # as facebookresearch/DiT counts it


@pytest.mark.parametrize(
    ("name", "count"), [("jit-s/4-32", 32_519_088), ("dit-s/4-32", 32_521_824)]
)
def test_parameters_of_the_presets(name: str, count: int) -> None:
    """For ten classes."""
    network = replace(updated(RunConfig(), PRESETS[name].settings).network, classes=CLASSES[:10])
    with torch.device("meta"):
        assert parameter_count(build(network)) == count


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def test_a_block_is_its_formulas() -> None:
    """JiT's: complex rotations by row and column, attention pair by pair, SwiGLU, adaLN-Zero."""
    config = replace(JIT, embedding_width=6, context_tokens=0)
    block = randomised(TransformerBlock(config))
    rows, columns, beside, heads, head = 2, 3, 2, 2, 8
    h = torch.randn(2, beside + rows * columns, 16, dtype=torch.float64)
    embedding = torch.randn(2, 6, dtype=torch.float64)
    tensors = dict(block.named_parameters())

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    shift1, scale1, gate1, shift2, scale2, gate2 = linear("modulation", embedding)[:, None].chunk(
        6, dim=2
    )
    normed = rms(h, tensors["norm1.weight"]) * (1 + scale1) + shift1
    q, k, v = linear("attention.qkv", normed).chunk(3, dim=2)
    attended = torch.zeros_like(h)
    for i in range(heads):
        part = slice(head * i, head * (i + 1))
        turned = []
        for x, name in ((q, "q_norm"), (k, "k_norm")):
            x = rms(x[..., part], tensors[f"attention.{name}.weight"])
            pairs = torch.complex(x[..., :4], x[..., 4:])
            for token in range(rows * columns):
                row, column = divmod(token, columns)
                angles = [row * 1.0, row * 0.01, column * 1.0, column * 0.01]  # 10000^(-i / 2)
                turn = torch.polar(torch.ones(4).double(), torch.tensor(angles).double())
                pairs[:, beside + token] = pairs[:, beside + token] * turn
            turned.append(torch.cat([pairs.real, pairs.imag], dim=2))
        logits = turned[0] @ turned[1].transpose(1, 2) / head**0.5
        attended[..., part] = logits.softmax(dim=2) @ v[..., part]
    expected = h + gate1 * linear("attention.out", attended)
    normed = rms(expected, tensors["norm2.weight"]) * (1 + scale2) + shift2
    gate, value = linear("mlp.first", normed).chunk(2, dim=2)
    expected = expected + gate2 * linear("mlp.second", gate * gate.sigmoid() * value)
    turns = positions.rotations(rows, columns, head, torch.device("cpu"))
    found = block(h, Embeddings(embedding), turns.double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # the angles are float32


def test_rotated_products_depend_on_relative_positions_alone() -> None:
    rows, columns, head = 5, 6, 8
    turns = positions.rotations(rows, columns, head, torch.device("cpu")).double()
    q, k = torch.randn(2, 1, 1, 1, head, dtype=torch.float64).expand(2, 1, 1, 30, head)
    logits = positions.rotate(q, turns) @ positions.rotate(k, turns).transpose(2, 3)
    by_place = logits.reshape(rows, columns, rows, columns)
    torch.testing.assert_close(by_place[1:, :, 1:], by_place[:-1, :, :-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        by_place[:, 1:, :, 1:], by_place[:, :-1, :, :-1], rtol=1e-5, atol=1e-5
    )
    assert by_place.std() > 0.1


def test_fixed_positions_are_dits() -> None:
    """Half of the channels of the column, half of the row; frequencies 10000^(-i / (width / 4))."""
    found = positions.sin_cos(3, 4, 8, torch.device("cpu"))
    row, column = 2, 3
    angles = torch.tensor([column, column / 100, row, row / 100], dtype=torch.float32)
    sines, cosines = angles.sin().reshape(2, 2), angles.cos().reshape(2, 2)
    ours = found[row * 4 + column].reshape(2, 2, 2)  # half, cosines and sines, frequency
    torch.testing.assert_close(ours, torch.stack([cosines, sines], dim=1))


@every_kind
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (12, 6)])
def test_images_of_any_size_are_padded(kind: str, size: tuple[int, int]) -> None:
    config = THREE[kind]
    found = output(config, size)
    assert found.shape == (2, 3 * (1 + config.learned_variance), *size)
    assert found.isfinite().all()


def test_padding_is_of_zeros_and_cut_off() -> None:
    network = randomised(build(JIT), std=0.2).float().eval()
    x, c_noise = torch.randn(1, 3, 7, 5), torch.tensor([9.0])
    padded = nnf.pad(x, (0, 1, 0, 1))
    torch.testing.assert_close(network(x, c_noise), network(padded, c_noise)[..., :7, :5])


@pytest.mark.parametrize(
    "field", ["c_noise", "labels", "text", "augmented", "given", "given_noise"]
)
def test_every_condition_matters(field: str) -> None:
    network = randomised(build(EVERYTHING), std=0.2).float().eval()
    x, c_noise = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    condition = condition_of(EVERYTHING, 2, (8, 8))
    if field == "c_noise":
        other = network(x, c_noise + 50, condition)
    else:
        value = getattr(condition, field)
        changed = (value + 1) % 3 if field == "labels" else value + 1
        other = network(x, c_noise, condition._replace(**{field: changed}))
    assert (other - network(x, c_noise, condition)).abs().mean() > 1e-3


def test_several_labels_at_once() -> None:
    network = randomised(build(replace(JIT, multi_label=True)), std=0.2).float().eval()
    x, c_noise = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    one, both = torch.tensor([[1, 0, 0]] * 2), torch.tensor([[1, 1, 0]] * 2)
    found = [network(x, c_noise, Condition(labels)) for labels in (one, both, None)]
    assert (found[0] - found[1]).abs().mean() > 1e-3
    assert (found[0] - found[2]).abs().mean() > 1e-3


@every_kind
def test_it_starts_as_zero_and_a_step_later_every_parameter_learns(kind: str) -> None:
    torch.manual_seed(0)
    network, condition = build(THREE[kind]), condition_of(THREE[kind], 6, (8, 8))
    x, c_noise = torch.randn(6, 3, 8, 8), torch.linspace(1, 900, 6)
    assert network(x, c_noise, condition).abs().max() == 0
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):  # the output, its gate, the branches behind it, the caption's values
        network.zero_grad()
        found = network(x, c_noise, condition)
        (found - torch.randn(found.shape)).square().mean().backward()
        optimiser.step()
    still = [
        n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    # The null class and the null caption are not in this batch.
    assert [name for name in still if name != "embedding.text.null"] == []


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_blocks_give_the_same_gradients(dropout: float) -> None:
    network = randomised(build(replace(EVERYTHING, dropout=dropout)), std=0.2).float()
    x, condition = torch.randn(2, 3, 8, 8), condition_of(EVERYTHING, 2, (8, 8))

    def gradients() -> list[Tensor]:
        torch.manual_seed(3)
        loss = network(x, torch.tensor([1.0, 800.0]), condition).square().sum()
        return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))

    plain, network.checkpointed = gradients(), True
    for one, other in zip(plain, gradients(), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_positions_are_kept_but_not_in_files() -> None:
    """Those of the config's size; a copy has its own, and other sizes are counted anew."""
    network = build(JIT)
    assert isinstance(network, Transformer)
    assert not {"place", "rotations"} & network.state_dict().keys()
    copied = copy.deepcopy(network)
    assert copied.rotations is not network.rotations
    assert network.rotations is not None and network.rotations.shape == (2, 16, 4)
    assert network._tables(4, 4, torch.device("cpu"))[1] is network.rotations
    _, others = network._tables(2, 3, torch.device("cpu"))
    assert others is not None and others.shape == (2, 6, 4)
    with FakeTensorMode():
        assert isinstance(build(JIT).rotations, FakeTensor)


@every_kind
def test_bfloat16_is_close(kind: str) -> None:
    exact = output(THREE[kind])
    with devices.autocast(torch.device("cpu"), torch.bfloat16):
        half = output(THREE[kind])
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() < 0.03 * exact.norm()


def test_compiled_it_is_one_graph() -> None:
    network = randomised(build(replace(JIT, depth=1)), std=0.2).float()
    x, c_noise = torch.randn(2, 3, 7, 8), torch.tensor([1.0, 700.0])
    condition = condition_of(JIT, 2, (7, 8))
    plain = network(x, c_noise, condition)
    network.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(network(x, c_noise, condition), plain)


@pytest.mark.parametrize("kind", ["JiT", "DiT"])
def test_operations_are_those_that_torch_counts(kind: str) -> None:
    with torch.device("meta"):
        network = build(THREE[kind]).eval()
        x, labels = torch.empty(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(x, torch.empty(1), Condition(labels))
    assert network.forward_operations() == counter.get_total_flops()


def test_without_classes_there_are_no_context_tokens() -> None:
    network = build(replace(JIT, classes=()))
    assert "context" not in dict(network.named_parameters())
    assert network(torch.randn(1, 3, 8, 8), torch.zeros(1), UNCONDITIONAL).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"multipliers": (1, 2)}, "--multipliers is of the U-Net"),
        ({"attn_patch": 2}, "--attn-patch is of the U-Net"),
        ({"width": 18, "heads": 4}, "a token of 18 channels cannot be split into 4 heads"),
        ({"width": 12, "heads": 2}, "a head of 6 channels cannot be rotated"),
        ({"encoding_width": 9}, "encoding_width 9 should be even"),
        ({"embedding_width": 8}, "leave it out, or give --context-tokens 0"),
        ({"family": "unet"}, "is of a transformer, and the network is the U-Net"),
    ],
)
def test_what_makes_no_transformer_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        replace(JIT, **change)
    assert words in str(refused.value)
