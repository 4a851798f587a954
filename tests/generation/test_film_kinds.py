"""What films show: denoising, the forward process, a training, one sample turning into another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cli.cli.options.film import LengthOptions, ShownOptions
from ddpm_cli.core.conditioning.requests import ConditionRequest
from ddpm_cli.core.data import input_images
from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.data.pictures.films import Timing
from ddpm_cli.core.diffusion.denoiser import Prediction
from ddpm_cli.core.diffusion.interpolation import mixed, slerp
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.generation import generate
from ddpm_cli.core.generation.model import Model, load_model
from ddpm_cli.core.generation.pictures import animation, transitions
from ddpm_cli.core.generation.pictures.animation import Film
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.runtime.seeds import ImageNoise
from tests.support.cli import Result, refused

Run = Callable[..., Result]
QUICK = ("-n", 1, "--steps", 2)


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("runs/tiny", "--images", 8, "--preview", 0)


@pytest.fixture
def model(run: Path) -> Model:
    return load_model(run / "model.safetensors", torch.device("cpu"), torch.float32)


def request_of(
    model: Model, seed: int, classes: tuple[str, ...] = (), **settings: Any
) -> generate.GenerationRequest:
    wanted, sampling = ConditionRequest(classes), Sampling(4, **settings)
    return generate.resolve_request(model, 3, seed, wanted, sampling, Silent())


def samples(model: Model, request: generate.GenerationRequest) -> np.ndarray:
    batches = generate.sample_batches(model, request, range(request.count), None, Silent())
    return np.concatenate([images for _, images in batches]).astype(int)


def frames_of(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        shown = []
        for i in range(getattr(film, "n_frames", 1)):
            film.seek(i)
            shown.append(np.asarray(film.convert("RGB")).astype(int))
    return shown


def test_slerp_follows_the_circle() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    x, y = torch.eye(2, dtype=torch.float64).reshape(2, 1, 1, 1, 2)
    between = slerp(x.expand(5, 1, 1, 2), y.expand(5, 1, 1, 2), t).reshape(5, 2)
    angle = t * torch.pi / 2
    assert torch.allclose(between, torch.stack([angle.cos(), angle.sin()], dim=1))


def test_slerp_begins_and_ends_at_its_arguments(noise: Callable[..., torch.Tensor]) -> None:
    a, b = noise(2, 3, 8, 8).float(), noise(2, 3, 8, 8).float()
    zero, one = torch.zeros(2), torch.ones(2)
    assert torch.equal(slerp(a, b, zero), a)
    assert torch.equal(slerp(a, b, one), b)
    assert torch.allclose(slerp(a, a, 0.3 * one), a)
    middle = slerp(a, b, 0.5 * one)
    assert middle.std() == pytest.approx(float(a.std()), rel=0.1)  # a straight line's: 0.7 of it


def test_d_of_two_conditions_is_mixed() -> None:
    one, two = (torch.full((3, 1, 1, 1), value) for value in (1.0, 5.0))
    t = torch.tensor([0.0, 0.25, 1.0])
    predict = mixed(lambda x, s: Prediction(one), lambda x, s: Prediction(two), t)
    assert predict(one, 1.0).x0.flatten().tolist() == [1, 2, 5]


def test_a_transition_begins_and_ends_at_the_samples_of_its_seeds(model: Model) -> None:
    for settings in ({}, {"sampler": "dpmpp-2m"}, {"eta": 1.0}):
        start, end = request_of(model, 3, **settings), request_of(model, 8, **settings)
        images = transitions.Transition(model, start, end).images(np.array([0, 0.5, 1])).astype(int)
        assert abs(images[0] - samples(model, start)).max() <= 1
        assert abs(images[2] - samples(model, end)).max() <= 1
        assert min(abs(images[1] - images[i]).mean() for i in (0, 2)) > 3


def test_a_morph_begins_and_ends_at_the_classes(model: Model) -> None:
    between = transitions.between_classes(model, request_of(model, 3, ("dark", "light")))
    images = between.images(np.array([0, 1])).astype(int)
    for found, name in zip(images, ("dark", "light"), strict=True):
        assert abs(found - samples(model, request_of(model, 3, (name,)))).max() <= 1
    film = between.film(5, Silent())
    assert (len(film), film.names[0], film.names[-1]) == (5, "0.00", "1.00")
    assert list(film.names) == sorted(film.names)


def test_states_lie_where_most_changes() -> None:
    """Of 16 states of a transition that jumps at 0.7, most are near the jump, but not all."""
    where = np.linspace(0, 1, 4)
    while len(where) < 16:
        levels = 40 * where + 200 / (1 + np.exp(-60 * (where - 0.7)))
        where = np.sort(np.append(where, transitions._between(where, np.diff(levels), 16)))
    levels = 40 * where + 200 / (1 + np.exp(-60 * (where - 0.7)))
    assert ((where > 0.6) & (where < 0.8)).sum() >= 7
    even = np.linspace(0, 1, 16)
    evenly = 40 * even + 200 / (1 + np.exp(-60 * (even - 0.7)))
    assert np.diff(levels).max() < 0.5 * np.diff(evenly).max()


def test_a_film_there_and_back_loops(tmp_path: Path) -> None:
    levels = np.arange(0, 250, 50, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None, None], (5, 1, 3, 4, 4))
    film = Film(images, tuple("abcde"), loops=True)
    assert film.write(tmp_path / "x.gif", None, seconds=0.8, hold=0.5) == 8
    middle = [int(frame[200, 200, 0]) for frame in frames_of(tmp_path / "x.gif")]
    assert middle == [0, 50, 100, 150, 200, 150, 100, 50]
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.info["loop"] == 0
        durations = []
        for i in range(8):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [600, 100, 100, 100, 600, 100, 100, 100]


def test_the_forward_process_is_that_of_the_formula(model: Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    images = input_images.InputImages.open(tmp_path / "x.png", "--forward")
    chosen = (90, 50, 10)
    film = animation.forward(model, images, 1, Sampling(timesteps=chosen), seed=5)
    assert film.images.shape == (4, 1, 3, 8, 8)
    assert (film.images[0, 0].transpose(1, 2, 0) == pixels).all()
    x0 = pixels.transpose(2, 0, 1) / 127.5 - 1
    n = ImageNoise([5], (3, 8, 8), torch.device("cpu"))()[0].double().numpy()
    for state, t in zip(film.images[1:, 0], reversed(chosen), strict=True):
        abar = model.denoiser.schedule.alpha_bar[t]
        x_t = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * n
        expected = (127.5 * (x_t + 1)).clip(0, 255)
        assert abs(state - expected).max() <= 1


def test_denoising_pairs_each_state_with_what_the_model_sees_in_it(model: Model) -> None:
    request = request_of(model, 0)
    film = animation.denoising(model, request, "both", 1, Silent())
    steps = list(generate.sample_steps(model, request, range(3)))
    assert film.beside is not None
    assert len(film) == len(film.names) == 5
    for shown, step in zip(film.beside, steps, strict=False):
        expected = (127.5 * (step.x0 + 1)).clamp(0, 255).numpy()
        assert abs(shown - expected).max() <= 1
    assert (film.images[-1] == film.beside[-1]).all()
    assert abs(film.images[-1].astype(int) - samples(model, request)).max() <= 1


@pytest.mark.parametrize("show", ["xt", "x0"])
def test_only_what_is_shown_is_kept(
    model: Model, show: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pixels, kept = request_of(model, 0), animation._pixels, list[np.ndarray]()

    def counted(x: torch.Tensor) -> np.ndarray:
        kept.append(pixels(x))
        return kept[-1]

    both = animation.denoising(model, request, "both", 3, Silent())
    monkeypatch.setattr(animation, "_pixels", counted)
    film = animation.denoising(model, request, show, 3, Silent())
    assert film.beside is None and len(kept) == len(film) == len(film.names) == 3
    assert (film.images == (both.images if show == "xt" else both.beside)).all()
    assert film.names == both.names


def test_the_forward_process_is_shown_of_the_first_images(ddpm: Run, run: Path) -> None:
    np.save("some.npy", np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8))
    forward = ("gif", run, "--forward", "some.npy", "--steps", 2, "--json")
    assert ddpm(*forward).json()["n"] == 16
    result = ddpm(*forward, "-n", 3)
    assert result.json()["n"] == 3 and "the first 3 of 20 images" in result.err
    assert ddpm(*forward, "--grid", "1x4", "--out", "wide.gif").json()["n"] == 4
    height, width = frames_of(Path("wide.gif"))[0].shape[:2]
    assert 3 < width / height < 4.5
    assert ddpm(*forward, "--strip", "--out", "x.png").json()["n"] == 4


@pytest.mark.parametrize("beside", [False, True])
def test_a_strip_has_a_row_an_image_and_names_beneath(tmp_path: Path, *, beside: bool) -> None:
    rng = np.random.default_rng(0)
    images = np.empty((4, 2, 3, 8, 8), np.uint8)
    images[:] = rng.integers(40, 220, (4, 2, 3, 1, 1))
    film = Film(images, ("one", "two", "three", "four"), 255 - images if beside else None)
    film.strip(tmp_path / "strip.png")
    (picture,) = frames_of(tmp_path / "strip.png")
    height, width = picture.shape[:2]
    assert width >= 4 * 128
    cell = (width - 4) // 4
    rows = [0, 0, 1, 1] if beside else [0, 1]
    for row, image in enumerate(rows):
        for column in range(4):
            centre = picture[4 + row * cell + cell // 2, 4 + column * cell + cell // 2]
            wanted = images[column, image, :, 0, 0].astype(int)
            assert (centre == (255 - wanted if beside and row % 2 else wanted)).all()
    words = picture[4 + len(rows) * cell :]
    assert height - len(rows) * cell > 15
    for column in range(4):
        assert words[:, 4 + column * cell : (column + 1) * cell].min() < 100


def test_a_training_is_shown_by_its_previews(ddpm: Run, run: Path) -> None:
    refused(ddpm("gif", run, "--training"), "no previews in samples/", "--preview")
    (run / "samples").mkdir()
    for images, level in ((2000, 80), (16, 30), (500, 200)):
        Image.new("RGB", (520, 520), (level,) * 3).save(run / f"samples/{images:09d}.png")
    done = ddpm("gif", run, "--training", "--json").json()
    assert (done["frames"], done["seconds"], done["out"]) == (3, 6, "runs/tiny/training.gif")
    shown = frames_of(run / "training.gif")
    assert [int(frame[100, 100, 0]) for frame in shown] == [30, 200, 80]
    assert shown[0].shape[0] > 520  # the number of images is beneath
    assert (shown[0][520:] != shown[1][520:]).any()
    assert ddpm("gif", run, "--training", "--strip", "--out", "t.png").code == 0
    assert frames_of(Path("t.png"))[0].shape[1] < 1300


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_every_format_holds_the_film(tmp_path: Path, name: str) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (6, 3, 1, 1), np.uint8)
    frames = [np.tile(colour, (1, 9, 7)) for colour in colours]
    frames[2:2] = [frames[1]]  # shown longer
    path = tmp_path / name
    assert films.write(path, frames, Timing(0.7, {-1: 1.0}), factor=3) == 6
    shown = frames_of(path)
    assert [frame.shape for frame in shown] == [(27, 21, 3)] * 6
    assert [tuple(frame[4, 4]) for frame in shown] == [tuple(c.flatten()) for c in colours]
    with Image.open(path) as film:
        durations = []
        for i in range(6):
            film.seek(i)
            film.load()
            durations.append(round(film.info["duration"]))
        assert film.info["loop"] == 0
    assert durations == [100, 200, 100, 100, 100, 1100]


def test_mp4_is_written_with_the_extra(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    frames = [np.full((3, 9, 7), level, np.uint8) for level in (20, 120, 220)]
    assert films.write(tmp_path / "x.mp4", frames, Timing(0.6, {-1: 0.4}), factor=5) == 3
    with av.open(str(tmp_path / "x.mp4")) as film:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in film.decode(video=0)]
        assert film.streams.video[0].width == 36
    assert len(levels) == 50
    assert [abs(levels[i] - level) < 6 for i, level in ((2, 20), (15, 120), (45, 220))] == [
        True
    ] * 3


def test_mp4_without_the_extra_is_one_line(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "find_spec", lambda _: None)
    for option in (("--out", "x.mp4"), ("--format", "mp4")):
        refused(ddpm("gif", run, *QUICK, *option), "pip install 'ddpm-cli[video]'", "webp")
    assert not Path("x.mp4").exists()


REFUSED = {
    "--forward x.png --training": "--forward and --training are two films",
    "--morph dark light --interpolate 1 2": "--interpolate and --morph are two films",
    "--forward x.png --guidance 2": "--guidance has no meaning with --forward",
    "--training -n 3": "-n has no meaning with --training",
    "--interpolate 1 2 --seed 3": "--seed has no meaning with --interpolate",
    "--morph dark light --class dark": "--class has no meaning with --morph",
    "--morph dark light --every 2": "--every has no meaning with --morph",
    "--morph dark none": "'none' is not a class",
    "--morph dark light:3": "--morph takes two classes",
    "--interpolate -1 2": "seeds of 0 or more, not -1",
    "--forward nothing.png": "nothing.png: no such file",
    "--strip --fps 3": "--fps has no meaning with --strip",
    "--strip --grid 2x2": "--grid has no meaning with --strip",
    "--strip --out x.gif": "x.gif should end in .png",
    "--strip --frames 65": "at most 64 columns",
    "--strip --every 2 --steps 127": "65 states, and a strip has at most 64 columns; --every 3",
    "--format avi": "choose one of gif, webp, mp4, png",
    "--format webp --out x.gif": "x.gif should end in .webp",
    "--out x.avi": "x.avi should end in .gif, .webp, .mp4 or .png",
    "--frames 9 --seconds 3 --fps 3": "two of them say the third",
    "--frames 9 --every 3": "both choose the frames",
    "--frames 60 --seconds 1": "more than 50 per second",
    "-n 5 --grid 2x2": "-n 5 is more than --grid 2x2 has",
}


def test_what_has_no_meaning_is_refused(ddpm: Run, run: Path) -> None:
    for options, words in REFUSED.items():
        refused(ddpm("gif", run, *options.split()), words)
    assert not any(run.glob("*.gif"))


def test_a_film_may_have_every_frame_that_there_is_time_for() -> None:
    for frames in range(2, 300):  # of which the products with 1/50 are not exact
        assert LengthOptions(frames=frames, fps=50).resolve(ShownOptions())[0] == frames


def test_the_number_of_frames(ddpm: Run, run: Path) -> None:
    quick = ("gif", run, "-n", 1, "--steps", 9, "--json")
    assert ddpm(*quick, "--frames", 4).json()["frames"] == 4
    by_rate = ddpm(*quick, "--frames", 4, "--fps", 2, "--hold", 1, "--format", "webp").json()
    assert (by_rate["frames"], by_rate["seconds"]) == (4, 3)
    assert by_rate["out"] == "runs/tiny/denoising.webp"
    assert ddpm(*quick, "--seconds", 2, "--fps", 3).json()["frames"] == 6
    more = ddpm(*quick, "--frames", 30)
    assert (more.json()["frames"], "--frames 30 is more than there are: 10" in more.err) == (
        10,
        True,
    )
    loop = ddpm("gif", run, "--interpolate", 1, 4, *QUICK, "--frames", 6, "--json").json()
    assert (loop["frames"], loop["interpolate"], loop["seconds"]) == (6, [1, 4], 5)
    size = ddpm(*quick[:2], "--steps", 2, "--grid", "1x3", "--out", "wide.gif")
    height, width = frames_of(Path("wide.gif"))[0].shape[:2]
    assert (size.code, round(width / height, 1)) == (0, 2.7)
