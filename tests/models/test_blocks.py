"""Every type of block: shape, gradients, initialisation, and its formula written out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_cli.core.config.unet import BLOCKS, CHANNEL_CHANGING
from ddpm_cli.core.models.attention import ChannelAttention
from ddpm_cli.core.models.blocks import ResidualBlock
from ddpm_cli.core.models.embeddings import Embeddings
from ddpm_cli.core.models.unet import Stage
from tests.support.networks import CASES, CONFIG, every_case, randomised


def fresh(case: str, inputs: int = 8, **change: Any) -> nn.Module:
    """The block as a network would start with it; only res and conv change the channels, to 8."""
    kind, own = CASES[case]
    config = replace(CONFIG, **own, **change)
    torch.manual_seed(0)
    kinds = (kind,) if kind in CHANNEL_CHANGING else ("res", kind)
    return Stage(kinds, inputs, 8, config).blocks[-1]


def embeddings(batch: int = 3) -> Embeddings:
    """Embeddings with 1, 2, 3 … of 5 tokens unmasked."""
    random = torch.Generator().manual_seed(2)
    global_embedding, class_embedding = torch.randn(
        2, batch, 32, generator=random, dtype=torch.float64
    )
    tokens = torch.randn(batch, 5, 8, generator=random, dtype=torch.float64)
    mask = torch.arange(5) <= torch.arange(batch)[:, None]
    return Embeddings(global_embedding, class_embedding, tokens, mask)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_all_types_of_blocks_are_tested() -> None:
    assert {kind for kind, _ in CASES.values()} == set(BLOCKS)


@every_case
def test_shape_gradients_and_determinism(case: str) -> None:
    block, x = randomised(fresh(case)), images(3, 8, 4, 6).requires_grad_()
    out = block(x, embeddings())
    assert out.shape == x.shape
    assert torch.equal(out, block(x, embeddings()))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    assert x.grad is not None
    assert (x.grad.abs() > 0).all()


@every_case
def test_a_fresh_block_is_the_identity(case: str) -> None:
    x = images(3, 8, 4, 6)
    assert torch.equal(fresh(case).double()(x, embeddings()), x)


@pytest.mark.parametrize("case", [case for case in CASES if case != "channel-attn"])
def test_the_residual_sum_is_scaled(case: str) -> None:
    """By skip_scale; channel attention is no residual sum."""
    x = images(3, 8, 4, 6)
    plain, scaled = (randomised(fresh(case, skip_scale=s))(x, embeddings()) for s in (1.0, 0.25))
    torch.testing.assert_close(scaled, 0.25 * plain)


@every_case
def test_images_of_a_batch_are_independent(case: str) -> None:
    block, x, emb = randomised(fresh(case)), images(3, 8, 4, 6), embeddings()
    alone = [block(x[i : i + 1], Embeddings(*(part[i : i + 1] for part in emb))) for i in range(3)]
    torch.testing.assert_close(block(x, emb), torch.cat(alone))


# Each kind written out: loops and plain formulas, in float64.


def weight(block: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    layer = block.get_submodule(name)
    return layer.weight.detach(), layer.bias.detach()  # type: ignore[return-value, operator]


def per_pixel(x: Tensor, block: nn.Module, name: str) -> Tensor:
    """A linear layer on each pixel (B, C, H, W)."""
    w, b = weight(block, name)
    return torch.einsum("bchw,oc->bohw", x, w.flatten(1)) + b[:, None, None]


def normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(axes, keepdim=True) + 1e-6).sqrt()


def group_normalised(x: Tensor, block: nn.Module, name: str = "norm") -> Tensor:
    """In two groups of four channels."""
    w, b = weight(block, name)
    groups = normalised(x.reshape(len(x), 2, -1), (2,)).reshape(x.shape)
    return groups * w[:, None, None] + b[:, None, None]


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("convolved", [False, True])
def test_a_resampling_residual_block(direction: str, convolved: bool) -> None:
    """Average pooling, or nearest neighbours, of both branches after the first activation."""
    config = replace(CONFIG, modulation="scale-shift", skip_scale=0.5, resample_skip=convolved)
    block, emb = randomised(ResidualBlock(8, 8, config, direction)), embeddings()
    x = images(3, 8, 4, 6)

    def resampled(v: Tensor) -> Tensor:
        if direction == "up":
            return v.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return (v[..., ::2, ::2] + v[..., 1::2, ::2] + v[..., ::2, 1::2] + v[..., 1::2, 1::2]) / 4

    h = nnf.conv2d(
        resampled(nnf.silu(group_normalised(x, block, "norm1"))), *weight(block, "conv1"), padding=1
    )
    scale, shift = nnf.linear(emb.global_embedding, *weight(block, "modulation"))[
        ..., None, None
    ].chunk(2, 1)
    h = nnf.silu(group_normalised(h, block, "norm2") * (1 + scale) + shift)
    h = nnf.conv2d(h, *weight(block, "conv2"), padding=1)
    skip = resampled(per_pixel(x, block, "skip") if convolved else x)
    torch.testing.assert_close(block(x, emb), 0.5 * (skip + h))


@pytest.mark.parametrize("case", ["conv", "conv, scale-shift"])
@pytest.mark.parametrize("inputs", [8, 12])
def test_convnext_written_out(case: str, inputs: int) -> None:
    """Liu et al. (2022), figure 4: 7x7 a channel, LayerNorm of a pixel, 4 times wider, GELU."""
    block, emb, x = randomised(fresh(case, inputs)), embeddings(), images(3, inputs, 5, 6)
    w, b = weight(block, "depthwise")
    padded = nnf.pad(x, (3, 3, 3, 3))
    h = sum(
        w[:, 0, i, j, None, None] * padded[:, :, i : i + 5, j : j + 6]
        for i in range(7)
        for j in range(7)
    )
    h = h + b[:, None, None]
    c = nnf.linear(emb.global_embedding, *weight(block, "modulation"))[..., None, None]
    scale, shift = c.chunk(2, 1) if "scale" in case else (0, 0)
    gain, bias = (v[:, None, None] for v in weight(block, "norm"))
    h = normalised(h if "scale" in case else h + c, (1,)) * gain + bias
    h = per_pixel(h * (1 + scale) + shift, block, "expand")
    h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    skip = x if inputs == 8 else per_pixel(x, block, "skip")
    torch.testing.assert_close(block(x, emb), skip + per_pixel(h, block, "out"))


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Vaswani et al. (2017), equation 1: q (N, E), k (M, E), v (M, D) -> (N, D)."""
    scores = torch.exp(q @ k.T / math.sqrt(q.shape[1]))
    return (scores / scores.sum(1, keepdim=True)) @ v


def test_attention_of_patches_written_out() -> None:
    """Tokens are squares of 2 x 2 pixels; each head has half of a token's 8 channels."""
    block, x = randomised(fresh("attn of patches")), images(2, 8, 4, 6)
    normed, (w, b) = group_normalised(x, block), weight(block, "qkv")
    out_w, out_b = weight(block, "out")
    expected = x.clone()
    places = [(top, left) for top in (0, 2) for left in (0, 2, 4)]
    for i in range(2):
        squares = torch.stack([normed[i, :, t : t + 2, s : s + 2].flatten() for t, s in places])
        q, k, v = (squares @ w.flatten(1).T + b).split(8, dim=1)
        heads = [attended(q[:, h], k[:, h], v[:, h]) for h in (slice(0, 4), slice(4, 8))]
        tokens = torch.cat(heads, dim=1) @ out_w.flatten(1).T + out_b
        for (top, left), token in zip(places, tokens, strict=True):
            expected[i, :, top : top + 2, left : left + 2] += token.reshape(8, 2, 2)
    torch.testing.assert_close(block(x, embeddings(2)), expected)


def test_linear_attention_written_out() -> None:
    """Shen et al. (2021): the full matrix of weights rho(q) rho(k)^T."""
    block, x = randomised(fresh("linear-attn")), images(2, 8, 4, 6)
    q, k, v = per_pixel(group_normalised(x, block), block, "qkv").flatten(2).chunk(3, dim=1)
    mixed = torch.empty_like(v)
    for i in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            queries = q[i, head].T.exp() / q[i, head].T.exp().sum(1, keepdim=True)
            keys = k[i, head].exp() / k[i, head].exp().sum(1, keepdim=True)
            mixed[i, head] = ((queries @ keys) @ v[i, head].T).T
    expected = x + per_pixel(mixed.reshape(x.shape), block, "out")
    torch.testing.assert_close(block(x, embeddings(2)), expected)


def test_class_attention_written_out() -> None:
    """Channel i takes the values of channel j by the softmax over j of q_i k_j."""
    block, x, emb = randomised(fresh("class-attn")), images(2, 8, 4, 6), embeddings(2)
    values = per_pixel(group_normalised(x, block), block, "value")
    numbers = nnf.linear(nnf.silu(emb.class_embedding), *weight(block, "qk"))
    mixed = torch.zeros_like(x)
    for i in range(2):
        q, k = numbers[i, :8].tolist(), numbers[i, 8:].tolist()
        for channel in range(8):
            head = range(0, 4) if channel < 4 else range(4, 8)
            weights = {j: math.exp(q[channel] * k[j]) for j in head}
            for j in head:
                mixed[i, channel] += weights[j] / sum(weights.values()) * values[i, j]
    torch.testing.assert_close(block(x, emb), x + per_pixel(mixed, block, "out"))


def test_class_attention_depends_on_the_class_alone() -> None:
    block, x, emb = randomised(fresh("class-attn")), images(3, 8, 4, 6), embeddings()
    assert torch.equal(
        block(x, emb), block(x, emb._replace(global_embedding=emb.global_embedding + 1))
    )
    assert not torch.allclose(
        block(x, emb), block(x, emb._replace(class_embedding=-emb.class_embedding))
    )


def test_text_attention_written_out() -> None:
    block, x, emb = randomised(fresh("text-attn")), images(3, 8, 4, 6), embeddings()
    assert emb.tokens is not None
    queries = per_pixel(group_normalised(x, block), block, "query").flatten(2)
    gain, bias = weight(block, "token_norm")
    mixed = torch.empty_like(queries)
    for i in range(3):
        tokens = emb.tokens[i, : i + 1]  # the others are masked
        mean, square = tokens.mean(1, keepdim=True), tokens.var(1, keepdim=True, unbiased=False)
        normed = (tokens - mean) / (square + 1e-5).sqrt() * gain + bias
        keys, values = nnf.linear(normed, *weight(block, "key_value")).split(8, dim=1)
        for head in (slice(0, 4), slice(4, 8)):
            mixed[i, head] = attended(queries[i, head].T, keys[:, head], values[:, head]).T
    expected = x + per_pixel(mixed.reshape(x.shape), block, "out")
    torch.testing.assert_close(block(x, emb), expected)


@pytest.mark.parametrize(("channels", "kernel"), [(8, 3), (64, 3), (256, 5), (512, 5)])
def test_channel_attention_written_out(channels: int, kernel: int) -> None:
    """Wang et al. (2020), equations 9 and 12; the sizes of the kernel are their code's."""
    block, x = randomised(ChannelAttention(channels, CONFIG)), images(2, channels, 3, 4)
    w, b = (parameter.detach().numpy() for parameter in block.parameters())
    assert w.shape == (1, 1, kernel)
    expected = x.numpy().copy()
    for image in expected:
        logits = np.correlate(image.mean(axis=(1, 2)), w[0, 0], mode="same") + b
        image *= (2 / (1 + np.exp(-logits)))[:, None, None]
    torch.testing.assert_close(block(x, embeddings(2)), torch.from_numpy(expected))
