"""Pixels, image files, the built-in shapes, sources, and the order of training."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cli.core.config.fields import settings_of
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.data import files, loader, named, sources
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.order import SampleOrder
from ddpm_cli.core.data.pictures import films, sheets
from ddpm_cli.core.data.pixels import to_uint8, to_unit
from ddpm_cli.core.data.shapes import COLOURS, FIGURES, Shapes
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.reporting import Silent
from tests.support.cli import Result


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_pixels_to_unit_range_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)
    assert (to_unit(levels)[0].item(), to_unit(levels)[255].item()) == (-1, 1)
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0])).tolist() == [0, 255, 128]
    # The nearest level, not the one below: 100.6 is 101.
    assert to_uint8(torch.tensor(100.6 / 127.5 - 1)).item() == 101


@pytest.mark.parametrize(
    ("image", "channels", "pixel"),
    [
        (Image.new("L", (4, 4), 100), 3, [100, 100, 100]),
        (Image.new("RGB", (4, 4), (10, 20, 30)), 3, [10, 20, 30]),
        (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), 3, [255, 255, 255]),  # composited on white
        (Image.new("RGBA", (4, 4), (10, 20, 30, 40)), 4, [10, 20, 30, 40]),
        (Image.new("1", (4, 4), 1), 1, [255]),
        (Image.new("P", (4, 4), 0), 3, [0, 0, 0]),
        (Image.fromarray(np.full((4, 4), 40000, np.uint16)), 1, [156]),  # 40000 / 257
        (Image.fromarray(np.full((4, 4), 200, np.uint16)), 1, [1]),  # dark, but 16-bit
    ],
)
def test_modes(image: Image.Image, channels: int, pixel: list[int]) -> None:
    assert files.decode(encoded(image), "x.png", Transform(channels))[:, 1, 1].tolist() == pixel


def test_cmyk_and_orientation_and_animations() -> None:
    cmyk = encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG")
    assert files.decode(cmyk, "x.jpg")[:, 0, 0].tolist() == [255, 255, 255]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    rotated = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert files.decode(rotated, "x.jpg").shape == (3, 8, 4)
    assert files.probe(rotated, "x.jpg") == ((8, 4), 3)
    first, second = Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 255)
    animation = encoded(first, "GIF", save_all=True, append_images=[second])
    assert files.decode(animation, "x.gif", Transform(1)).max() == 0


def test_crop_keeps_the_middle_and_resizing_keeps_the_mean() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 200
    data = encoded(Image.fromarray(pixels))
    assert (files.decode(data, "x.png", Transform(3, (20, 20))) == 200).all()
    halves = np.zeros((64, 64), np.uint8)
    halves[:, ::2] = 254  # beyond the target's Nyquist limit: averages to grey
    small = files.decode(encoded(Image.fromarray(halves)), "x.png", Transform(1, (8, 8)))
    assert abs(small[:, :, 1:-1].astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    "data", [b"", b"not an image", encoded(Image.effect_noise((64, 64), 50))[:900]]
)
def test_files_that_are_not_images_are_named(data: bytes) -> None:
    with pytest.raises(files.UnreadableError, match=r"holiday\.png"):
        files.decode(data, "holiday.png")


def test_a_gif_holds_its_last_frame(tmp_path: Path) -> None:
    frames = [np.full((1, 8, 8), level, np.uint8) for level in (0, 100, 200)]
    films.write_gif(tmp_path / "x.gif", frames, seconds=0.3, hold=1.0)
    read = imageio.imread(tmp_path / "x.gif", index=None)
    assert read[:, 0, 0, 0].tolist() == [0, 100, 200]
    with Image.open(tmp_path / "x.gif") as gif:
        durations = []
        for i in range(3):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [100, 100, 1100]


def test_a_grid_places_every_image() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    sheet = sheets.grid(images, gap=1)
    assert sheet.shape == (3, 2 * 5 + 1, 3 * 5 + 1)
    assert [sheet[0, 1, 1 + 5 * i] for i in range(3)] == [0, 1, 2]
    assert [sheet[0, 6, 1 + 5 * i] for i in range(3)] == [3, 4, 255]


def test_shapes_are_functions_of_their_index() -> None:
    one, other = Shapes(), Shapes()
    for i in (0, 7, 11_999):
        assert (
            one.image(i, Transform(3, (32, 32))) == other.image(i, Transform(3, (32, 32)))
        ).all()
        assert one.describe(i) == other.describe(i)
    assert [one.classes[label] for label in one.labels[:6]] == list(FIGURES)


@pytest.mark.parametrize("index", range(12))
def test_shapes_match_their_description(index: int) -> None:
    figure, image = Shapes().describe(index), Shapes().image(index, Transform(3, (64, 64)))
    assert (
        figure.caption == f"a {figure.size} {figure.colour} {figure.figure} on {figure.background}"
    )
    pixels = {tuple(p) for p in image.reshape(3, -1).T.tolist()}
    assert COLOURS[figure.background] in pixels
    assert COLOURS[figure.colour] in pixels
    assert tuple(image[:, 0, 0]) == COLOURS[figure.background]  # figures stay inside the image


def test_figures_of_shapes_differ() -> None:
    """Each figure covers a different fraction of its bounding square."""
    x, y = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(-1, 1, 401))
    fractions = {name: inside(x, y).mean() for name, inside in FIGURES.items()}
    assert fractions["circle"] == pytest.approx(np.pi / 4, abs=0.01)
    assert fractions["square"] == pytest.approx(0.64, abs=0.01)
    assert fractions["ring"] == pytest.approx(np.pi / 4 * (1 - 0.55**2), abs=0.01)
    # Ten triangles between tip, notch and centre: 5 r R sin(36 degrees) of 4.
    assert fractions["star"] == pytest.approx(5 * 0.42 * np.sin(np.pi / 5) / 4, abs=0.01)


def test_folders_are_classes(photos: Path) -> None:
    source = sources.open_source(str(photos))
    assert source.classes == ("dark", "light")
    assert source.labels.tolist() == [0] * 12 + [1] * 12
    assert (source.native_size, source.native_channels) == ((8, 8), 3)
    assert (
        source.image(0, Transform(3, (8, 8))).mean()
        < 100
        < source.image(23, Transform(3, (8, 8))).mean()
    )


def test_a_zip_is_read_like_its_folder(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, Path("root") / path.relative_to(photos))
    one, other = sources.open_source(str(photos)), sources.open_source(str(tmp_path / "photos.zip"))
    assert one.classes == other.classes
    assert one.labels.tolist() == other.labels.tolist()
    assert all(
        (one.image(i, Transform(3, (8, 8))) == other.image(i, Transform(3, (8, 8)))).all()
        for i in range(24)
    )


def test_images_without_folders_have_no_classes(photos: Path) -> None:
    source = sources.open_source(str(photos / "dark"))
    assert source.classes == ()
    assert set(source.labels) == {-1}


def test_grey_or_mixed_images_choose_channels_and_size(tmp_path: Path) -> None:
    for i in range(3):
        files.write_png(tmp_path / "grey" / f"{i}.png", np.full((1, 20, 30), 9, np.uint8))
    assert sources.open_source(str(tmp_path / "grey")).native_channels == 1
    assert sources.open_source(str(tmp_path / "grey")).native_size == (20, 30)
    files.write_png(tmp_path / "grey" / "big.png", np.zeros((3, 200, 30), np.uint8))
    assert sources.open_source(str(tmp_path / "grey")).native_channels == 3
    assert sources.open_source(str(tmp_path / "grey")).native_size == (64, 64)


def test_an_existing_folder_takes_precedence_over_a_data_set_of_its_name(photos: Path) -> None:
    assert len(sources.open_source("shapes")) == 12_000
    photos.rename("shapes")
    assert len(sources.open_source("shapes")) == 24


def test_the_help_of_data_lists_all_data_sets() -> None:
    about = {setting.name: setting.info for setting in settings_of(TrainingRequest)}
    assert ", ".join(named.known()) in about["data"].help


def test_unknown_data_lists_the_known_sets() -> None:
    with pytest.raises(DdpmError, match=r"nowhere.*shapes.*cifar10"):
        sources.open_source("nowhere")
    with pytest.raises(UsageError, match="cifar10:train and cifar10:test"):
        sources.open_source("cifar10:validation")


def test_cifar_is_read_from_its_binary_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    folder = tmp_path / "datasets" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("airplane\nbird\n")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = [bytes([i]) + pixels[i].tobytes() for i in range(2)]
        (folder / name).write_bytes(b"".join(records))
    source = sources.open_source("cifar10")
    assert (len(source), source.classes) == (10, ("airplane", "bird"))
    assert source.labels.tolist() == [0, 1] * 5
    assert (source.image(1, Transform(3, (32, 32))) == pixels[1]).all()
    assert len(sources.open_source("cifar10:test")) == 2


def test_mnist_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    raw = tmp_path / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    for part in ("train", "t10k"):
        header = b"".join(n.to_bytes(4, "big") for n in (2051, 3, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = b"".join(n.to_bytes(4, "big") for n in (2049, 3))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes([4, 0, 9]))
    source = sources.open_source("mnist")
    assert source.labels.tolist() == [4, 0, 9]
    assert (source.image(2, Transform(1, (28, 28))) == pixels[2:]).all()
    assert len(source.classes) == 10


def test_a_data_set_without_network_says_how_to_copy_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import utils

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    monkeypatch.setattr(utils, "download_and_extract_archive", unreachable)
    with pytest.raises(
        DdpmError, match=r"cifar100.*unreachable.*put cifar-100-binary\.tar\.gz there.*DDPM_DATA"
    ):
        sources.open_source("cifar100")


@pytest.fixture
def prepared(photos: Path) -> DecodedImages:
    return loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())


def test_prepared_images_are_the_files(prepared: DecodedImages, photos: Path) -> None:
    images, labels = prepared.take(np.array([0, 23]))
    source = sources.open_source(str(photos))
    assert (images[1].numpy() == source.image(23, Transform(3, (8, 8)))).all()
    assert labels.tolist() == [0, 1]


def test_changed_images_are_decoded_again(prepared: DecodedImages, photos: Path) -> None:
    files.write_png(photos / "dark" / "0.png", np.full((3, 8, 8), 77, np.uint8))
    again = loader.prepare(sources.open_source(str(photos)), Transform(3, (8, 8)), Silent())
    assert (again.take(np.array([0]))[0] == 77).all()


def test_unreadable_images_stop_unless_they_may_be_skipped(photos: Path) -> None:
    (photos / "dark" / "5.png").write_bytes(b"broken")
    (photos / "light" / "7.png").write_bytes(b"")
    source = sources.open_source(str(photos))
    for _ in range(2):  # a partial file is not taken for a complete one
        with pytest.raises(DdpmError, match=r"2 of 24 .*dark/5\.png.*light/7\.png.*--skip-bad"):
            loader.prepare(source, Transform(3, (8, 8)), Silent())
    readable = loader.prepare(source, Transform(3, (8, 8)), Silent(), skip_bad=True)
    assert len(readable) == 22
    assert readable.take(np.arange(22))[1].tolist() == [0] * 11 + [1] * 11
    with pytest.raises(DdpmError, match="2 of 24"):
        loader.prepare(source, Transform(3, (8, 8)), Silent())


def test_holdout_splits_the_images(prepared: DecodedImages) -> None:
    training, held_out = prepared.split(5, seed=0)
    assert (len(training), len(held_out)) == (19, 5)
    assert sorted([*training.rows, *held_out.rows]) == list(range(24))
    with pytest.raises(DdpmError, match="24"):
        prepared.split(24, seed=0)


def test_every_epoch_is_a_permutation_with_random_access() -> None:
    order = SampleOrder(10, seed=3)
    whole = order.indices(0, 40)
    assert [sorted(whole[e * 10 : e * 10 + 10]) for e in range(4)] == [list(range(10))] * 4
    assert len({tuple(whole[e * 10 : e * 10 + 10]) for e in range(4)}) == 4
    fresh = SampleOrder(10, seed=3)
    pieces = [fresh.indices(start, 7) for start in (28, 0, 21, 7, 14)]
    joined = np.concatenate([pieces[1], pieces[3], pieces[4], pieces[2], pieces[0]])
    assert (joined == SampleOrder(10, seed=3).indices(0, 35)).all()
    assert (SampleOrder(10, seed=4).indices(0, 10) != whole[:10]).any()


def test_an_image_beside_class_folders_is_named(
    train_tiny: Callable[..., Result], photos: Path
) -> None:
    (photos / "dark" / "0.png").rename(photos / "cover.png")
    message = "1 of 24 images lies in no class folder (cover.png)"
    result = train_tiny("--dry-run")
    assert (result.code, message in result.err) == (0, True)
    result = train_tiny("--dry-run", "--conditional")
    assert (result.code, f"--conditional, but {message}" in result.err) == (2, True)
