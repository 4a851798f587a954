"""How images of any shape come to the size of a network."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import DataConfig, RunConfig, parse_colour
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data import files, loader, sources
from ddpm_cli.core.data.transform import Transform, power_of_two
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.metrics.inputs.opening import open_input
from ddpm_cli.core.runtime.reporting import Silent
from tests.support import colour_profiles
from tests.support.cli import Result, config_of, refused

Run = Callable[..., Result]
BLUE = (0, 0, 255)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def blocks(height: int, width: int, side: int = 8) -> np.ndarray:
    """Tiles of `side` pixels, each of its own colour: tile (y, x) is (20 y, 20 x, 9)."""
    y, x = np.mgrid[:height, :width] // side
    return np.stack([20 * y, 20 * x, np.full_like(y, 9)], -1).astype(np.uint8)


def test_padding_is_where_it_should_be() -> None:
    image = encoded(np.full((20, 40, 3), 200, np.uint8))
    pixels = files.decode(image, "a.png", Transform(3, (16, 16), "pad", BLUE))
    assert (pixels[:, 4:12] == 200).all()  # 8 of 16 rows, in the middle
    outside = np.delete(pixels, range(4, 12), axis=1)
    assert outside.shape == (3, 8, 16)
    assert (outside == np.array(BLUE)[:, None, None]).all()
    tall = files.decode(encoded(np.full((40, 20), 7, np.uint8)), "a", Transform(1, (20, 16), "pad"))
    assert (tall[0, :, 3:13] == 7).all()
    assert (np.delete(tall[0], range(3, 13), axis=1) == 255).all()


def test_what_is_padded_is_the_whole_image_resized() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    padded = files.decode(encoded(pixels), "a", Transform(3, (20, 20), "pad"))
    expected = Image.fromarray(pixels).resize((20, 12), Image.Resampling.BICUBIC)
    assert (padded[:, 4:16] == np.asarray(expected).transpose(2, 0, 1)).all()


def test_padding_of_grey_and_of_transparent_images() -> None:
    grey = files.decode(encoded(blocks(8, 16)), "a", Transform(1, (8, 8), "pad", BLUE))
    assert (grey[0, :2] == 29).all()  # 0.114 * 255
    rgba = np.full((8, 16, 4), 255, np.uint8)
    four = files.decode(encoded(rgba), "a", Transform(4, (8, 8), "pad", BLUE))
    assert (four[3, 2:6] == 255).all()
    assert four[:, 0, 0].tolist() == [*BLUE, 0]  # nothing is there


def test_stretching_and_cropping() -> None:
    pixels = blocks(16, 32)
    stretched = files.decode(encoded(pixels), "a", Transform(3, (16, 16), "stretch"))
    assert stretched[1, 0, [1, 5, 9, 13]].tolist() == [0, 20, 40, 60]  # all four tiles, thinner
    cropped = files.decode(encoded(pixels), "a", Transform(3, (16, 16), "crop"))
    assert (cropped == pixels[:, 8:24].transpose(2, 0, 1)).all()  # the two in the middle
    assert (files.decode(encoded(pixels), "a", Transform(3, (16, 16))) == cropped).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_all_are_antialiased_and_end_at_their_size(fit: str) -> None:
    stripes = np.zeros((64, 128), np.uint8)
    stripes[:, ::2] = 254  # beyond the target's Nyquist limit: they average to grey
    small = files.decode(encoded(stripes), "a", Transform(1, (8, 16), fit))
    assert abs(small[:, :, 1:-1].astype(int) - 127).max() <= 1
    for height, width in ((1, 1), (1, 20_000), (20_000, 1), (3, 7)):
        image = encoded(np.full((height, width, 3), 90, np.uint8))
        assert files.decode(image, "a", Transform(3, (8, 24), fit)).shape == (3, 8, 24)
    same = np.random.default_rng(0).integers(0, 256, (8, 24, 3)).astype(np.uint8)
    unchanged = files.decode(encoded(same), "a", Transform(3, (8, 24), fit))
    assert (unchanged == same.transpose(2, 0, 1)).all()
    array = files.fit(same.transpose(2, 0, 1), Transform(1, (4, 6), fit))
    assert (array == files.decode(encoded(same), "a", Transform(1, (4, 6), fit))).all()


def test_large_jpegs_are_as_good_as_decoded_whole() -> None:
    y, x = np.mgrid[:480, :640]
    smooth = np.stack([y / 2, x / 3, (x + y) / 5], -1).astype(np.uint8)
    for turn in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = turn
        data = encoded(smooth, "JPEG", quality=95, exif=exif)
        whole = files.decode(data, "a.jpg")
        for size in ((16, 128), (128, 16), (40, 40)):
            once = files.decode(data, "a.jpg", Transform(3, size))
            exact = files.fit(whole, Transform(3, size))
            assert np.abs(once.astype(int) - exact).mean() <= 1


def test_an_image_that_exif_turns_keeps_its_resolution() -> None:
    """The side that becomes the width decides how quickly a JPEG may be decoded for a wide size."""
    stripes = np.zeros((320, 5120, 3), np.uint8)
    stripes[(np.arange(320) // 5) % 2 == 1] = 255  # 64 stripes; at 1/8 they would be 40 pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(stripes, "JPEG", exif=exif)
    pixels = files.decode(data, "a.jpg", Transform(1, (16, 256)))
    assert pixels.std() > 100  # 127 of sharp stripes, 4 pixels each


@pytest.mark.parametrize(
    ("side", "up", "down"),
    [(1, 1, 1), (2, 2, 2), (3, 4, 2), (160, 256, 128), (200, 256, 128), (256, 256, 256)],
)
def test_powers_of_two(side: int, up: int, down: int) -> None:
    assert (power_of_two(side, "up"), power_of_two(side, "down")) == (up, down)


def test_colours() -> None:
    named = [parse_colour(name) for name in ("white", "black", "grey", "#0aFF10")]
    assert named == [(255,) * 3, (0,) * 3, (128,) * 3, (10, 255, 16)]
    for wrong in ("red", "#fff", "#12345g", "", "#1234567", "White"):
        with pytest.raises(UsageError, match=r"background .* is no colour; give white"):
            DataConfig(background=wrong)
    with pytest.raises(UsageError, match="choose one of crop, pad, stretch"):
        DataConfig(fit="squash")


def test_a_run_of_before_is_cropped_on_white() -> None:
    before = updated(RunConfig(), {"data": {"source": "photos"}})
    transform = Transform.of(before)
    assert (transform.fit, transform.background, transform.srgb) == ("crop", (255, 255, 255), True)


def write(folder: Path, pixels: np.ndarray, count: int = 8, **options: object) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.png").write_bytes(encoded(pixels, **options))
    return folder


def test_a_run_keeps_how_its_images_are_fitted(ddpm: Run, tiny: Path, tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[..., 0] = 255
    photos = write(tmp_path / "wide", pixels)
    given = ("train", "--data", photos, "--config", tiny, "--images", 8, "--size", "16x16")
    given = (*given, "--timesteps", 3, "--out", "run")
    chosen = ("--fit", "pad", "--background", "#204060")
    assert ddpm(*given, *chosen).code == 0
    data = config_of("run")["data"]
    assert (data["fit"], data["background"]) == ("pad", "#204060")
    assert ddpm(*given).code == 0  # a resume takes them from the run
    refused(ddpm(*given, "--fit", "stretch"), "--fit pad -> stretch")
    refused(ddpm(*given, "--background", "black"), "--background #204060 -> black")
    likelihood = ddpm("nll", "run", "-n", 2)
    assert (likelihood.code, "composited on #204060" in likelihood.err) == (0, True)
    refused(ddpm(*given, "--background", "blue"), "--background 'blue' is no colour")
    refused(ddpm(*given, "--fit", "zoom"), "--fit 'zoom' is unknown; choose one of crop, pad")


def test_each_way_of_fitting_has_its_own_cache(tmp_path: Path) -> None:
    source = sources.open_source(str(write(tmp_path / "a", blocks(16, 32), 2)))
    transforms = [
        Transform(3, (16, 16), fit, background, srgb)
        for fit in ("crop", "pad", "stretch")
        for background in ((0, 0, 0), BLUE)
        for srgb in (False, True)
    ]
    for transform in transforms:
        images = loader.prepare(source, transform, Silent())
        assert (images.pixels[0] == source.image(0, transform)).all()
    assert len({transform.key for transform in transforms}) == 12


def test_training_converts_profiles_and_scores_do_not(tmp_path: Path) -> None:
    """The published tools of FID read the numbers of a file as they are."""
    profile = colour_profiles.of_colours(colour_profiles.SRGB, 1.0)
    photos = write(tmp_path / "a", np.full((8, 8, 3), 55, np.uint8), 2, icc_profile=profile)
    (scored,) = open_input(str(photos)).batches(slice(None))
    assert (scored.numpy() == 55).all()
    source = sources.open_source(str(photos))
    training = loader.prepare(source, Transform.of(RunConfig()), Silent())
    light = 55 / 255
    level = 255 * (1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(training.pixels - level).max() <= 1


def test_resize_to_power(ddpm: Run, tiny: Path, tmp_path: Path) -> None:
    photos = write(tmp_path / "photos", blocks(20, 12))
    given = ("train", "--config", tiny, "--images", 8, "--json")
    up = ddpm(*given, "--data", photos, "--resize-to-power", "up", "--dry-run").json()
    assert up["size"] == [32, 16]
    down = (*given, "--data", photos, "--resize-to-power", "down", "--out", "run")
    assert ddpm(*down).code == 0
    assert config_of("run")["network"]["size"] == [16, 8]
    assert ddpm(*down).code == 0  # the same command again
    refused(ddpm(*given, "--data", photos, "--resize-to-power", "sideways"), "up, down")
    both = ddpm(*given, "--data", photos, "--resize-to-power", "up", "--size", 16)
    refused(both, "--resize-to-power takes the images' own size")
    (photos / "other.png").write_bytes(encoded(blocks(30, 30)))
    refused(ddpm(*given, "--data", photos, "--resize-to-power", "up"), "differ; give --size")
    with pytest.raises(UsageError, match="it needs no --size"):
        TrainingRequest(size=(8, 8), resize_to_power="up")
