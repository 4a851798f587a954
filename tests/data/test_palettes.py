"""A film has one palette, and pixels that do not visibly change are not in it again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.pictures import films, palettes
from ddpm_cli.core.data.pictures.films import Timing


def emerging(count: int = 12, side: int = 64) -> list[np.ndarray]:
    """A photo-like picture that emerges from noise: (3, H, W) each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    picture = np.stack([255 * x, 255 * y, 128 + 127 * np.sin(8 * x * y)])
    noise = rng.normal(127, 127, picture.shape)
    shares = np.linspace(1, 0, count)
    return [(a * noise + (1 - a) * picture).clip(0, 255).astype(np.uint8) for a in shares]


def colour_tables(data: bytes) -> tuple[int, int]:
    """The global and local colour tables of a GIF, by its blocks (GIF89a, sections 18 to 20)."""
    shared = int(data[10] >> 7)
    at, local = 13 + shared * 3 * 2 ** ((data[10] & 7) + 1), 0
    while data[at] != 0x3B:
        if data[at] == 0x21:
            at += 2
        else:
            assert data[at] == 0x2C
            own = data[at + 9] >> 7
            local += own
            at += 11 + own * 3 * 2 ** ((data[at + 9] & 7) + 1)
        while data[at]:
            at += data[at] + 1
        at += 1
    return shared, local


def test_all_frames_share_one_palette(tmp_path: Path) -> None:
    assert films.write(tmp_path / "x.gif", emerging(), Timing(1), factor=2) == 12
    assert colour_tables((tmp_path / "x.gif").read_bytes()) == (1, 0)


def test_colours_are_near_and_in_the_last_frame_nearest(tmp_path: Path) -> None:
    frames = emerging()
    films.write(tmp_path / "x.gif", frames, Timing(1))
    with Image.open(tmp_path / "x.gif") as gif:
        errors = []
        for i, frame in enumerate(frames):
            gif.seek(i)
            shown = np.asarray(gif.convert("RGB")).astype(int)
            errors.append(abs(shown - frame.transpose(1, 2, 0)))
    assert errors[-1].mean() < 8
    assert errors[-1].max() < 48
    assert max(error.mean() for error in errors) < 25


def test_few_colours_are_kept_exactly() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (255, 3), np.uint8)
    frames = [colours[rng.integers(0, 255, (40, 40))] for _ in range(3)]
    palette = palettes.choose(frames)
    for numbers, frame in zip(palettes.assign(frames, palette), frames, strict=True):
        assert (palette[numbers] == frame).all()


def test_a_smooth_surface_that_changes_is_shown() -> None:
    """Only contrast hides an error: here there is none, so each pixel has its nearest colour."""
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[:, None], 128, axis=1)
    frames = [np.roll(np.stack([ramp, ramp.T, ramp], axis=-1), 3 * i, axis=0) for i in range(3)]
    palette = palettes.choose(frames)
    shown = palette[palettes.assign(frames, palette)[1]].astype(int)
    flat = palettes._contrast(frames[1]) < 3
    assert abs(shown - frames[1])[flat].max() < 40
    assert flat.mean() > 0.8


def test_a_film_is_half_as_large_as_with_a_palette_each(tmp_path: Path) -> None:
    frames = emerging(24)
    films.write(tmp_path / "x.gif", frames, Timing(1))
    own = io.BytesIO()
    first, *others = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in frames]
    first.save(own, "GIF", save_all=True, append_images=others)
    assert (tmp_path / "x.gif").stat().st_size < 0.5 * len(own.getvalue())


@pytest.mark.parametrize(
    ("path", "count", "expected"),
    [
        ([0, 1, 2, 3, 4], 9, [0, 1, 2, 3, 4]),
        ([*range(11), 20, 30, 40], 5, [0, 10, 11, 12, 13]),
        ([0, 10, 20, 30, *range(31, 41)], 5, [0, 1, 2, 3, 13]),
        ([0, 100, 101, 102, 103, 104], 3, [0, 1, 5]),
        ([0, 0, 0, 0, 0, 0, 0], 3, [0, 3, 6]),
        ([0, 1, 5], 1, [2]),
    ],
)
def test_frames_lie_at_equal_parts_of_what_changes(
    path: list[int], count: int, expected: list[int]
) -> None:
    assert films.evenly(np.diff(np.array(path, np.float64)), count) == expected


def test_changes_are_mean_differences() -> None:
    states = np.array([[0, 0], [255, 0], [250, 10]], np.uint8)
    assert films.changes(states).tolist() == [127.5, 7.5]
