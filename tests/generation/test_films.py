"""Films last as long as asked, and calls at the same time do not take each other's names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.pictures import films
from ddpm_cli.core.generation.outputs import archive, folder, output
from ddpm_cli.core.generation.pictures import animation
from ddpm_cli.core.runtime import locks
from tests.support.cli import Result

Run = Callable[..., Result]
QUICK = ("-n", 1, "--steps", 2)


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("runs/tiny", "--images", 8)


def durations(path: Path) -> list[int]:
    """Milliseconds for which each frame of a GIF is shown."""
    with Image.open(path) as gif:
        frames = []
        for i in range(getattr(gif, "n_frames", 1)):
            gif.seek(i)
            frames.append(int(gif.info["duration"]))
    return frames


@pytest.mark.parametrize("seconds", [0.1, 0.75, 1, 4])
@pytest.mark.parametrize("count", [2, 7, 51, 135, 301])
def test_a_film_lasts_as_long_as_asked(seconds: float, count: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    shown = films.write_gif(Path("x.gif"), list(noise), seconds, hold=0.5)
    each = durations(Path("x.gif"))
    assert (len(each), sum(each)) == (shown, round(1000 * seconds) + 500)
    assert shown == min(count, int(seconds * 50))  # viewers do not show more per second
    each[-1] -= 500
    assert min(each) >= 20
    assert max(each) - min(each) <= 10  # a hundredth of a second, the unit of GIF


def test_frames_that_are_left_out_are_neither_the_first_nor_the_last() -> None:
    frames = [np.full((1, 4, 4), level, np.uint8) for level in range(0, 202, 2)]
    assert films.write_gif(Path("x.gif"), frames, seconds=1, hold=0) == 50
    with Image.open("x.gif") as gif:
        levels = []
        for i in range(50):
            gif.seek(i)
            levels.append(gif.convert("L").getpixel((0, 0)))
    assert (levels[0], levels[-1]) == (0, 200)
    assert {b - a for a, b in itertools.pairwise(levels)} == {4, 6}  # type: ignore[operator]


def test_the_command_says_how_long_its_film_is(ddpm: Run, run: Path) -> None:
    result = ddpm("gif", run, *QUICK, "--hold", 0.5)
    assert result.out == "3 frames in runs/tiny/denoising.gif: 4 s, then the last for 0.5 s\n"
    short = ("gif", run, "-n", 1, "--steps", 9, "--seconds", 0.1, "--hold", 0, "--json")
    many = ddpm(*short, "--every", 1)
    assert (many.json()["frames"], many.json()["seconds"]) == (5, 0.1)
    assert "5 of 10 frames are in the film" in many.err
    assert "--seconds 0.2 has space for all" in many.err
    assert ddpm(*short).json()["frames"] == 5


@pytest.mark.parametrize("value", ["inf", "1e400", "1e20", "nan", "300.5"])
@pytest.mark.parametrize("option", ["--seconds", "--hold"])
def test_lengths_that_no_film_has_are_refused(ddpm: Run, option: str, value: str) -> None:
    result = ddpm("gif", option, value)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"{option} must be at " in result.err or f"{option} takes a number" in result.err


def test_a_film_begun_meanwhile_has_another_name(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoising, inner = animation.denoising, []

    def draw_during_another_call(*arguments: Any) -> Any:
        monkeypatch.setattr(animation, "denoising", denoising)
        inner.append(ddpm("gif", run, *QUICK, "--seed", 1, "--json").json()["out"])
        refused = ddpm("gif", run, *QUICK, "--out", run / "denoising.gif")
        assert (refused.code, "denoising.gif exists" in refused.err) == (1, True)
        return denoising(*arguments)

    monkeypatch.setattr(animation, "denoising", draw_during_another_call)
    outer = ddpm("gif", run, *QUICK, "--json").json()["out"]
    assert [outer, *inner] == ["runs/tiny/denoising.gif", "runs/tiny/denoising-2.gif"]
    assert all(len(durations(Path(path))) == 3 for path in (outer, *inner))


def test_samples_of_two_settings_are_never_mixed(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call begins while the first is about to take its folder."""
    create_folder, inner = folder.create_folder, []

    def during_another_call(path: Path) -> bool:
        monkeypatch.setattr(folder, "create_folder", create_folder)
        inner.append(ddpm("sample", run, *QUICK, "--seed", 100, "--json").json()["out"])
        return create_folder(path)

    monkeypatch.setattr(folder, "create_folder", during_another_call)
    outer = ddpm("sample", run, *QUICK, "--json").json()["out"]
    assert sorted([outer, *inner]) == ["runs/tiny/generated", "runs/tiny/generated-2"]
    for out, seed in ((outer, 0), (*inner, 100)):
        assert json.loads((Path(out) / "sampling.json").read_text())["seed"] == seed
        assert (Path(out) / "000000.png").is_file()


@pytest.mark.parametrize(("out", "module"), [("out", folder), ("x.npz", archive)])
def test_of_two_calls_one_prepares_a_place_at_a_time(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch, out: str, module: ModuleType
) -> None:
    write_json, taken = module.write_json, []

    def while_locked(path: Path, *arguments: Any, **keywords: Any) -> None:
        lock = next(Path().rglob(".*.lock"))
        with locks.held_by_nobody(lock) as free:
            taken.append(not free)
        write_json(path, *arguments, **keywords)

    monkeypatch.setattr(module, "write_json", while_locked)
    assert ddpm("sample", run, *QUICK, "--out", out).code == 0
    assert taken == [True]
    assert not list(Path().glob(f"{out}/.*")) and not list(Path().glob(".x*"))


@pytest.mark.parametrize(
    "command",
    ["gif {} --out /proc/x/film.gif", "sample {} --out /proc/x/out", "convert . --out /proc/x.st"],
)
def test_nothing_is_drawn_for_a_place_where_nothing_can_be_written(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc")
    for module, drawing in ((animation, "denoising"), (output, "sample_batches")):
        monkeypatch.setattr(module, drawing, lambda *arguments: pytest.fail("it was drawn"))
    result = ddpm(*command.format(run).split())
    assert (result.code, result.err.count("cannot write /proc/")) == (1, 1)
    assert "Traceback" not in result.err
    assert "space" not in result.err
