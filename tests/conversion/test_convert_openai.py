"""Weights of improved- and guided-diffusion, compared with their network, built here of modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.conversion import openai, reference
from ddpm_cli.core.conversion.importing import ImportOptions, convert
from ddpm_cli.core.conversion.layout import OPENAI, import_tensors
from ddpm_cli.core.conversion.reference import AttentionHeads
from ddpm_cli.core.diffusion import schedules
from ddpm_cli.core.diffusion.denoiser import Denoiser
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result


class Res(nn.Module):
    def __init__(self, inputs: int, outputs: int, e: int, shifts: bool, way: str = "") -> None:
        super().__init__()
        self.in_layers = nn.Sequential(norm(inputs), nn.SiLU(), conv(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(e, (1 + shifts) * outputs))
        self.out_layers = nn.Sequential(
            norm(outputs), nn.SiLU(), nn.Dropout(0.1), conv(outputs, outputs)
        )
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)
        self.shifts = shifts
        resample = {"down": nn.AvgPool2d(2), "up": nn.Upsample(scale_factor=2)}
        self.resampled = resample.get(way, nn.Identity())

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resampled(self.in_layers[1](self.in_layers[0](x))))
        c = self.emb_layers(emb)[..., None, None]
        if self.shifts:
            scale, shift = torch.chunk(c, 2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + c)
        return self.skip_connection(self.resampled(x)) + h


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int, new: bool) -> None:
        super().__init__()
        self.norm, self.heads, self.new = norm(channels), heads, new
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        b, c, *_ = x.shape
        qkv, width = self.qkv(self.norm(x.flatten(2))), c // self.heads
        if self.new:  # q, k, v, each in heads
            parts = [part.reshape(b * self.heads, width, -1) for part in qkv.chunk(3, dim=1)]
        else:  # heads, each with its q, k, v
            parts = list(qkv.reshape(b * self.heads, 3 * width, -1).split(width, dim=1))
        q, k, v = parts
        scores = torch.softmax(torch.bmm(q.mT, k) / width**0.5, dim=-1)
        return x + self.proj_out(torch.bmm(v, scores.mT).reshape(b, c, -1)).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels: int, convolved: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1) if convolved else nn.AvgPool2d(2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int, convolved: bool) -> None:
        super().__init__()
        if convolved:
            self.conv = conv(channels, channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = nn.functional.interpolate(x, scale_factor=2)
        return self.conv(x) if hasattr(self, "conv") else x


class First(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return super().forward(x)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Theirs(nn.Module):
    """Their UNetModel: same layers under the same names."""

    def __init__(
        self,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        res: int = 1,
        attention: tuple[int, ...] = (1,),  # levels
        channels: int = 3,
        outputs: int = 3,
        heads: int | None = 2,
        head_width: int | None = None,
        shifts: bool = False,
        resample: str = "conv",
        classes: int = 0,
        new: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        e = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, e), nn.SiLU(), nn.Linear(e, e))
        if classes:
            self.label_emb = nn.Embedding(classes, e)

        def attend(c: int) -> Attention:
            return Attention(c, heads or c // (head_width or c), new)

        self.input_blocks = nn.ModuleList([nn.Sequential(First(channels, width, 3, padding=1))])
        kept, c = [width], width
        for level, m in enumerate(multipliers):
            for _ in range(res):
                block = [Res(c, m * width, e, shifts)]
                c = m * width
                self.input_blocks.append(
                    nn.Sequential(*block, *([attend(c)] if level in attention else []))
                )
                kept.append(c)
            if level < len(multipliers) - 1:
                down = (
                    Res(c, c, e, shifts, "down")
                    if resample == "res"
                    else Down(c, resample == "conv")
                )
                self.input_blocks.append(nn.Sequential(down))
                kept.append(c)
        self.middle_block = nn.Sequential(Res(c, c, e, shifts), attend(c), Res(c, c, e, shifts))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(multipliers))):
            for i in range(res + 1):
                layers: list[nn.Module] = [Res(c + kept.pop(), m * width, e, shifts)]
                c = m * width
                layers += [attend(c)] if level in attention else []
                if level and i == res:
                    layers.append(
                        Res(c, c, e, shifts, "up")
                        if resample == "res"
                        else Up(c, resample == "conv")
                    )
                self.output_blocks.append(nn.Sequential(*layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), conv(c, outputs))

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        half = self.width // 2
        rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = t.double()[:, None] * rates
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1).float())
        if classes is not None:
            emb = emb + self.label_emb(classes)
        kept, h = [], x
        for block in self.input_blocks:
            for layer in block:
                h = layer(h, emb)
            kept.append(h)
        for layer in self.middle_block:
            h = layer(h, emb)
        for block in self.output_blocks:
            h = torch.cat([h, kept.pop()], dim=1)
            for layer in block:
                h = layer(h, emb)
        return self.out(h)


NETWORKS: dict[str, dict[str, Any]] = {
    "improved": {"heads": 4},
    "new-order": {"heads": 4, "new": True, "res": 2},
    "guided": {
        "heads": None,
        "head_width": 16,
        "new": True,
        "shifts": True,
        "resample": "res",
        "outputs": 6,
        "classes": 4,
        "attention": (1, 2),
    },
    "guided-legacy-order": {"shifts": True, "resample": "res", "classes": 3, "heads": 2},
    "res-of-one-width": {"multipliers": (1, 1, 1), "res": 2, "resample": "res", "attention": (0,)},
    "pooled": {"resample": "pool", "channels": 1, "outputs": 1},
    "one-level": {"multipliers": (1,), "attention": ()},
}


def theirs(**changes: Any) -> Theirs:
    """A network with random weights, large in qkv, so that heads and their order matter."""
    torch.manual_seed(0)
    network = Theirs(**changes)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.normal_(std=0.4 if "qkv" in name or "norm" in name else 0.15)
    return network.eval()


def options(changes: dict[str, Any], **more: Any) -> ImportOptions:
    return ImportOptions(
        **{
            "size": (8, 8),
            "heads": changes.get("heads", 2),
            "head_width": changes.get("head_width"),
            "attention_order": "new" if changes.get("new") else "legacy",
            "schedule": "linear",
            "timesteps": 1000,
        }
        | more
    )


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_their_networks_become_ours(name: str, tmp_path: Path) -> None:
    settings = NETWORKS[name]
    network = theirs(**settings)
    rows = settings.get("classes", 0)
    classes = torch.tensor([0, 1, rows - 1]) if rows else None
    x, t = torch.randn(3, settings.get("channels", 3), 8, 12), torch.tensor([0.0, 17.25, 999.0])
    heads = AttentionHeads(
        settings.get("heads", 2), settings.get("head_width"), not settings.get("new")
    )
    with torch.inference_mode():
        expected = network(x, t, classes)
        state = network.state_dict()
        assert difference(reference.openai_unet(state, heads, x, t, classes), expected) < 1e-5

    torch.save(state, tmp_path / "model.pt")
    null = 1 if rows else None
    done = convert(
        tmp_path / "model.pt", tmp_path / "w.safetensors", options(settings, null_class=null)
    )
    assert 0 <= done["largest_difference"] < 1e-5
    loaded = weights.load(tmp_path / "w.safetensors")
    labels = torch.tensor([0, NULL_CLASS, rows - 2]) if rows else None
    with torch.inference_mode():
        assert difference(loaded.network(x, t, Condition(labels)), expected) < 1e-5
    assert loaded.config.network.learned_variance == (settings.get("outputs") == 6)


def test_the_order_of_attention_matters(tmp_path: Path) -> None:
    """Otherwise the tests above would not test it."""
    network = theirs(heads=4)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    outputs = []
    for order in ("legacy", "new"):
        out = tmp_path / f"{order}.safetensors"
        convert(tmp_path / "model.pt", out, options({"heads": 4}, attention_order=order))
        with torch.inference_mode():
            outputs.append(weights.load(out).network(x, t))
    assert difference(*outputs) > 1e-3


@pytest.mark.parametrize(
    ("preset", "settings", "heads", "parameters"),
    [
        (
            "iddpm-cifar10",
            {"width": 128, "multipliers": (1, 2, 2, 2), "res": 3, "attention": (1, 2), "heads": 4,
             "shifts": True, "outputs": 6},
            AttentionHeads(4, None, legacy=True),
            52_546_438,
        ),
        (
            "adm-64",
            {"width": 192, "multipliers": (1, 2, 3, 4), "res": 3, "attention": (1, 2, 3),
             "heads": None, "head_width": 64, "shifts": True, "resample": "res", "outputs": 6,
             "classes": 1000, "new": True},
            AttentionHeads(None, 64, legacy=False),
            295_904_454,
        ),
    ],
)  # fmt: skip
def test_the_published_networks_are_our_presets(
    preset: str, settings: dict[str, Any], heads: AttentionHeads, parameters: int
) -> None:
    with torch.device("meta"):
        network = Theirs(**settings)
    assert sum(p.numel() for p in network.parameters()) == parameters
    state = network.state_dict()
    ours = updated(RunConfig(), PRESETS[preset].settings).network
    found = openai.to_network_config(state, heads, ours.size, None)
    with torch.device("meta"):
        assert import_tensors(
            openai.split_interleaved_qkv(state, heads), OPENAI, UNet(found)
        )  # nothing is left over
    names = tuple(map(str, range(settings.get("classes", 0))))
    assert found == replace(
        ours, classes=names, null_class=False, dropout=0.0, up_blocks=(), groups=32
    )


def test_rescaled_timesteps_are_the_networks_input(tmp_path: Path) -> None:
    torch.save(theirs().state_dict(), tmp_path / "model.pt")
    inputs_seen = []
    for rescaled in (False, True):
        out = tmp_path / f"{rescaled}.safetensors"
        convert(
            tmp_path / "model.pt",
            out,
            options({}, schedule="cosine", timesteps=4000, rescale_timesteps=rescaled),
        )
        schedule = schedules.from_config(weights.load(out).config.diffusion)

        def network(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
            inputs_seen.append(c_noise.tolist())
            return x

        sigma = torch.from_numpy(schedule.sigma[[0, 1234, 3999]])
        Denoiser(network, schedule, "eps")(torch.zeros(3, 3, 8, 8), sigma)
    assert inputs_seen == [[0, 1234, 3999], [0, 308.5, 999.75]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "give --size"),
        ({"heads": None}, "give either --heads"),
        ({"head_width": 16}, "give either --heads"),
        ({"schedule": None}, "give --schedule and --timesteps"),
        ({"timesteps": None}, "give --schedule and --timesteps"),
        ({"timesteps": 4000}, "give --no-rescale-timesteps or --rescale-timesteps"),
        ({"schedule": "edm"}, "schedule 'edm' is unknown"),
        ({"attention_order": "old"}, "legacy, new"),
        ({"null_class": 1}, "has no classes"),
        ({"heads": 5}, "--heads 5 does not divide the 64 channels"),
    ],
)
def test_settings_that_a_file_lacks_are_required(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    torch.save(theirs().state_dict(), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=message):
        convert(tmp_path / "model.pt", tmp_path / "w.safetensors", options({}, **changes))
    assert not (tmp_path / "w.safetensors").exists()


def _wider_time(state: dict[str, Tensor]) -> None:
    state["time_embed.0.weight"] = torch.zeros(128, 64)


def _six_channels(state: dict[str, Tensor]) -> None:
    state["input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)


def _no_way_up(state: dict[str, Tensor]) -> None:
    for name in list(state):
        if name.startswith("output_blocks."):
            del state[name]


def _other_shape(state: dict[str, Tensor]) -> None:
    state["middle_block.1.qkv.bias"] = torch.zeros(96)
    del state["out.0.bias"]
    state["extra.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_wider_time, "timestep embedding has 64 dimensions"),
        (_six_channels, "takes 6 channels and gives 3: a super-resolution network"),
        (_no_way_up, "output_blocks"),
        (
            _other_shape,
            r"out.0.bias is missing; middle_block.1.qkv.bias is \(96,\), needs \(192,\); "
            "extra.weight is not in the network",
        ),
        (lambda state: state.pop("time_embed.0.weight"), "time_embed.0.weight is missing"),
        (lambda state: state.pop("input_blocks.0.0.weight"), "no network of improved- or guided"),
    ],
)
def test_other_networks_are_refused(
    change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    state = theirs().state_dict()
    change(state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DdpmError, match=message):
        convert(tmp_path / "model.pt", tmp_path / "w.safetensors", options({}))


def test_the_command_takes_a_wrapped_half_precision_file(
    ddpm: Callable[..., Result], tmp_path: Path
) -> None:
    state = {f"module.{k}": v.half() for k, v in theirs(outputs=6).state_dict().items()}
    torch.save(state, tmp_path / "ema_0.9999_500000.pt")
    result = ddpm(
        *("convert", tmp_path / "ema_0.9999_500000.pt", "--out", "w.safetensors", "--size", "8x16"),
        *("--heads", 2, "--schedule", "cosine", "--timesteps", 400, "--rescale-timesteps"),
    )
    assert result.code == 0, result.err
    assert "Next: ddpm sample w.safetensors" in result.out
    result = ddpm(
        *("sample", "w.safetensors", "-n", 1, "--steps", 2, "--sampler", "ddpm"),
        *("--variance", "learned", "--out", "drawn"),
    )
    assert result.code == 0, result.err
