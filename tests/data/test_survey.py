"""Looking at images before training: counts, copies and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ddpm_cli.core.data.arrays import ArraySource
from ddpm_cli.core.data.inspection import near_duplicates
from ddpm_cli.core.data.inspection.copies import find_copies, held_out_rows
from ddpm_cli.core.data.inspection.near_duplicates import Print, groups, similar_pairs
from ddpm_cli.core.data.inspection.survey import Survey, spread_over_classes, survey
from ddpm_cli.core.data.shapes import FIGURES, Figure, render
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import contact_sheet
from ddpm_cli.core.runtime.reporting import SILENT

NONE_HELD_OUT = np.empty(0, np.int64)


def photo(seed: int, size: int = 64) -> Image.Image:
    """Smooth coloured noise, as different from another seed's as photos are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def write(folder: Path, images: dict[str, Image.Image]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


def look(path: Path) -> Survey:
    return survey(open_source(str(path), training=True), SILENT)


def names_of(found: Survey, chosen: tuple[tuple[int, ...], ...]) -> list[set[str]]:
    return [set(map(found.name, group)) for group in chosen]


def test_counts_of_a_folder(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "photos",
        {
            "a/1.png": photo(1, 20),
            "a/2.jpg": photo(2, 20),
            "a/3.png": photo(3, 20).convert("L"),
            "a/4.png": photo(4, 20).convert("RGBA"),
            "b/5.png": photo(5).resize((40, 10)),
        },
    )
    (folder / "b" / "bad.png").write_bytes(b"<html>")
    found = look(folder)
    assert len(found.rows) == 5 and found.looked_at == 6
    assert found.class_counts == {"a": 4, "b": 2} and found.imbalance == 2
    assert found.sizes == {(20, 20): 4, (10, 40): 1}
    assert found.aspects == (1, 1, 4)
    assert found.forms == {"PNG": 4, "JPEG": 1}
    assert found.traits == {"grey": 1, "transparent": 1}
    (why,) = found.unreadable
    assert why.startswith("b/bad.png: ") and found.unreadable_rows.tolist() == [5]


def test_captions_are_measured(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {f"{i}.png": photo(i, 16) for i in range(3)})
    for i, text in enumerate(("a cat", "ein großer Hund", "one\ntwo words here")):
        (folder / f"{i}.txt").write_text(text)
    found = survey(open_source(str(folder), training=True), SILENT, text_length=15)
    assert found.lengths is not None
    assert found.lengths.sentences == 4 and found.lengths.an_image == (1, 2)
    assert found.lengths.words == (1, 2, 3)  # one, a cat, ein großer Hund, two words here
    assert found.lengths.bytes == (3, 9, 16)  # ß is two bytes; the median of 3, 5, 14, 16 is 9.5
    assert found.lengths.too_long == 1

    (folder / "2.txt").unlink()
    found = look(folder)
    assert found.lengths is None and "2.png" in found.why_no_captions


def test_only_some_images_are_looked_at(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {f"{i}.png": photo(i, 8) for i in range(12)})
    source = open_source(str(folder), training=True)
    some = survey(source, SILENT, count=5, seed=1)
    assert len(some.rows) == some.looked_at == 5
    assert some.rows.tolist() == sorted(set(some.rows.tolist()))
    assert survey(source, SILENT, count=5, seed=1).rows.tolist() == some.rows.tolist()
    assert survey(source, SILENT, count=5, seed=2).rows.tolist() != some.rows.tolist()


def test_none_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {"a.png": photo(0, 64)})
    data = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DdpmError, match=r"1 of 1 images cannot be read: a\.png"):
        look(folder)


def test_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {f"{i:02}.png": photo(i) for i in range(40)})
    write(
        folder,
        {
            "03-again.jpg": photo(3),
            "07-small.png": photo(7).resize((40, 40), Image.Resampling.LANCZOS),
            "07-large.bmp": photo(7).resize((150, 150), Image.Resampling.BILINEAR),
            "09-grey.png": photo(9).convert("L"),  # another picture to a model
        },
    )
    (folder / "11-same.png").write_bytes((folder / "11.png").read_bytes())
    found = look(folder)
    copies = find_copies(found, NONE_HELD_OUT)
    assert names_of(found, copies.equal) == [{"11.png", "11-same.png"}]
    assert names_of(found, copies.similar) == [
        {"07.png", "07-small.png", "07-large.bmp"},
        {"03.png", "03-again.jpg"},
        {"11.png", "11-same.png"},
    ]
    assert copies.needless == 4


def test_crops_of_a_photo_are_found_and_strokes_that_are_alike_are_not() -> None:
    """How much copies may differ depends on how much different images of the set do."""
    photos = [photo(i, 66) for i in range(30)]
    shifted = [photos[3].crop((1, 1, 65, 65)), photos[3].crop((0, 0, 64, 64))]
    crops = [np.asarray(image) for image in [*photos[4:], *shifted]]
    assert find_copies(survey(ArraySource(crops), SILENT), NONE_HELD_OUT).similar == ((26, 27),)

    strokes = []
    for degrees in range(0, 180, 4):
        image = Image.new("L", (64, 64))
        x, y = (24 * f(np.radians(degrees)) for f in (np.cos, np.sin))
        ImageDraw.Draw(image).line((32 - x, 32 - y, 32 + x, 32 + y), 255, width=6)
        strokes.append(np.asarray(image))
    assert find_copies(survey(ArraySource(strokes), SILENT), NONE_HELD_OUT).similar == ()


def test_figures_that_differ_in_colour_or_shape_are_no_copies() -> None:
    figures = [
        Figure(figure, colour, "white", "large", 0.0, 0.0, 0.8)
        for figure in FIGURES
        for colour in ("red", "green", "blue")  # of nearly the same grey
    ]
    images = [np.ascontiguousarray(render(f, (32, 32)).transpose(1, 2, 0)) for f in figures]
    found = survey(ArraySource([*images, images[4]]), SILENT)
    copies = find_copies(found, NONE_HELD_OUT)
    assert copies.similar == copies.equal == ((4, len(images)),)


def test_copies_in_the_images_held_out_and_in_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", {f"{i}.png": photo(i) for i in range(10)})
    held_out = held_out_rows(look(folder), 3, 0)
    assert len(held_out) == 3
    inside, outside = int(held_out[1]), next(i for i in range(10) if i not in held_out)
    photo(inside).resize((48, 48)).save(folder / f"{outside}.png")  # files sort by their digit
    found = look(folder)
    copies = find_copies(found, held_out_rows(found, 3, 0))
    assert copies.held_out == ((inside, outside),)

    other = write(tmp_path / "test", {"x.jpg": photo(outside), "y.jpg": photo(inside)})
    copies = find_copies(found, NONE_HELD_OUT, look(other))
    assert copies.elsewhere == tuple(sorted([(inside, 1), (outside, 1)]))


def test_the_images_held_out_are_those_of_training(tmp_path: Path) -> None:
    from ddpm_cli.core.data.loader import prepare

    folder = write(tmp_path / "photos", {f"{i}.png": photo(i, 16) for i in range(9)})
    (folder / "4.png").write_bytes(b"<html>")
    source = open_source(str(folder), training=True)
    images = prepare(source, Transform(3, (8, 8)), SILENT, skip_bad=True)
    expected = images.split(3, 5)[1].rows
    assert held_out_rows(survey(source, SILENT), 3, 5).tolist() == expected.tolist()


def test_many_equal_images_are_one_group_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_NEIGHBOURS", 3)
    blank = Print.of(b"", np.full((3, 32, 32), 7, np.uint8))
    other = Print.of(b"", np.full((3, 32, 32), 90, np.uint8))
    prints = [blank] * 50 + [other] * 30
    pairs = similar_pairs(prints)
    assert len(pairs) <= 8 * 3 * len(prints)
    assert groups(pairs, len(prints)) == [[*range(50)], [*range(50, 80)]]


def test_the_sheet_shows_the_pixels_that_the_network_sees(tmp_path: Path) -> None:
    images = {f"{label}/{i}.png": photo(10 * label + i, 200) for label in (0, 1) for i in range(3)}
    folder = write(tmp_path / "photos", images)
    found, size = look(folder), 96
    assert contact_sheet.draw(tmp_path / "data.png", found, Transform(3, (size, size))) == 6
    sheet = np.asarray(Image.open(tmp_path / "data.png"))
    resized = images["1/0.png"].resize((size, size), Image.Resampling.BICUBIC)
    rows = (sheet.shape[0] - 4) // 2  # six images: two rows of three, four pixels between them
    assert sheet.shape[1] == 3 * (3 * size + 4) + 4  # enlarged threefold
    shown = sheet[4 + rows : 4 + rows + 3 * size, 4 : 4 + 3 * size]
    assert np.array_equal(shown, np.asarray(resized).repeat(3, 0).repeat(3, 1))
    below = sheet[4 + rows + 3 * size : 2 * rows, 4 : 4 + 3 * size]
    assert below.min() < 128 < below.max()  # the name of the class, dark on white


def test_the_sheet_is_spread_over_the_classes() -> None:
    images = np.zeros((120, 4, 4, 3), np.uint8)
    labels = np.repeat([0, 1, 2], [100, 15, 5])
    found = survey(ArraySource(images, labels), SILENT)
    positions = spread_over_classes(found, 12)
    assert np.bincount(labels[positions]).tolist() == [4, 4, 4]
    assert positions == sorted(set(positions))
    assert np.bincount(labels[spread_over_classes(found, 30)]).tolist() == [13, 12, 5]
    many = survey(ArraySource(images, np.arange(120)), SILENT)
    assert spread_over_classes(many, 3) == [0, 60, 119]  # 59.5 rounds to even
    alone = survey(ArraySource(images), SILENT)
    assert len(spread_over_classes(alone, 64)) == 64
