"""Text conditioning of the network, the null text, and reference implementations of its parts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.diffusion import DiffusionConfig
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.diffusion.guidance import guided
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.attention import CrossAttention
from ddpm_cli.core.models.embeddings import ConditionEmbedding, Embeddings
from ddpm_cli.core.models.text import ByteTransformer, TextEmbedding
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime.reporting import Silent

BYTES = TextConfig(length=24, width=8, layers=2, heads=2)
VECTORS = TextConfig("an encoder", width=6)
TINY = NetworkConfig(
    size=(8, 8),
    width=8,
    multipliers=(1, 2),
    blocks=("res", "res,attn,text-attn"),
    middle="res,attn,text-attn,res",
    patch=2,
    dropout=0.0,
    text=BYTES,
)
CPU = torch.device("cpu")


def randomised(network: Any) -> Any:
    """Random weights: layers initialised to zero would hide errors."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def encoded(*sentences: str) -> Tensor:
    """Bytes plus one, (B, L); an empty sentence is the null text."""
    rows = [[byte + 1 for byte in sentence.encode()] for sentence in sentences]
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def test_texts_are_their_bytes() -> None:
    sentences = ["a", "ein Grüner", "猫", "\x7f\U0010ffff", "many " * 9]
    text = tokens.tokenise(TextConfig(length=48), sentences, CPU, Silent())
    order = np.arange(len(sentences))[::-1]
    for row, index in zip(text.take(order), order, strict=True):
        assert bytes(b - 1 for b in row.tolist() if b).decode() == sentences[index]
    assert torch.equal(text.take(np.arange(len(sentences))), encoded(*sentences))


def test_texts_that_are_too_long_are_named() -> None:
    with pytest.raises(DdpmError, match=r"2 texts .* 3 bytes .* has 5: 'abcde'… .*--text-length"):
        tokens.tokenise(TextConfig(length=3), ["abc", "ßß", "abcde"], CPU, Silent())


def test_every_parameter_has_a_gradient_with_captions_and_classes() -> None:
    for config, text in ((BYTES, encoded("ab", "")), (VECTORS, torch.randn(2, 3, 6))):
        network = randomised(UNet(replace(TINY, text=config, classes=("a", "b"))))
        text[1] = 0
        condition = Condition(torch.tensor([0, -1]), text)
        network(torch.randn(2, 3, 8, 8), torch.zeros(2), condition).square().mean().backward()
        assert [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


class Bias(nn.Module):
    """A bias in the place of attention to captions, as in an unconditional network."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor, context: Embeddings) -> Tensor:
        return x + self.bias[:, None, None]


@pytest.mark.parametrize("text", [BYTES, VECTORS])
def test_the_null_text_is_an_unconditional_network(text: TextConfig) -> None:
    """It has the same weights, and learned biases in the place of attention to captions."""
    network = randomised(UNet(replace(TINY, text=text)))
    blocks, middle = ("res", "res,attn,channel-attn"), "res,attn,channel-attn,res"
    plain = UNet(replace(TINY, text=None, blocks=blocks, middle=middle)).eval()
    state = network.state_dict()
    plain.load_state_dict({n: state[n] for n in plain.state_dict() if n in state}, strict=False)
    conditioning = network.embedding
    null = conditioning.text.null
    with torch.no_grad():
        normalised = (null - null.mean()) / (null.var(correction=0) + 1e-5).sqrt()
        plain.embedding.second.bias += conditioning.text_map(normalised)
    layers = dict(network.named_modules())
    biases = 0
    for name, layer in layers.items():
        if isinstance(layer, CrossAttention):
            token = layer.token_norm(conditioning.text.null)
            value = layer.key_value(token).chunk(2)[1]
            bias = layer.out.weight[:, :, 0, 0] @ value + layer.out.bias
            plain.get_submodule(name.rpartition(".")[0])[int(name.rpartition(".")[2])] = Bias(bias)
            biases += 1
    assert biases == 4

    x, t = torch.randn(3, 3, 8, 8), torch.tensor([1.0, 50.0, 900.0])
    expected = plain(x, t)
    torch.testing.assert_close(network(x, t), expected, rtol=1e-4, atol=1e-5)
    shape = (3, 5) if text is BYTES else (3, 5, 6)
    none = torch.zeros(shape, dtype=torch.int64 if text is BYTES else torch.float32)
    torch.testing.assert_close(network(x, t, Condition(text=none)), expected, rtol=1e-4, atol=1e-5)
    mixed = none.clone()
    mixed[0, :2] = 7
    out = network(x, t, Condition(text=mixed))
    torch.testing.assert_close(out[1:], expected[1:], rtol=1e-4, atol=1e-5)
    assert (out[0] - expected[0]).abs().max() > 1e-3


def test_guidance_0_is_the_null_text_and_1_is_the_text() -> None:
    network = randomised(UNet(TINY))
    denoiser = Denoiser(network, schedules.from_config(DiffusionConfig("cosine", 10)), "v")
    x, sigma = torch.randn(2, 3, 8, 8), torch.full((2,), 1.5, dtype=torch.float64)
    condition = Condition(text=encoded("red", "a blue"))
    null, conditional = denoiser(x, sigma), denoiser(x, sigma, condition)
    guided_3 = null + 3 * (conditional - null)
    for scale, expected in ((0.0, null), (1.0, conditional), (3.0, guided_3)):
        got = guided(denoiser, condition, Sampling(4, guidance=scale))(x, sigma).x0
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_padding_has_no_effect_and_every_byte_and_its_position_has() -> None:
    network = randomised(UNet(TINY))
    x, t = torch.randn(1, 3, 8, 8), torch.zeros(1)

    def output(text: Tensor) -> Tensor:
        return network(x, t, Condition(text=text))

    expected = output(encoded("ab ba"))
    padded = torch.nn.functional.pad(encoded("ab ba"), (0, 9))
    torch.testing.assert_close(output(padded), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        network.embedding.text.null += 1  # not used where there is a text
    torch.testing.assert_close(output(encoded("ab ba")), expected)
    for other in ("ab bc", "ba ab", "ab b", "b"):
        assert (output(encoded(other)) - expected).abs().max() > 1e-5, other


def test_texts_of_a_batch_are_independent() -> None:
    encoder = randomised(TextEmbedding(BYTES))
    together, mask = encoder(encoded("a", "abc", "", "zz"))
    for i, sentence in enumerate(("a", "abc", "", "zz")):
        alone, _ = encoder(encoded(sentence or "?") * bool(sentence))
        count = max(1, len(sentence))
        assert mask[i].tolist() == [position < count for position in range(3)]
        torch.testing.assert_close(together[i, :count], alone[0, :count], rtol=1e-4, atol=1e-5)


def test_the_byte_transformer_is_torchs() -> None:
    """torch.nn's pre-norm encoder layer with the same weights."""
    ours = randomised(ByteTransformer(BYTES))
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    text = encoded("abcd", "xy")
    mask = text != 0
    h = ours.values(text) + ours.places(torch.arange(4))
    for layer in ours.layers:
        names = {"qkv": "self_attn.in_proj_", "out": "self_attn.out_proj."}
        names |= {"first": "linear1.", "second": "linear2.", "norm1": "norm1.", "norm2": "norm2."}
        weights = {}
        for our_name, their_name in names.items():
            for kind, value in getattr(layer, our_name).state_dict().items():
                weights[their_name + kind] = value
        theirs.load_state_dict(weights)
        h = theirs(h, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(text, mask)[mask], ours.norm(h)[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_to_tokens_against_a_loop(heads: int) -> None:
    layer = randomised(CrossAttention(8, replace(TINY, heads=heads)))
    x, tokens = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    out = torch.zeros(2, 8, 12)
    for b, count in ((0, 5), (1, 2)):
        q = layer.query(layer.norm(x))[b].flatten(1)
        k, v = layer.key_value(layer.token_norm(tokens[b, :count])).T.chunk(2)
        for h in range(heads):
            part = slice(h * 8 // heads, (h + 1) * 8 // heads)
            weights = torch.softmax(q[part].T @ k[part] / math.sqrt(8 / heads), dim=-1)
            out[b, part] = v[part] @ weights.T
    expected = x + layer.out(out.reshape(x.shape))
    context = Embeddings(torch.zeros(2, 1), None, tokens, mask)
    torch.testing.assert_close(layer(x, context), expected, rtol=1e-4, atol=1e-5)


def test_initial_attention_to_tokens_is_the_identity() -> None:
    x = torch.randn(1, 8, 2, 2)
    context = Embeddings(torch.zeros(1, 1), None, torch.randn(1, 3, 8), torch.ones(1, 3) > 0)
    assert torch.equal(CrossAttention(8, TINY)(x, context), x)


def test_the_mean_of_hidden_states_does_not_depend_on_their_scale() -> None:
    conditioning = randomised(ConditionEmbedding(replace(TINY, text=VECTORS)))
    tokens = torch.randn(2, 3, 6)
    tokens[1, 2] = 0  # the second text is shorter
    one, other = (conditioning(torch.zeros(2), Condition(text=k * tokens)) for k in (1, 100))
    torch.testing.assert_close(one.global_embedding, other.global_embedding, rtol=1e-3, atol=1e-3)

    normalised = (tokens - tokens.mean(2, keepdim=True)) / tokens.std(2, correction=0, keepdim=True)
    means = normalised[0].mean(0), normalised[1, :2].mean(0)
    text = torch.stack([conditioning.text_map(mean) for mean in means])
    time = conditioning.second(nn.functional.silu(conditioning.first(time_of(conditioning))))
    torch.testing.assert_close(
        one.global_embedding, nn.functional.silu(time + text), rtol=1e-3, atol=1e-3
    )


def time_of(conditioning: ConditionEmbedding) -> Tensor:
    """The sinusoidal embedding of time zero: sines are 0, cosines are 1."""
    half = conditioning.config.width // 2
    return torch.cat([torch.zeros(2, half), torch.ones(2, half)], dim=1)


@pytest.mark.parametrize("text", [BYTES, VECTORS])
def test_an_initial_networks_text_map_is_trained(text: TextConfig) -> None:
    """The map of the mean hidden state starts at zero and leaves it in a few steps."""
    torch.manual_seed(0)
    network = UNet(replace(TINY, text=text))
    captions = encoded("ab", "c") if text is BYTES else torch.randn(2, 3, 6)
    x, t = torch.randn(2, 3, 8, 8), torch.zeros(2)
    mapped = network.embedding.text_map
    assert not any(p.any() for p in mapped.parameters())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (network(x, t, Condition(text=captions)) - x).square().mean().backward()
        optimiser.step()
    assert all(p.any() for p in mapped.parameters())
