"""Noise of images and between seeds: `ddpm invert`, `ddpm interpolate`, `ddpm sample --noise`."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cli.core.checkpoints import weights as weights_files
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.generation.starts import inversion
from ddpm_cli.core.generation.starts.starting_noise import between
from ddpm_cli.core.models.unet import UNet
from tests.support.cli import Result, refused
from tests.support.networks import TEXT, TINY_RUN, randomised, write_weights

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("run"))


def read(path: str | Path) -> ImageArray:
    return files.decode(Path(path).read_bytes(), str(path))


def done(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def test_the_path_between_two_noises_keeps_their_length() -> None:
    one, other = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    path = between(one, other, 7)
    assert torch.equal(path[0], one) and torch.equal(path[-1], other)
    assert path.std(dim=(1, 2, 3)).sub(1).abs().max() < 0.03
    straight = torch.stack([one, other]).mean(0)  # on a chord, which is shorter
    assert straight.std() < 0.75
    for a, b in itertools.pairwise(path):  # equal angles
        angle = math.acos(float((a * b).sum() / a.norm() / b.norm()))
        total = math.acos(float((one * other).sum() / one.norm() / other.norm()))
        assert angle == pytest.approx(total / 6, rel=1e-3)
    assert torch.equal(between(one, one, 3), torch.stack([one, one, one]))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp-3m", "ipndm"])
def test_the_ends_are_those_of_the_seeds(ddpm: Run, weights: Path, sampler: str) -> None:
    method = ("--steps", 4, "--sampler", sampler, "--guidance", 1.5)
    result = done(
        ddpm("interpolate", weights, 3, 8, "-n", 5, "--out", "between", *method, "--json")
    )
    assert result.json()["n"] == 5
    names = [path.name for path in sorted(Path("between").glob("0*.png"))]
    assert names == [f"{index:06d}.png" for index in range(5)]
    for seed, name in ((3, "000000.png"), (8, "000004.png")):
        done(
            ddpm(
                "sample",
                weights,
                "-n",
                1,
                "--seed",
                seed,
                "--class",
                "light",
                "--out",
                f"{seed}",
                *method,
            )
        )
        np.testing.assert_allclose(read(f"between/{name}"), read(f"{seed}/000000.png"), atol=1)
    lines = Path("between/manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["class"] for line in lines} == {"light"}  # that of seed 3


def test_images_are_inverted_and_sampled_again(ddpm: Run, weights: Path) -> None:
    done(ddpm("sample", weights, "-n", 3, "--steps", 12, "--guidance", 0, "--out", "drawn"))
    command = ("invert", weights, "drawn", "--steps", 12, "--out", "noise")
    found = done(ddpm(*command, "--json")).json()
    assert found["n"] == 3 and len(found["images"]) == 3
    noise = np.load("noise/noise.npy")
    assert noise.shape == (3, 3, 8, 8) and noise.dtype == np.float32
    again = ("sample", weights, "--noise", "noise/noise.npy", "--steps", 12, "--guidance", 0)
    done(ddpm(*again, "--out", "again"))
    for index, image in enumerate(found["images"]):
        one, other = (read(f"{folder}/{index:06d}.png") for folder in ("drawn", "again"))
        rmse = np.sqrt(((one.astype(float) - other) ** 2).mean())
        assert image["rmse"] == pytest.approx(rmse, abs=0.1)
        assert image["psnr"] == pytest.approx(20 * math.log10(255 / image["rmse"]))
        assert rmse < 8
    picture = read("noise/inversion.png")
    assert picture.shape[2] >= 768
    result = done(ddpm(*command[:-1], "once more"))
    assert "000002.png: " in result.out and "PSNR" in result.out and "--guidance 0" in result.out


def test_between_images(ddpm: Run, weights: Path) -> None:
    done(ddpm("sample", weights, "-n", 2, "--steps", 12, "--guidance", 0, "--out", "drawn"))
    ends = ("drawn/000000.png", "drawn/000001.png")
    done(ddpm("interpolate", weights, *ends, "-n", 4, "--steps", 12, "--out", "between"))
    for end, frame in zip(ends, ("000000.png", "000003.png"), strict=True):
        error = read(end).astype(float) - read(f"between/{frame}")
        assert np.sqrt((error**2).mean()) < 8
    assert read("between/grid.png").shape[2] >= 768


def classes_of(folder: str) -> list[str]:
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    return [json.loads(line)["class"] for line in lines]


@pytest.mark.parametrize("guidance", [1, 2])
def test_a_seed_at_one_end_gives_its_class_to_all_images(
    ddpm: Run, weights: Path, guidance: int
) -> None:
    files.write_png(Path("a.png"), np.full((3, 8, 8), 90, np.uint8))
    method = ("--steps", 4, "--guidance", guidance)
    done(ddpm("interpolate", weights, "a.png", 3, "-n", 3, "--out", "between", *method))
    assert classes_of("between") == ["light"] * 3
    done(ddpm("sample", weights, "-n", 1, "--seed", 3, "--out", "3", *method))
    assert classes_of("3") == ["light"]
    np.testing.assert_allclose(read("between/000002.png"), read("3/000000.png"), atol=1)


def test_guided_images_between_two_have_one_class_and_are_drawn_once(
    ddpm: Run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png, written = files.write_png, list[str]()

    def counted(path: Path, *rest: Any) -> None:
        written.append(path.name)
        write_png(path, *rest)

    write_png(Path("a.png"), np.full((3, 8, 8), 90, np.uint8))
    monkeypatch.setattr(files, "write_png", counted)
    quick = ("-n", 3, "--steps", 2, "--out", "out")
    done(ddpm("interpolate", weights, "a.png", "a.png", *quick, "--guidance", 2))
    assert classes_of("out") == ["dark"] * 3
    assert written.count("grid.png") == 1


@pytest.fixture
def with_text(tmp_path: Path) -> Path:
    """A weights file of random weights, of classes and captions."""
    network = replace(TINY_RUN.network, size=(8, 8), classes=("dark", "light"), text=TEXT)
    network = replace(network, blocks=("res,text-attn",))
    state = randomised(UNet(network), std=0.1).float().state_dict()
    diffusion = replace(TINY_RUN.diffusion, timesteps=12)  # which are the steps by default
    config = replace(TINY_RUN, network=network, diffusion=diffusion)
    weights_files.save(tmp_path / "text.safetensors", state, config, 64)
    return tmp_path / "text.safetensors"


def test_the_command_printed_samples_the_images_again(ddpm: Run, with_text: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        pixels = random.integers(60, 200, (3, 8, 8)).astype(np.uint8)
        files.write_png(Path("some") / f"{index}.png", pixels)
    Path("two.txt").write_text("dark\nother\n")
    said = ("--class", "dark", "--class", "light", "--prompts", "two.txt", "--seed", 1)
    result = done(ddpm("invert", with_text, "some", *said, "--out", "noise"))
    again = shlex.split(result.out.partition("To sample from it: ")[2])
    assert again[:2] == ["ddpm", "sample"]
    done(ddpm(*again[1:], "--out", "again"))
    recorded = json.loads(Path("noise/inversion.json").read_text())["images"]
    for index, image in enumerate(recorded):
        difference = read(f"some/{index}.png").astype(float) - read(f"again/{index:06d}.png")
        assert image["rmse"] == pytest.approx(np.sqrt((difference**2).mean()), rel=0.01)


def test_inversion_takes_fewer_images_where_memory_runs_out(
    ddpm: Run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise_of = inversion.noise_of

    def limited(model: Any, request: Any, images: Any, indices: Any) -> torch.Tensor:
        if len(images) > 2:
            raise MemoryError
        return noise_of(model, request, images, indices)

    np.save("some.npy", np.full((3, 8, 8, 3), 90, np.uint8))
    quick = ("invert", weights, "some.npy", "--steps", 2, "--json")
    whole = done(ddpm(*quick, "--out", "whole")).json()["images"]
    monkeypatch.setattr(inversion, "noise_of", limited)
    result = done(ddpm(*quick, "--out", "parts"))
    assert "continuing with 2" in result.err
    for one, other in zip(result.json()["images"], whole, strict=True):
        assert one["rmse"] == pytest.approx(other["rmse"], rel=0.01)


@pytest.mark.parametrize("name", ["noise.npy", "inversion.png", "inversion.json"])
def test_an_inversion_replaces_nothing(ddpm: Run, weights: Path, name: str) -> None:
    files.write_png(Path("a.png"), np.full((3, 8, 8), 90, np.uint8))
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    command = ("invert", weights, "a.png", "--steps", 2, "--out", "out")
    result = ddpm(*command)
    assert result.code == 1 and f"{name} exists" in result.err and "--overwrite" in result.err
    assert [path.name for path in Path("out").iterdir()] == [name]
    assert Path("out", name).read_text() == "mine"
    done(ddpm(*command, "--overwrite"))
    assert len(list(Path("out").iterdir())) == 3


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["interpolate", 1], ["two seeds", "1 arguments"]),
        (["interpolate", "{run}", 1, 2, 3], ["two seeds"]),
        (["interpolate", "{run}", 1, 2, "-n", 1], ["-n", "2"]),
        (["interpolate", "{run}", 1, 2, "--eta", 1], ["deterministic", "eta 1"]),
        (["interpolate", "{run}", 1, 2, "--sampler", "ddpm"], ["deterministic", "ddpm"]),
        (["interpolate", "{run}", 1, 2, "--sampler", "heun", "--s-churn", 5], ["churn 5"]),
        (["interpolate", "{run}", 1, 2, "--class", "dark", "--class", "light"], ["one class"]),
        (["interpolate", "{run}", "a.png", "none.png"], ["none.png", "no such file"]),
        (["interpolate", "{run}", "some", 1], ["one image", "some has 2"]),
        (["interpolate", "{run}", "a.png", 1, "--sampler", "heun"], ["ddim or euler", "heun"]),
        (["invert", "{run}", "none.png"], ["none.png", "no such file"]),
        (["invert", "{run}", "a.png", "--sampler", "dpmpp-2m"], ["ddim or euler", "dpmpp-2m"]),
        (["invert", "{run}", "a.png", "--eta", 0.5], ["deterministic", "0.5"]),
        (["sample", "{run}", "--noise", "none.npy"], ["--noise", "none.npy"]),
        (["sample", "{run}", "--noise", "a.png"], ["--noise", "a.png"]),
        (["sample", "{run}", "--noise", "other.npy"], ["other.npy", "(1, 3, 9, 9)", "3, 8, 8"]),
        (["sample", "{run}", "--noise", "nan.npy"], ["nan.npy", "finite"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_line(
    ddpm: Run, weights: Path, arguments: list[object], words: list[str]
) -> None:
    files.write_png(Path("a.png"), np.full((3, 8, 8), 90, np.uint8))
    for name in ("b", "c"):
        files.write_png(Path("some") / f"{name}.png", np.full((3, 8, 8), 90, np.uint8))
    np.save("other.npy", np.zeros((1, 3, 9, 9), np.float32))
    np.save("nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    given = [weights if argument == "{run}" else argument for argument in arguments]
    refused(ddpm(*given, "--out", "out"), *words)
    assert not Path("out").exists()
