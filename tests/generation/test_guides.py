"""Guides: found, checked against their model, recorded, and used by every command that samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ddpm_cli
from ddpm_cli.cli.options.scoring import results_beside
from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import batching, generate
from ddpm_cli.core.generation.guides import early, with_guide
from ddpm_cli.core.generation.model import load_model
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, run_of
from tests.support.cli import Result, refused
from tests.support.networks import TINY_RUN, randomised

CPU = torch.device("cpu")
CLASSES = ("dark", "light")


def written(path: Path, images: int = 64, seed: int = 0, **changed: Any) -> Path:
    """A weights file of random weights, as of a training on 8x8 images in two classes."""
    network = {"size": (8, 8), "classes": CLASSES} | changed.pop("network", {})
    tiny = NetworkConfig() if "family" in network else TINY_RUN.network
    config = updated(replace(TINY_RUN, network=replace(tiny, **network)), changed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        module = randomised(build(config.network), std=0.1)
        torch.manual_seed(seed)
        for parameter in module.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    weights.save(path, module.float().state_dict(), config, images)
    if path.name == "model.safetensors":
        RunDirectory(path.parent).write_config(config)
    return path


@pytest.fixture
def run() -> Path:
    """A run that has kept an earlier average, and another model of fewer images and channels."""
    written(Path("runs/a/model.safetensors"))
    written(Path("runs/a/ema/000000000012-0.100.safetensors"), 12, seed=1)
    written(Path("small.safetensors"), 20, seed=2, network={"width": 4})
    return Path("runs/a")


def model_of(path: Path | str) -> Any:
    return load_model(Path(path), CPU, torch.float32)


def test_early_is_nearest_to_a_third_of_the_training(run: Path) -> None:
    (run / "ema/000000000012-0.100.safetensors").unlink()
    for folder, names in {
        "snapshots": ("000000000002.pt", "000000000014.pt", "000000000064.pt"),
        "ema": (
            "000000000004-0.100.safetensors",
            "000000000014-0.050.safetensors",
            "000000000014-0.100.safetensors",
        ),
    }.items():
        (run / folder).mkdir(exist_ok=True)
        for name in names:
            (run / folder / name).touch()
    chosen = early(model_of(run / "model.safetensors"))  # of 64 images: 21
    assert chosen == run / "ema/000000000014-0.100.safetensors"  # the longest average of those
    for path in (run / "ema").iterdir():
        path.unlink()
    chosen = early(model_of(run / "model.safetensors"))
    assert chosen == run / "snapshots/000000000014.pt"
    for name in ("000000000002.pt", "000000000014.pt"):
        (run / "snapshots" / name).unlink()
    with pytest.raises(DdpmError, match=r"no state of the first half of the 64 .* --keep-every 21"):
        early(model_of(run / "model.safetensors"))


@pytest.mark.parametrize(
    "network",
    [
        {"width": 4, "blocks": ("res",), "learned_variance": True},
        {"family": "transformer", "width": 16, "heads": 2, "patch": 2, "depth": 1},
    ],
)
def test_a_guide_may_be_another_network_parameterisation_and_schedule(
    run: Path, network: dict[str, Any]
) -> None:
    written(
        Path("other.safetensors"),
        network=network,
        diffusion={"schedule": "edm", "parameterisation": "edm", "timesteps": 50},
    )
    sampling = Sampling(steps=4, sampler="heun", guidance=1.7, guide="other.safetensors")
    model = with_guide(model_of(run / "model.safetensors"), sampling.guide)
    assert model.guide is not None and model.guide.denoiser.schedule.name == "edm"
    trained = ddpm_cli.load(run, device="cpu")
    settings = {"steps": 4, "sampler": "heun", "classes": ["dark"]}
    own = trained.sample(2, guidance=1.7, guide="other.safetensors", **settings)
    assert (own != trained.sample(2, **settings)).any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"network": {"size": (16, 8)}}, "its images are 16x8, and the model's 8x8"),
        ({"network": {"channels": 1}}, "its channels are 1, and the model's 3"),
        ({"network": {"classes": ()}}, "its classes are none, and the model's dark, light"),
        ({"network": {"classes": ("cat", "dog")}}, "its classes are cat, dog, and"),
        ({"network": {"classes": ("light", "dark")}}, "its classes are in another order"),
        ({"network": {"multi_label": True}}, "its labels are several, and the model's one"),
        (
            {"network": {"text": TextConfig(length=6, width=8, layers=1, heads=2)}},
            "its captions are 6 tokens of bytes, and the model's none",
        ),
        ({"network": {"given_channels": 3}}, "its given images are"),
    ],
)
def test_a_guide_of_something_else_is_refused(
    run: Path, changed: dict[str, Any], words: str
) -> None:
    written(Path("other.safetensors"), **changed)
    model = model_of(run / "model.safetensors")
    with pytest.raises(DdpmError, match="cannot guide") as raised:
        with_guide(model, "other.safetensors")
    assert words in str(raised.value)


def test_what_a_guide_lacks_is_said(ddpm: Callable[..., Result], run: Path) -> None:
    (run / "text.txt").write_text("hello")
    guided = ("sample", run, "-n", 1, "--steps", 2, "--guidance", 1.7, "--guide")
    refused(ddpm(*guided, "nowhere"), "--guide nowhere: no such run or weights file")
    refused(ddpm(*guided, run / "text.txt"), "is no weights file")
    refused(
        ddpm("sample", "small.safetensors", "--guide", "early"), "--guide early", "--keep-every"
    )
    idle = ddpm("sample", run, "-n", 1, "--steps", 1, "--guide", "small.safetensors")
    assert idle.code == 0, idle.err
    assert "; ddim, 1 step, eta 0, guidance 1 by " in idle.err
    assert "--guide has no effect at --guidance 1: give more, such as --guidance 1.7" in idle.err
    written(
        Path("few.safetensors"), diffusion={"schedule": "linear", "timesteps": 50}
    )  # which ends at less noise than the cosine schedule
    refused(
        ddpm(*guided, "few.safetensors"),
        "few.safetensors has learned noise levels from",
        "--guidance-interval",
    )
    written(Path("always.safetensors"), optimiser={"class_drop": 0.0})
    plain = ddpm(*guided, "always.safetensors", "--class-guidance", 0)
    refused(plain, "always.safetensors", "leave --class-guidance at 1")
    refused(ddpm("sample", run, "--class-guidance", 2), "without --guide give --guidance")


def test_consistency_models_neither_guide_nor_are_guided(run: Path) -> None:
    distilled = {"loss": "consistency", "consistency": {}}
    written(Path("distilled.safetensors"), objective=distilled)
    for model, guide in (
        (run / "model.safetensors", "distilled.safetensors"),
        ("distilled.safetensors", "small.safetensors"),
    ):
        with pytest.raises(DdpmError, match="is a consistency model"):
            with_guide(model_of(model), guide)


def test_noise_levels_beyond_a_guide_are_refused(run: Path) -> None:
    written(Path("few.safetensors"), diffusion={"schedule": "linear", "timesteps": 50})
    trained = ddpm_cli.load(run, device="cpu")
    few = ddpm_cli.load("few.safetensors", device="cpu")
    last = float(few.denoiser.schedule.sigma[-1])
    x = torch.zeros(2, 3, 8, 8)
    trained.denoise(x, last, guide=few, guidance=1.7)
    with pytest.raises(DdpmError, match="is wanted at"):
        trained.denoise(x, torch.tensor([1.0, 1.1 * last]), guide=few, guidance=1.7)
    heun = {"sampler": "heun", "sigmas": (0.9 * last, 1.0), "guide": few, "guidance": 1.7}
    trained.sample(1, **heun)
    with pytest.raises(DdpmError, match="is wanted at"):  # churn raises the level by up to 41 %
        trained.sample(1, **heun, s_churn=10.0)


def test_memory_is_measured_on_a_guided_step(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first step is outside the guidance interval."""
    calls: list[int] = []

    def choose(batch: object, count: int, device: object, trial: Callable[[int], object]) -> object:
        model.guide.denoiser.network.register_forward_hook(lambda *_: calls.append(count))
        trial(count)
        return batching.BatchSize(count, given=False)

    monkeypatch.setattr(batching, "choose", choose)
    settings = Sampling(2, guidance=1.7, guide="small.safetensors", guidance_interval=(1e-6, 1e-5))
    model: Any = with_guide(model_of(run / "model.safetensors"), settings.guide)
    request = generate.GenerationRequest(1, 0, generate.ConditionPlan(), settings)
    next(iter(generate.sample_batches(model, request, range(1), None, Silent())))
    assert calls == [1]  # none in the steps themselves


def test_a_stored_average_is_of_its_run(run: Path) -> None:
    stored = run / "ema/000000000012-0.100.safetensors"
    assert run_of(stored) == run_of(run / "model.safetensors") == RunDirectory(run)
    assert model_of(stored).folder == run
    assert run_of(Path("small.safetensors")) == RunDirectory(Path())
    assert find_weights(stored, "model") == run / "model.safetensors"
    assert results_beside(str(stored), "scores") == run / "scores"
    written(run / "ema/000000000064-0.100.safetensors")
    assert early(model_of(run / "ema/000000000064-0.100.safetensors")) == stored


def both(run: Path) -> list[Any]:
    """The model of the run, and a smaller one of fewer images."""
    return [ddpm_cli.load(path, device="cpu") for path in (run, "small.safetensors")]


def test_images_depend_on_their_seeds_alone(run: Path) -> None:
    model, small = both(run)
    settings: dict[str, Any] = {"steps": 3, "guidance": 1.7, "guide": small, "class_guidance": 1.5}
    together = model.sample(5, seed=3, batch=5, **settings)
    parts = model.sample(5, seed=3, batch=2, **settings)
    assert abs(together.astype(int) - parts).max() <= 1  # sums in another order: one grey level
    assert (together == model.sample(5, seed=3, **settings | {"guide": "small.safetensors"})).all()
    plain = model.sample(5, seed=3, steps=3)
    assert (model.sample(5, seed=3, steps=3, guide=small, guidance=1) == plain).all()
    assert (together != plain).any()
    free = model.sample(5, seed=3, steps=3, guidance=1.5)
    assert (model.sample(5, seed=3, steps=3, guide=small, class_guidance=1.5) == free).all()


def test_the_denoiser_of_the_library_is_the_formula(run: Path) -> None:
    model, small = both(run)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    good, bad = (one.denoise(x, 1.5, classes=["dark"]) for one in (model, small))
    found = model.denoise(x, 1.5, classes=["dark"], guide=small, guidance=1.7)
    torch.testing.assert_close(found, bad + 1.7 * (good - bad))
    free = ddpm_cli.sample(model.denoiser, (2, 3, 8, 8), Sampling(steps=2))
    by_itself = ddpm_cli.sample(
        model.denoiser, (2, 3, 8, 8), Sampling(steps=2, guidance=3.0), guide=model.denoiser
    )
    assert abs(free.astype(int) - by_itself).max() <= 1  # what a model is guided by itself to


def test_samples_are_recorded_with_their_guide(ddpm: Callable[..., Result], run: Path) -> None:
    guided = ("sample", run, "-n", 3, "--steps", 3, "--guidance", 1.7, "--json", "--out", "out")
    first = ddpm(*guided, "--guide", "early")
    document, stored = first.json(), run / "ema/000000000012-0.100.safetensors"
    sha256 = model_of(stored).sha256
    assert {name: document[name] for name in document if name.startswith("guid")} == {
        "guidance": 1.7,
        "guide": str(stored),
        "guide_sha256": sha256,
        "guide_images_seen": 12,
        "guidance_interval": [0, None],
        "guidance_rescale": 0,
    }
    assert (document["nfe"], document["class_guidance"]) == (6, 1)
    assert f"guidance 1.7 by {stored}: 12 images seen" in first.err
    again = ddpm(*guided, "--guide", stored)  # the same by its name: nothing is drawn
    assert again.json()["drawn"] == 0
    refused(ddpm(*guided, "-q", "--guide", "small.safetensors"), "with other settings")
    refused(ddpm(*guided, "-q"), "with other settings")
    picture = Path("out/000001.png")
    text = json.loads(files.text_of(picture.read_bytes(), "it")["ddpm"])
    assert (text["guide"], text["guide_sha256"]) == (str(stored), sha256)
    like = ddpm("sample", "--like", picture, "--out", "like", "--json")
    assert like.json()["guide_sha256"] == sha256
    assert Path("like/000000.png").read_bytes()[-600:] == picture.read_bytes()[-600:]
    other = ddpm("sample", "--like", picture, "--guide", "small.safetensors", "--out", "other")
    assert "--guide has other weights than those that guided that image" in other.err


def test_every_command_that_samples_takes_a_guide(
    ddpm: Callable[..., Result], run: Path, trained: Path, written_photos: Path
) -> None:
    guide = ("--steps", 2, "--guide", "small.safetensors", "--guidance", 1.5, "--json")
    calls = {
        "gif": ("gif", run, "-n", 1, "--out", "it.gif"),
        "morph": ("gif", run, "--morph", "dark", "light", "--out", "morph.gif", "--frames", 4),
        "interpolate": ("interpolate", run, 0, 1, "-n", 2),
        "invert": ("invert", run, written_photos / "dark/0.png"),
        "sheet": ("sample", run, "--guidance", "1,2", "-n", 1),
    }
    for name, call in calls.items():
        words = guide if name != "sheet" else (*guide[:4], "--json")
        result = ddpm(*call, *words)
        assert result.code == 0, (name, result.err)
        assert result.json()["guide_images_seen"] == 20, name
    inverted = ddpm("invert", run, written_photos / "dark/0.png", *guide[:-1], "--out", "again")
    assert "--guide small.safetensors --class-guidance 0.0" in inverted.out
    score = ("fid", written_photos, run, "-n", 8, "--features", trained, "--metrics", "fid")
    scored = ddpm(*score, *guide)
    assert scored.json()["sampled"]["guide_images_seen"] == 20, scored.err
    nothing = ddpm("fid", written_photos, written_photos, "--guide", "x", "--features", trained)
    refused(nothing, "--guide is for sampling from a run")


@pytest.mark.usefixtures("few_are_enough")
def test_a_guides_weight_is_swept_and_becomes_the_default(
    ddpm: Callable[..., Result], run: Path, trained: Path, written_photos: Path
) -> None:
    how = ("--features", trained, "--real", written_photos, "-n", 4, "--steps", 2, "--json")
    found = ddpm("sweep", run, "--guidance", "1.5,2", "--guide", "early", *how)
    assert found.code == 0, found.err
    assert [one["nfe"] for one in found.json()["settings"]] == [4, 4]
    sampled = ddpm("sample", run, "-n", 1, "--json").json()
    assert sampled["guide"] == str(run / "ema/000000000012-0.100.safetensors")
    assert sampled["guidance"] in (1.5, 2)
    other = ddpm("sample", run, "-n", 1, "--guide", "small.safetensors", "--json").json()
    assert (other["guide"], other["guidance"]) == ("small.safetensors", 1)  # weights are a guide's


def test_the_cost_of_a_call_is_that_of_the_larger_network(run: Path) -> None:
    sampling = Sampling(steps=2, guidance=1.7, guide="small.safetensors")
    model = with_guide(model_of(run / "model.safetensors"), sampling.guide)
    request = generate.GenerationRequest(4, 0, generate.ConditionPlan(), sampling)
    plain = generate.call_operations(model._replace(guide=None), request, None)
    assert generate.call_operations(model, request, None) == plain
    twice = replace(request, sampling=replace(sampling, class_guidance=2.0))
    assert generate.call_operations(model, twice, None) == 2 * plain
    smaller = model.guide._replace(guide=model._replace(guide=None))  # a large guide of a small one
    assert generate.call_operations(smaller, request, None) == plain
    assert len(generate.networks_of(smaller)) == 2
