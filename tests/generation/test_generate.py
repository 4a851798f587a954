"""Generation: each image depends on its seed alone, and a folder has exactly those requested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from ddpm_cli.core.conditioning.requests import ConditionPlan, ConditionRequest
from ddpm_cli.core.data.pictures import sheets
from ddpm_cli.core.data.readers.opening import open_image_files
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.seeds import ImageNoise, derive
from tests.support.cli import Result, start, stdout_of

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_run: Callable[..., Path]) -> Model:
    return load_model(tiny_run("runs/tiny") / "model.safetensors", CPU, torch.float32)


def class_request(classes: list[str] | None) -> ConditionRequest:
    return ConditionRequest(tuple(classes or ()))


def generated(
    model: Model,
    count: int,
    seed: int,
    batch: int,
    sampling: Sampling,
    classes: list[str] | None = None,
) -> np.ndarray:
    request = generate.resolve_request(
        model, count, seed, class_request(classes), sampling, Silent()
    )
    batches = generate.sample_batches(model, request, range(count), batch, Silent())
    return np.concatenate([images for _, images in batches])


def test_noise_is_a_function_of_the_seed() -> None:
    many = ImageNoise([3, 4, 5], (3, 4, 4), CPU)
    one = ImageNoise([4], (3, 4, 4), CPU)
    for _ in range(3):
        assert torch.equal(many()[1:2], one())
    assert derive(1, "a") != derive(1, "b") != derive(2, "b")


@pytest.mark.parametrize("sampling", [Sampling(4), Sampling(4, eta=1.0, guidance=3)])
def test_an_image_depends_on_its_seed_alone(model: Model, sampling: Sampling) -> None:
    together = generated(model, 7, 10, 7, sampling)
    in_parts = generated(model, 7, 10, 3, sampling)
    shifted = generated(model, 3, 14, 2, sampling)
    # The order of summation may depend on the batch size: one grey level.
    assert abs(together.astype(int) - in_parts).max() <= 1
    assert abs(together[4:].astype(int) - shifted).max() <= 1
    assert (together[0] != together[2]).any()


def test_classes_are_cycled_through_by_name_or_number(model: Model) -> None:
    def labels(classes: list[str] | None, seed: int = 0) -> list[int | None]:
        request = generate.resolve_request(
            model, 4, seed, class_request(classes), Sampling(4), Silent()
        )
        return [request.label_and_prompt(i)[0] for i in range(4)]

    assert labels(None) == [0, 1, 0, 1]
    assert labels(None, seed=1) == [1, 0, 1, 0]
    assert labels(["light"]) == labels(["1"]) == [1, 1, 1, 1]
    assert labels(["1", "dark"]) == [1, 0, 1, 0]


def test_more_steps_than_the_model_has(model: Model) -> None:
    with pytest.raises(UsageError, match="the model's 1000 timesteps, not 1001"):
        generate.resolve_request(model, 1, 0, ConditionRequest(), Sampling(1001), Silent())


def test_the_folder_has_exactly_n_images(ddpm: Callable[..., Result], model: Model) -> None:
    result = ddpm("sample", "-n", 5, "--steps", 3, "--seed", 7, "--out", "out", "--json")
    assert result.code == 0
    document = result.json()
    assert (document["n"], document["out"], document["nfe"]) == (5, "out", 3)
    names = sorted(path.name for path in Path("out").iterdir())
    numbered = [f"{i:06d}.png" for i in range(5)]
    assert names == [*numbered, "grid.png", "manifest.jsonl", "sampling.json"]
    manifest = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in manifest] == numbered
    assert [entry["seed"] for entry in manifest] == [7, 8, 9, 10, 11]
    assert [entry["class"] for entry in manifest] == ["light", "dark", "light", "dark", "light"]
    assert imageio.imread("out/grid.png").min() < 255


def test_an_incomplete_folder_is_completed(ddpm: Callable[..., Result], model: Model) -> None:
    command = ("sample", "-n", 4, "--steps", 3, "--out", "out")
    assert ddpm(*command).code == 0
    complete = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for name in ("000001.png", "grid.png", "manifest.jsonl"):
        Path("out", name).unlink()
    again = ddpm(*command, "--json")
    assert (again.code, again.json()["drawn"]) == (0, 1)
    assert {path.name for path in Path("out").iterdir()} == complete.keys()
    kept = ("000000.png", "000002.png", "000003.png", "manifest.jsonl")
    assert all(Path("out", name).read_bytes() == complete[name] for name in kept)


def test_images_of_different_settings_are_never_mixed(
    ddpm: Callable[..., Result], model: Model
) -> None:
    assert ddpm("sample", "-n", 4, "--steps", 3, "--out", "out").code == 0
    other = ddpm("sample", "-n", 4, "--steps", 4, "--out", "out")
    assert (other.code, "--overwrite" in other.err) == (1, True)
    fewer = ddpm("sample", "-n", 2, "--steps", 3, "--out", "out")
    assert (fewer.code, "more than 2 images" in fewer.err) == (1, True)
    replaced = ddpm("sample", "-n", 2, "--steps", 4, "--out", "out", "--overwrite")
    assert replaced.code == 0
    assert len(list(Path("out").glob("0*.png"))) == 2
    assert len(Path("out/manifest.jsonl").read_text().splitlines()) == 2


def test_overwriting_deletes_only_generated_images(
    ddpm: Callable[..., Result], model: Model
) -> None:
    Path("mine").mkdir()
    for name in ("000000.png", "1-cat.png", "notes.txt"):
        Path("mine", name).write_text("mine")
    result = ddpm("sample", "-n", 1, "--steps", 2, "--out", "mine", "--overwrite")
    assert (result.code, "did not write" in result.err) == (1, True)
    assert all(path.read_text() == "mine" for path in Path("mine").iterdir())


def test_a_generated_folder_has_n_images_for_other_commands(
    ddpm: Callable[..., Result], model: Model
) -> None:
    assert ddpm("sample", "-n", 3, "--steps", 2, "--out", "out").code == 0
    assert len(open_image_files(Path("out")).names) == 3  # without grid.png


def test_without_a_name_the_next_free_folder_is_used(
    ddpm: Callable[..., Result], model: Model
) -> None:
    def folder(*arguments: object) -> str:
        return str(ddpm("sample", "-n", 1, *arguments, "--json").json()["out"])

    assert folder("--steps", 2) == "runs/tiny/generated"
    assert folder("--steps", 3) == "runs/tiny/generated-2"
    assert folder("--steps", 2) == "runs/tiny/generated"  # the same images, already there


def test_eta_1_and_ddpm_are_the_same(ddpm: Callable[..., Result], model: Model) -> None:
    assert ddpm("sample", "-n", 2, "--steps", 3, "--sampler", "ddpm", "--out", "a").code == 0
    assert ddpm("sample", "-n", 2, "--steps", 3, "--eta", 1, "--out", "b").code == 0
    assert ddpm("sample", "-n", 2, "--steps", 3, "--eta", 0, "--out", "c").code == 0
    a, b, c = (imageio.imread(f"{name}/000001.png").tobytes() for name in "abc")
    assert a == b != c


def test_two_processes_generate_the_same_images(ddpm: Callable[..., Result], model: Model) -> None:
    command = ("sample", "-n", 5, "--steps", 3)
    assert ddpm(*command, "--out", "one").code == 0
    document = json.loads(stdout_of(start(*command, "--out", "two", "--nproc", 2, "--json")))
    assert document["drawn"] == 5
    assert Path("one/manifest.jsonl").read_text() == Path("two/manifest.jsonl").read_text()
    for i in range(5):
        a, b = (imageio.imread(f"{name}/{i:06d}.png").astype(int) for name in ("one", "two"))
        assert abs(a - b).max() <= 1


@pytest.mark.parametrize(("show", "width"), [("xt", 1), ("x0", 1), ("both", 2)])
def test_a_gif_starts_at_noise_and_ends_at_the_images(
    ddpm: Callable[..., Result], model: Model, show: str, width: int
) -> None:
    arguments = ("-n", 4, "--steps", 6, "--every", 2, "--show", show, "--out", "film.gif", "--json")
    result = ddpm("gif", *arguments)
    assert (result.code, result.json()["frames"]) == (0, 4)
    frames = imageio.imread("film.gif", index=None)
    assert len(frames) == 4
    assert frames.shape[2] == pytest.approx(width * frames.shape[1], rel=0.01)
    assert ddpm("sample", "-n", 4, "--steps", 6, "--out", "out").code == 0
    drawn = np.stack([imageio.imread(f"out/{i:06d}.png").transpose(2, 0, 1) for i in range(4)])
    grid = sheets.grid(drawn).transpose(1, 2, 0)
    factor = frames.shape[1] // grid.shape[0]
    assert frames.shape[1] >= 400
    expected = grid.repeat(factor, axis=0).repeat(factor, axis=1)
    # A GIF has 256 colours.
    last = frames[-1][:, -expected.shape[1] :].astype(int)
    assert abs(last - expected).mean() < 12


def test_gifs_are_not_overwritten(ddpm: Callable[..., Result], model: Model) -> None:
    quick = ("gif", "-n", 1, "--steps", 2, "--json")
    assert ddpm(*quick).json()["out"] == "runs/tiny/denoising.gif"
    assert ddpm(*quick).json()["out"] == "runs/tiny/denoising-2.gif"
    assert ddpm(*quick, "--out", "x.gif").code == 0
    again = ddpm(*quick, "--out", "x.gif")
    assert (again.code, "x.gif exists" in again.err) == (1, True)
    assert ddpm(*quick, "--out", "x.gif", "--overwrite").code == 0


def test_models_without_classes_refuse_guidance_and_classes(
    ddpm: Callable[..., Result], train_tiny: Callable[..., Result], tiny_run: Callable[..., Path]
) -> None:
    tiny_run("runs/plain", "--unconditional")
    guided = ddpm("sample", "runs/plain", "--guidance", 4)
    assert (guided.code, "nothing to guide" in guided.err) == (1, True)
    named = ddpm("sample", "runs/plain", "--class", "dark")
    assert (named.code, "without classes" in named.err) == (1, True)
    assert train_tiny("--out", "runs/always", "--class-drop", 0).code == 0
    guided = ddpm("sample", "runs/always", "--guidance", 4)
    assert (guided.code, "no unconditional branch" in guided.err) == (1, True)
    assert ddpm("sample", "runs/always", "-n", 1, "--steps", 2).code == 0


def test_other_files_are_refused(ddpm: Callable[..., Result], model: Model) -> None:
    from safetensors.torch import load_file, save_file

    Path("text.safetensors").write_text("hello")
    save_file({"w": torch.zeros(2)}, "other.safetensors")
    tensors = load_file(model.path)
    shorter = {name: tensor for name, tensor in tensors.items() if name != "norm.weight"}
    from ddpm_cli.core.checkpoints import weights

    weights.save(Path("short.safetensors"), shorter, model.config, 1)
    for name, message in (
        ("text.safetensors", "is no weights file but a text file"),
        ("other.safetensors", "not the config"),
        ("short.safetensors", "norm.weight"),
        ("nowhere", "no such run"),
        (".", "is not a run"),
    ):
        result = ddpm("sample", name)
        assert (result.code, message in result.err) == (1, True), result.err
        assert len(result.err.splitlines()) == 1


def test_the_newest_run_is_the_default(
    ddpm: Callable[..., Result], train_tiny: Callable[..., Result]
) -> None:
    import os

    for name, age in (("old", 100), ("new", 0), ("older", 200)):
        assert train_tiny("--out", f"runs/{name}").code == 0
        path = Path("runs", name, "model.safetensors")
        seconds = path.stat().st_mtime - age
        os.utime(path, (seconds, seconds))
    result = ddpm("sample", "-n", 1, "--steps", 2, "--json")
    assert result.json()["weights"] == "runs/new/model.safetensors"


def test_invalid_requests() -> None:
    with pytest.raises(DdpmError, match="-n"):
        generate.GenerationRequest(0, 0, ConditionPlan(), Sampling())


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ("--sampler ddpm --variance fixed-large", 3),
        ("--eta 0.5 --spacing leading", 3),
        ("--spacing quadratic --threshold none", 3),
        ("--sampler euler --spacing exponential", 3),
        ("--timesteps 90,60,5 --final-sigma sigma-min", 3),
        ("--sampler dpmpp-2m --sigmas 2,1.5,0.1", 3),
        ("--sections 2,1 --sampler dpmpp-2m-sde --eta 0.3", 3),
        ("--sampler heun --s-churn 2 --s-min 0.1 --s-max 50 --s-noise 1.01", 5),
        ("--sampler dpmpp-2m --guidance 3 --guidance-rescale 0.7 --threshold dynamic", 6),
        ("--sampler ipndm --guidance 3 --guidance-interval 0.1,10", 4),
    ],
)
def test_every_option_works_and_is_recorded(
    ddpm: Callable[..., Result], model: Model, options: str, nfe: int
) -> None:
    arguments = options.split()
    result = ddpm("sample", "-n", 2, "--steps", 3, *arguments, "--out", "out", "--json")
    assert result.code == 0, result.err
    assert result.json()["nfe"] == nfe
    recorded = json.loads(Path("out/sampling.json").read_text())
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        setting = recorded[name.strip("-").replace("-", "_")]
        assert value == (
            ",".join(f"{x:g}" for x in setting)
            if isinstance(setting, list)
            else str(setting).removesuffix(".0")
        )
    assert ddpm("sample", "-n", 2, "--steps", 3, *arguments, "--out", "out").code == 0  # completed
    film = ddpm("gif", "-n", 2, "--steps", 3, *arguments, "--out", "film.gif", "--json")
    assert film.json()["sampler"] == recorded["sampler"]
    assert film.json()["sigmas"] == recorded["sigmas"]


def test_the_networks_own_noise(ddpm: Callable[..., Result], model: Model) -> None:
    call = ("sample", "-n", 2, "--steps", 3, "--json", "--out")
    assert ddpm(*call, "clipped").json()["unclipped_eps"] is False
    assert ddpm(*call, "own", "--unclipped-eps").json()["unclipped_eps"] is True
    one, other = (Path(folder, "000000.png").read_bytes() for folder in ("clipped", "own"))
    assert one != other


def test_a_variance_that_was_not_learned(ddpm: Callable[..., Result], model: Model) -> None:
    result = ddpm("sample", "-n", 1, "--steps", 2, "--sampler", "ddpm", "--variance", "learned")
    assert (result.code, "use --variance fixed-small" in result.err) == (2, True)


def test_a_late_start_is_reported(ddpm: Callable[..., Result], model: Model) -> None:
    command = ("sample", "-n", 1, "--steps", 1, "--spacing")
    assert "expect poor images" in ddpm(*command, "leading").err
    assert "poor" not in ddpm(*command, "trailing", "--out", "other").err
