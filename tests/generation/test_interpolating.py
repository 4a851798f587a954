"""Noise of images and between seeds: `ddpm invert`, `ddpm interpolate`, `ddpm sample --noise`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.generation.starting_noise import between
from tests.support.cli import Result, refused
from tests.support.networks import write_weights

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
    np.save("other.npy", np.zeros((1, 3, 9, 9), np.float32))
    np.save("nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    given = [weights if argument == "{run}" else argument for argument in arguments]
    refused(ddpm(*given, "--out", "out"), *words)
    assert not Path("out").exists()
