"""What a dry run says beforehand: memory, disk, time."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_cli.core.conditioning.condition import Condition
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.network import parameter_count
from ddpm_cli.core.models.unet import UNet
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.training.preparation import activations, forecast, trial
from ddpm_cli.core.training.preparation.forecast import Memory, Work
from ddpm_cli.core.training.trainer import Execution, Trainer, Trial
from tests.support.cli import Result

CPU = torch.device("cpu")
GIGABYTE = 10**9

NETWORKS: dict[str, dict[str, Any]] = {
    "residual": {"blocks": ["res", "res,attn"], "dropout": 0.1},
    "others": {"blocks": ["conv,linear-attn", "res,channel-attn,attn"], "modulation": "add"},
    "classes": {"blocks": ["res,class-attn"], "classes": ["a", "b"], "augmented": True},
    "text": {"blocks": ["res,text-attn"], "text": {"width": 8, "heads": 2, "layers": 1}},
}


def network(name: str) -> NetworkConfig:
    settings = {"width": 8, "multipliers": [1, 2], "size": [8, 12], "channels": 3}
    return updated(RunConfig(), {"network": settings | NETWORKS[name]}).network


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_those_that_a_forward_pass_keeps(name: str, precision: torch.dtype) -> None:
    """Counted on tensors that are there, each piece of memory once, by its address."""
    config, images, length = network(name), 3, 5
    net = UNet(config).to(memory_format=torch.channels_last)
    weights = {parameter.data_ptr() for parameter in net.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # alive, so that no two have one address
        return tensor

    x = torch.randn(images, 3, 8, 12)
    text = None if config.text is None else torch.ones(images, length, dtype=torch.int64)
    augmented = torch.zeros(images, 9) if config.augmented else None
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        devices.autocast(CPU, precision),
    ):
        output = net(x, torch.rand(images), Condition(text=text, augmented=augmented))
    assert output.requires_grad
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in kept}
    counted = sum(storages[address].nbytes() for address in storages.keys() - weights)
    assert counted > 10_000
    forecast_bytes = activations.saved_bytes(config, images, precision, CPU, length)
    assert forecast_bytes == pytest.approx(counted, rel=0.01)  # but for a few numbers an image


def test_what_normalisation_keeps_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernel keeps its input and statistics; torch's, on a GPU, what autocast made float32."""
    config = network("residual")

    def kept(device: str, precision: torch.dtype) -> int:
        activations.saved_bytes.cache_clear()
        return activations.saved_bytes(config, 4, precision, torch.device(device), 0)

    full, half = torch.float32, torch.bfloat16
    if find_spec("triton") is not None:
        assert kept("cuda", half) < kept("cpu", half)
        assert kept("cuda", full) < kept("cpu", full)
    monkeypatch.setattr(activations, "why_unfused", lambda device: "no Triton")
    assert kept("cpu", half) < kept("mps", half) == kept("cuda", half) < kept("cpu", full)
    assert kept("cpu", full) == kept("cuda", full)


def test_checkpointed_layers_keep_their_inputs_and_one_its_inside() -> None:
    """Of the tensors kept, at least the inputs of layers remain, and most of the rest does not."""
    config = replace(network("residual"), multipliers=(1, 1), blocks=("res,res,res,res",))

    def kept(images: int, *, checkpointed: bool) -> int:
        return activations.saved_bytes(config, images, torch.float32, CPU, 0, checkpointed)

    height, width = config.size
    layers = UNet(config)
    inputs = len([*layers.down, *layers.middle, *layers.up]) * 4 * config.width * height * width
    all_images, checkpointed = (kept(8, checkpointed=c) - kept(4, checkpointed=c) for c in (0, 1))
    assert inputs < checkpointed < all_images / 2


def work(batch: int, *, microbatch: int | None = None, processes: int = 1) -> Work:
    config = replace(RunConfig(), network=network("residual"))
    config = updated(config, {"optimiser": {"batch": batch}})
    parameters = parameter_count(UNet(config.network))
    return Work(config, parameters, Execution(CPU, microbatch=microbatch), processes)


def test_the_peak_is_of_what_is_there_at_once() -> None:
    """A lone microbatch is freed as the gradient grows; the next one meets the gradient."""
    sizes = dict.fromkeys(("weights", "average", "images", "saving", "process"), 1)
    alone = Memory(**sizes, optimiser=2, gradient=5, activations=7, accumulates=False)
    assert alone.total == 5 + 2 + 7
    assert replace(alone, activations=3).total == 5 + 2 + 5
    assert replace(alone, accumulates=True).total == 5 + 2 + 5 + 7
    assert [work(8).microbatch, work(9, processes=2).microbatch] == [8, 5]
    assert work(8, microbatch=3).microbatch == 3
    accumulating = [work(8), work(8, microbatch=8), work(8, microbatch=4), work(8, processes=2)]
    assert [forecast.memory(one).accumulates for one in accumulating] == [False, False, True, True]


def test_weights_gradient_average_and_optimiser_are_float32() -> None:
    one = work(8)
    needed = forecast.memory(one)
    each = 4 * one.parameters
    assert (needed.weights, needed.average, needed.gradient) == (each, each, each)
    assert needed.optimiser == 2 * each
    assert needed.by_part()["total"] == needed.total


def test_the_largest_microbatch_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fits by the same estimate, and one larger by a tenth does not."""
    large = work(4096)
    needed = forecast.memory(large)
    room = needed.total - needed.activations // 2
    largest = forecast.largest_microbatch(large, needed, room)
    assert 1500 < largest < 2600

    def total(microbatch: int) -> int:
        kept = forecast.memory(work(4096, microbatch=microbatch)).activations
        return replace(needed, activations=kept, accumulates=True).total

    assert total(largest) <= room < total(largest + largest // 10)

    monkeypatch.setattr(devices, "total_memory", lambda _: int(0.7 * needed.total))
    with pytest.raises(DdpmError, match=r"4,096 images at once .* --microbatch \d+ fits"):
        forecast.check_memory(large, needed)


def test_memory_that_may_not_suffice_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate's error is 20 %: below 0.8 of it nothing starts."""
    several = replace(work(64), processes=2)
    needed = forecast.memory(several)
    for share, refused, warns in ((0.7, True, ""), (1.1, False, "2 processes"), (2.1, False, "")):
        memory = int(share * needed.total)
        monkeypatch.setattr(devices, "total_memory", lambda _, memory=memory: memory)
        if refused:
            with pytest.raises(DdpmError, match="needs about"):
                forecast.check_memory(several, needed)
            continue
        warning = forecast.check_memory(several, needed)
        assert (warning or "").startswith(warns) and bool(warning) == bool(warns)
    monkeypatch.setattr(devices, "total_memory", lambda _: int(0.9 * needed.total))
    alone = work(64)
    assert "this needs about" in (forecast.check_memory(alone, needed) or "")


def test_the_disk_holds_snapshots_weights_and_previews(tmp_path: Path) -> None:
    config = replace(RunConfig(), keep=3, keep_every=100, snapshot_every=50, preview=0)
    parts = forecast.disk(tmp_path / "not" / "there", config, 10, 1_000, 7)
    assert parts["snapshots"] == (3 + 10) * 16 * 10  # four float32 numbers a parameter
    assert (parts["weights"], parts["previews"], parts["cache"]) == (2 * 40, 0, 7)
    assert parts["total"] == 13 * 160 + 80
    assert parts["free"] > 0
    with_previews = forecast.disk(tmp_path, replace(config, preview=4), 10, 1_000, 0)
    assert with_previews["previews"] == (2 + 20) * 256 * 256 * 3  # enlarged; 32x32 by default


def test_a_dry_run_says_memory_disk_and_time(train_tiny: Callable[..., Result]) -> None:
    result = train_tiny("--dry-run", "--json", "--device", "cpu")
    assert result.code == 0, result.err
    plan = result.json()
    assert plan["memory_bytes"]["weights"] == 4 * plan["parameters"]
    assert plan["seconds"] == pytest.approx(plan["steps"] * plan["seconds_per_step"])
    assert plan["time_measured"] == "measured on 2 steps"
    assert plan["disk_bytes"]["cache"] == 24 * 8 * 8 * 3
    for said in ("Memory: about ", "Disk: about ", "Measuring a few steps", "Time: about "):
        assert said in result.err
    assert not Path("runs").exists()

    minutes = train_tiny("--dry-run", "--json", "--device", "cpu", "--minutes", 2)
    assert minutes.json()["seconds"] == 120
    assert "steps in 2 min" in minutes.err


def test_a_training_says_its_memory_and_disk_but_takes_no_trial(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "measure", None)
    result = train_tiny("--device", "cpu", "--preview", 0)
    assert result.code == 0, result.err
    assert "Memory: about " in result.err and "Disk: about " in result.err


def test_a_dry_run_refuses_what_does_not_fit(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "total_memory", lambda _: 2 * GIGABYTE)
    monkeypatch.setattr(forecast, "_resident", lambda: GIGABYTE // 2)  # whatever ran before
    command = ("--dry-run", "--json", "--device", "cpu")
    result = train_tiny(*command, "--batch", 40_000, "--microbatch", 40_000)
    assert (result.code, result.out) == (1, "")
    named = int(result.err.split("--microbatch ")[-1].split(" fits")[0])
    assert 1 < named < 40_000
    assert "40,000 images at once (--batch, --microbatch) needs about" in result.err
    monkeypatch.setattr(trial, "measure", lambda plan, execution, *_: str(plan.fitted(execution)))
    result = train_tiny(*command, "--batch", 40_000, "--microbatch", "auto")
    chosen = result.json()["microbatch"]
    assert named / 2 < chosen <= named and 40_000 % chosen == 0
    assert f"Microbatch: {chosen:,} images at once, as 40,000 need about" in result.err
    assert f"microbatch={chosen}" in result.json()["time_measured"]
    assert result.json()["memory_bytes"]["total"] <= 2 * GIGABYTE
    assert train_tiny(*command, "--batch", 8).json()["microbatch"] is None
    assert train_tiny(*command, "--microbatch", "few").code == 2
    result = train_tiny("--dry-run", "--device", "cpu", "--batch", 10**6)
    assert (result.code, "choose a smaller --batch" in result.err) == (1, True)


def test_a_preset_that_was_not_named_is_explained(
    ddpm: Callable[..., Result], photos: Path, planned_only: None
) -> None:
    command = ("train", "--data", photos, "--dry-run", "--json")
    plain, grey = ddpm(*command), ddpm(*command, "--channels", 1)
    assert plain.json()["preset_because"] == "for 8x8 colour images on a CPU"
    assert grey.json()["preset_because"] == "for 8x8 grey images on a CPU"
    assert "(preset mnist, for 8x8 grey images on a CPU)" in grey.err
    assert ddpm(*command, "--preset", "small").json()["preset_because"] is None


Measured = namedtuple("Measured", "seconds tried")


@pytest.mark.parametrize(
    ("image", "whole", "tried", "step"),
    [
        (0.01, 64, 64, 0.64),  # a whole step, twice
        (0.1, 64, 15, 6.4),  # as many as take half of 3 s
        (1.0, 64, 1, 64.0),
        (9.0, 2, 1, 18.0),  # one image alone, and once
    ],
)
def test_a_long_step_is_extrapolated_from_fewer_images(
    image: float, whole: int, tried: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretended step takes `image` seconds an image, and 0.5 s of drawing and updating."""
    calls: list[int] = []

    def pretend(self: Trainer, images: int) -> Trial:
        calls.append(images)
        return Trial(0.25, image * images, 0.25)

    monkeypatch.setattr(Trainer, "trial", pretend)
    seconds, found = trial._trials(Trainer.__new__(Trainer), whole)
    assert found == tried == calls[-1]
    assert all(math.isclose(each, step + 0.5) for each in seconds)
    assert sum(image * count for count in calls) < 4 * 3 + image
