"""Image to image, inpainting and outpainting, through the whole command and its PNGs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.data.files import ImageArray
from ddpm_cli.core.data.input_images import InputImages
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.generation.starts.initial import InitialRequest
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.cli import Result, refused
from tests.support.networks import write_weights

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained weights of a tiny network for images of 8x8 in two classes."""
    return write_weights(tmp_path_factory.mktemp("run"))


def image(path: str, height: int, width: int, *, seed: int = 0, channels: int = 3) -> ImageArray:
    """Write a smooth image that has noise; its pixels (C, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 60 * np.sin(x / 3 + seed) + 40 * np.cos(y / 2)
    pixels = smooth + rng.integers(-20, 20, (channels, height, width))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    files.write_png(Path(path), pixels)
    return pixels


def mask(path: str, height: int, width: int, *areas: tuple[slice, slice, int]) -> ImageArray:
    """Write a mask that is black but for areas of a grey level; (H, W)."""
    pixels = np.zeros((1, height, width), np.uint8)
    for rows, columns, level in areas:
        pixels[:, rows, columns] = level
    files.write_png(Path(path), pixels)
    return pixels[0]


def read(path: str | Path, channels: int = 3) -> ImageArray:
    return files.decode(Path(path).read_bytes(), str(path), Transform(channels))


def sample(ddpm: Run, weights: Path, *options: object) -> dict[str, object]:
    result = ddpm("sample", weights, "--steps", 4, "--out", "out", "--json", *options)
    assert result.code == 0, result.err
    document: dict[str, object] = result.json()
    return document


def fault(result: Result) -> str:
    """The line of an error, after what was said before."""
    assert result.code in (1, 2)
    return result.err.splitlines()[-1]


LEFT = np.s_[:, :3]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp-3m-sde"])
def test_strength_0_and_1(ddpm: Run, weights: Path, sampler: str) -> None:
    original = image("photo.png", 11, 14)
    method = ("--sampler", sampler, "--class", "light", "--guidance", 2)
    document = sample(ddpm, weights, "--init", "photo.png", "--strength", 0, *method)
    assert (document["nfe"], document["n"]) == (0, 1)
    np.testing.assert_array_equal(read("out/photo.png"), original)
    small = image("small.png", 8, 8)
    sample(ddpm, weights, "--init", "small.png", "--strength", 1, *method, "--overwrite")
    assert not Path("out/photo.png").exists()
    result = ddpm("sample", weights, "--steps", 4, "--out", "plain", *method, "-n", 1)
    assert result.code == 0
    np.testing.assert_array_equal(read("out/small.png"), read("plain/000000.png"))
    sample(ddpm, weights, "--init", "small.png", "--strength", 0.5, *method, "--overwrite")
    assert (read("out/small.png") != small).any()
    assert (read("out/small.png") != read("plain/000000.png")).any()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp-2m", "ipndm"])
@pytest.mark.parametrize("size", [(8, 8), (21, 13), (5, 6)])
def test_known_pixels_are_those_of_the_file(
    ddpm: Run, weights: Path, sampler: str, size: tuple[int, int]
) -> None:
    original = image("photo.png", *size)
    rows, columns = np.s_[1 : size[0] // 2], np.s_[2 : size[1] - 1]
    known = mask("mask.png", *size, (rows, columns, 255)) == 0
    options = ("--init", "photo.png", "--mask", "mask.png", "--sampler", sampler)
    document = sample(ddpm, weights, *options, "--resample", 2, "--class", "dark", "-n", 2)
    for name in ("photo", "photo-2"):
        drawn = read(f"out/{name}.png")
        assert drawn.shape == original.shape
        np.testing.assert_array_equal(drawn[:, known], original[:, known])
        assert (drawn[:, ~known] != original[:, ~known]).any()
    steps = 4 * 2 if sampler != "heun" else (4 * 2 - 1) * 2
    assert document["nfe"] == steps


def test_a_grey_mask_blends(ddpm: Run, weights: Path) -> None:
    original = image("photo.png", 8, 8)
    mask("white.png", 8, 8, (np.s_[:], np.s_[:4], 255))
    mask("grey.png", 8, 8, (np.s_[:], np.s_[:4], 102))
    sample(ddpm, weights, "--init", "photo.png", "--mask", "white.png")
    drawn = read("out/photo.png")
    sample(ddpm, weights, "--init", "photo.png", "--mask", "grey.png", "--overwrite")
    expected = (0.6 * original + 0.4 * drawn).round()
    np.testing.assert_allclose(read("out/photo.png"), expected, atol=1)
    np.testing.assert_array_equal(read("out/photo.png")[:, :, 4:], original[:, :, 4:])


def test_a_larger_mask_draws_what_is_around(ddpm: Run, weights: Path) -> None:
    original = image("photo.png", 5, 6)
    mask("mask.png", 8, 11)
    sample(ddpm, weights, "--init", "photo.png", "--mask", "mask.png")
    drawn = read("out/photo.png")
    assert drawn.shape == (3, 8, 11)
    np.testing.assert_array_equal(drawn[:, 1:6, 2:8], original)
    around = np.ones((8, 11), bool)
    around[1:6, 2:8] = False
    mirrored = np.pad(original, ((0, 0), (1, 2), (2, 3)), mode="symmetric")
    assert (drawn[:, around] != mirrored[:, around]).mean() > 0.5


def test_a_folder_keeps_names_sizes_and_order(ddpm: Run, weights: Path) -> None:
    sizes = {"b/dog.png": (8, 8), "a.png": (20, 9), "c.png": (4, 30)}
    originals = {
        name: image(f"photos/{name}", *sizes[name], seed=i) for i, name in enumerate(sizes)
    }
    for name, (height, width) in sizes.items():
        mask(f"masks/{name}", height, width, (np.s_[:], np.s_[: width // 2], 255))
    options = ("--init", "photos", "--mask", "masks", "--batch", 2)
    assert sample(ddpm, weights, *options)["n"] == 3
    lines = Path("out/manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["file"] for entry in entries] == ["a.png", "b/dog.png", "c.png"]
    assert [entry["seed"] for entry in entries] == [0, 1, 2]
    for name, original in originals.items():
        width = original.shape[2]
        np.testing.assert_array_equal(
            read(f"out/{name}")[:, :, width // 2 :], original[:, :, width // 2 :]
        )
    alone = ddpm(
        "sample", weights, "--steps", 4, "--out", "alone", "--init", "photos/c.png",
        "--mask", "masks/c.png", "--seed", 2, "--class", "dark",
    )  # fmt: skip
    assert alone.code == 0, alone.err
    np.testing.assert_array_equal(read("alone/c.png"), read("out/c.png"))


def test_a_folder_is_completed_and_not_mixed(ddpm: Run, weights: Path) -> None:
    image("photos/a.png", 8, 8)
    image("photos/b.png", 9, 8)
    assert sample(ddpm, weights, "--init", "photos")["drawn"] == 2
    before = read("out/b.png")
    Path("out/b.png").unlink()
    Path("photos").rename("moved")
    assert sample(ddpm, weights, "--init", "moved")["drawn"] == 1
    np.testing.assert_array_equal(read("out/b.png"), before)
    assert sample(ddpm, weights, "--init", "moved", "-n", 5)["drawn"] == 3
    command = ("sample", weights, "--steps", 4, "--out", "out", "--init", "moved")
    for other in (["--strength", 0.3], ["-n", 4]):
        assert fault(ddpm(*command, *other)).startswith("ddpm: out holds")
    image("moved/b.png", 9, 8, seed=5)
    assert fault(ddpm(*command)).startswith("ddpm: out holds samples with other settings")
    Path("out/kept").mkdir()
    image("out/kept/mine.png", 3, 3)
    assert sample(ddpm, weights, "--init", "moved", "--overwrite")["drawn"] == 2
    assert sorted(path.name for path in Path("out").rglob("*.png")) == [
        "a.png", "b.png", "grid.png", "mine.png",
    ]  # fmt: skip


def test_archives(ddpm: Run, weights: Path) -> None:
    first, second = image("photos/a.png", 9, 12), image("photos/b.png", 9, 12, seed=1)
    command = ("sample", weights, "--steps", 4, "--init", "photos", "--strength", 0)
    assert ddpm(*command, "--out", "out.npz").code == 0
    arrays = np.load("out.npz")["arr_0"]
    np.testing.assert_array_equal(arrays.transpose(0, 3, 1, 2), [first, second])
    third = image("photos/c.png", 4, 4)
    assert "have different sizes" in fault(ddpm(*command, "--out", "mixed.npz"))
    assert not Path("mixed.npz").exists()
    result = ddpm(*command, "--out", "mixed.zip")
    assert result.code == 0, result.err
    with zipfile.ZipFile("mixed.zip") as archive:
        content = archive.read("c.png")
    np.testing.assert_array_equal(files.decode(content, "c.png"), third)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--strength", 0.5], ["--strength", "--init"]),
        (["--mask", "half.png"], ["--mask", "--init"]),
        (["--resample", 2], ["--resample", "--init"]),
        (["--init", "photo.png", "--resample", 2], ["--resample", "--mask"]),
        (["--init", "photo.png", "--strength", 1.5], ["--strength", "between 0", "1.5"]),
        (["--init", "photo.png", "--strength", -0.1], ["--strength", "-0.1"]),
        (["--init", "photo.png", "--strength", "nan"], ["--strength", "nan"]),
        (["--init", "photo.png", "--mask", "half.png", "--resample", 0], ["--resample", "0"]),
        (["--init", "none.png"], ["none.png", "no such file"]),
        (["--init", "text.png"], ["text.png", "not an image"]),
        (["--init", "cut.png"], ["cut.png", "cut short"]),
        (["--init", "photo.png", "--mask", "none.png"], ["--mask", "none.png", "no such file"]),
        (["--init", "photo.png", "--mask", "black.png"], ["black.png", "black everywhere"]),
        (["--init", "photo.png", "--mask", "small.png"], ["small.png", "4x4", "photo.png", "8x8"]),
        (["--init", "photo.png", "--mask", "text.png"], ["text.png", "not an image"]),
        (["--init", "photos", "--mask", "masks"], ["masks", "b.png"]),
        (["--init", "photo.png", "-n", 0], ["-n"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_line(
    ddpm: Run, weights: Path, options: list[object], words: list[str]
) -> None:
    image("photo.png", 8, 8)
    image("photos/a.png", 8, 8)
    image("photos/b.png", 8, 8)
    mask("masks/a.png", 8, 8, (*LEFT, 255))
    mask("half.png", 8, 8, (*LEFT, 255))
    mask("black.png", 8, 8)
    mask("small.png", 4, 4, (*LEFT, 255))
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:-60])
    refused(ddpm("sample", weights, "--steps", 4, "--out", "out", *options), *words)
    assert not Path("out").exists()


def like(ddpm: Run, weights: Path, path: str, *options: object) -> ImageArray:
    """The image that --like draws, of the name that path has."""
    again = ("sample", weights, "--like", path, "--out", "again", "--overwrite", *options)
    result = ddpm(*again)
    assert result.code == 0, result.err
    return read(f"again/{Path(path).name}")


def test_like_an_edited_image(ddpm: Run, weights: Path) -> None:
    """Of its own image among several, with what was recorded but for what is given."""
    image("photos/a.png", 8, 8)
    image("photos/b.png", 8, 9, seed=1)
    mask("masks/a.png", 8, 8, (*LEFT, 255))
    mask("masks/b.png", 8, 9, (*LEFT, 255))
    edit = ("--init", "photos", "--strength", 0.7, "--mask", "masks", "--resample", 2)
    sample(ddpm, weights, *edit, "--seed", 3)
    drawn = read("out/b.png")
    refused(ddpm("sample", weights, "--like", "out/b.png"), "--init b.png")
    for init in ("photos", "photos/b.png"):
        np.testing.assert_array_equal(like(ddpm, weights, "out/b.png", "--init", init), drawn)
    for changed in (("--strength", 0.3), ("--resample", 1), ("--mask", "all.png")):
        mask("all.png", 8, 9, (np.s_[:], np.s_[:], 255))
        other = like(ddpm, weights, "out/b.png", "--init", "photos", *changed)
        assert (other != drawn).any()
        sampling = json.loads(Path("again/sampling.json").read_text())
        expected = {"strength": 0.7, "mask": "masks", "resample": 2, changed[0][2:]: changed[1]}
        assert sampling.items() >= expected.items()
    again = ("sample", weights, "--like", "out/b.png", "--out", "no", "--init", "photos")
    mask("masks/b.png", 8, 9, (np.s_[:], np.s_[:2], 255))
    assert "--mask masks has other pixels than the mask" in fault(ddpm(*again))
    image("photos/b.png", 8, 9, seed=2)
    assert "--init photos has other pixels than the image" in fault(ddpm(*again))
    Path("photos/b.png").rename("photos/c.png")
    Path("masks/b.png").rename("masks/c.png")
    assert "photos lacks b.png" in fault(ddpm(*again))
    assert not Path("no").exists()


def test_images_of_cells_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image("photo.png", 8, 8)
    request, read_again = InitialRequest("photo.png"), list[int]()
    monkeypatch.setattr(InputImages, "digest", lambda *_: read_again.append(1) or "")
    network = NetworkConfig(size=(8, 8))
    assert request.open(network, Silent()) is request.open(network, Silent())
    assert len(read_again) == 1
