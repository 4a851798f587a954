"""`ddpm ema`: averages of other lengths as weights files, and what can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddpm_cli.core.checkpoints import post_hoc, tensors, weights
from ddpm_cli.core.generation import fakes
from ddpm_cli.core.models.families import build
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights
from tests.support.cli import Result
from tests.support.training import CONFIG, Messages

Ddpm = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has stored 8 pairs of averages, all of random weights."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.write_config(CONFIG)
    network = build(CONFIG.network)
    for images in range(100, 900, 100):
        states = {
            length: {name: torch.randn_like(x) for name, x in network.state_dict().items()}
            for length in post_hoc.TRACKED
        }
        post_hoc.store(directory, states, CONFIG, images, None)
    weights.save(directory.weights, network.state_dict(), CONFIG, 800)
    return directory.path


def test_lengths_are_rebuilt_as_files_of_the_run(ddpm: Ddpm, run: Path) -> None:
    result = ddpm("ema", run, "--sigma-rel", "0.07,0.15", "--json")
    assert result.code == 0, result.err
    averages = result.json()["averages"]
    assert [row["sigma_rel"] for row in averages] == [0.07, 0.15]
    # Of 8 equally spaced pairs the errors are 1.3 % and 3.3 %, in profiles.fit's closed form.
    assert [round(row["error"], 3) for row in averages] == [0.013, 0.033]
    path = run / "ema-0.150.safetensors"
    assert find_weights(run, "ema-0.150") == path == Path(averages[1]["file"])
    described = weights.read_description(path, tensors.describe(path))
    assert (described.images, described.sigma_rel) == (800, 0.15)
    assert weights.load(path).config == CONFIG
    inspected = ddpm("inspect", path)
    assert "sigma_rel 0.15" in inspected.out


def test_a_second_call_recognises_its_files_and_overwrites_no_others(ddpm: Ddpm, run: Path) -> None:
    assert ddpm("ema", run, "--sigma-rel", "0.07").code == 0
    again = ddpm("ema", run, "--sigma-rel", "0.07")
    assert again.code == 0 and "is there already, the same" in again.err
    path = run / "ema-0.070.safetensors"
    path.write_bytes((run / "model.safetensors").read_bytes())
    refused = ddpm("ema", run, "--sigma-rel", "0.06,0.07")
    assert refused.code == 1 and f"{path} exists" in refused.err and "--overwrite" in refused.err
    assert "averages" not in refused.err  # none was read
    assert not (run / "ema-0.060.safetensors").exists()
    tampered = weights.load(run / "model.safetensors").network.state_dict()
    weights.save(path, tampered, CONFIG, 800, None, 0.07)  # named as it, and another
    refused = ddpm("ema", run, "--sigma-rel", "0.06,0.07")
    assert refused.code == 1 and f"{path} exists" in refused.err
    assert not (run / "ema-0.060.safetensors").exists()
    assert ddpm("ema", run, "--sigma-rel", "0.07", "--overwrite").code == 0
    assert weights.read_description(path, tensors.describe(path)).sigma_rel == 0.07


def test_an_earlier_time_has_its_own_name(ddpm: Ddpm, run: Path) -> None:
    result = ddpm("ema", run, "--sigma-rel", "0.08", "--at", 400, "--json")
    assert result.code == 0, result.err
    assert result.json()["averages"][0]["images"] == 400
    assert (run / "ema-0.080-400.safetensors").is_file()


def test_without_lengths_it_lists_what_is_stored_and_can_be_rebuilt(ddpm: Ddpm, run: Path) -> None:
    listed = ddpm("ema", run)
    assert "16 averages, of 100 to 800 images seen" in listed.out
    rebuilt = {line.split()[0]: line.split()[-1] for line in listed.out.splitlines() if "%" in line}
    assert (rebuilt["0.01"], rebuilt["0.05"], rebuilt["0.25"]) == ("no", "well", "poorly")
    assert "ERROR OF THE PROFILE" in listed.out and "well is up to 5%" in listed.out
    assert "a smaller --ema-every" in listed.out
    document = ddpm("ema", run, "--json").json()
    assert len(document["stored"]) == 16
    assert {"sigma_rel": 0.05, "error": pytest.approx(0, abs=1e-6)} in document["lengths"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--sigma-rel", "0.3"), 2, "sigma_rel 0.3: lengths are above 0 and at most 0.2887"),
        (("--sigma-rel", "nan"), 2, "sigma_rel nan: lengths are"),
        (("--sigma-rel", "long"), 2, "lengths such as 0.05,0.10"),
        (("--sigma-rel", "0.05:0.1"), 2, "0.05:0.1: ranges are for ddpm sweep; give lengths"),
        (("--sigma-rel", "0.01"), 1, "would differ by 52% from what it should be; choose one near"),
        (("--sigma-rel", "0.1", "--at", 460), 1, "at 300, 400, 500, 600 images: take --at 500"),
        (("--sigma-rel", "0.01", "--at", 460), 1, "choose one nearer to 0.05 or 0.1"),
        (("--sigma-rel", "0.1", "--at", 50), 1, "none after 50"),
        (("--at", 50), 2, "give --sigma-rel"),
    ],
)
def test_what_cannot_be_rebuilt_is_one_line(
    ddpm: Ddpm, run: Path, arguments: tuple[object, ...], code: int, said: str
) -> None:
    result = ddpm("ema", run, *arguments)
    assert result.code == code and said in result.err
    assert not list(run.glob("ema-*"))


def test_a_rebuilt_average_is_none_of_each_snapshot(ddpm: Ddpm, run: Path) -> None:
    assert ddpm("ema", run, "--sigma-rel", "0.07").code == 0
    names = fakes.named([str(run)], Messages(), each_snapshot=True)
    assert names == [str(run / "model.safetensors")]


def test_a_poor_fit_is_said(ddpm: Ddpm, run: Path) -> None:
    assert "differs by 18% from the one asked for" in ddpm("ema", run, "--sigma-rel", "0.25").err


def test_a_run_without_stored_averages(ddpm: Ddpm, run: Path) -> None:
    for path in (run / "ema").iterdir():
        path.unlink()
    assert "trained with --ema-every" in ddpm("ema", run).err
    RunDirectory(run).write_config(replace(CONFIG, ema_every=1000))
    assert "yet: it does after every 1,000 images" in ddpm("ema", run).err
    assert "is not a run" in ddpm("ema", run / "ema").err


def test_a_sweep_scores_the_lengths_and_draws_them(
    ddpm: Ddpm, run: Path, photos: Path, trained: Path
) -> None:
    options = ("--sweep", "--real", photos, "--features", trained, "-n", 8)
    result = ddpm("ema", run, "--sigma-rel", "0.05,0.08,0.12", *options, "--steps", 2, "--json")
    assert result.code == 0, result.err
    assert "3 settings, 8 images each" in result.err
    document = result.json()
    assert {one["values"]["sigma_rel"] for one in document["settings"]} == {0.05, 0.08, 0.12}
    assert Path(document["plot"]) == run / "ema-sweep.png" and (run / "ema-sweep.png").is_file()
    assert len(document["averages"]) == 3
    assert not (run / "default-sampling.json").exists()
    again = ddpm("ema", run, "--sigma-rel", "0.05,0.08,0.12", *options, "--steps", 2, "--json")
    assert again.json()["network_calls"] == 0


def test_a_sweep_is_refused_before_a_file_is_written(ddpm: Ddpm, run: Path, trained: Path) -> None:
    """A run is no real images: its pictures of losses would be read."""
    asked = ("ema", run, "--sigma-rel", "0.05,0.08", "--sweep", "--real")
    for real, code, said in ((run, 2, "is a run; real images are wanted"), ("none", 1, "no such")):
        result = ddpm(*asked, real, "--features", trained)
        assert (result.code, said in result.err) == (code, True), result.err
    unread = ddpm(*asked, run.parent, "--features", run / "config.json")
    assert unread.code in (1, 2) and "Traceback" not in unread.err
    assert not list(run.glob("ema-*"))


def test_an_average_of_fewer_images_is_replaced(ddpm: Ddpm, run: Path) -> None:
    """After more training, as it can be rebuilt by --at; the same length of all is one file."""
    assert ddpm("ema", run, "--sigma-rel", "0.07").code == 0
    stored = post_hoc.stored(RunDirectory(run))
    states = {
        profile.sigma_rel: {name: x + 1 for name, x in tensors.read(path).tensors.items()}
        for path, profile in stored[-2:]
    }
    post_hoc.store(RunDirectory(run), states, CONFIG, 900, None)
    result = ddpm("ema", run, "--sigma-rel", "0.07", "--json")
    assert result.code == 0 and "replaces that of 800 images" in result.err
    path = run / "ema-0.070.safetensors"
    assert weights.read_description(path, tensors.describe(path)).images == 900


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sigma-rel", "0.1", "--sweep"), "--sweep compares lengths: give several"),
        (("--sweep",), "--sweep compares lengths: give several"),
        (("--sigma-rel", "0.05,0.1", "--steps", 5), "--steps: of scores; add --sweep"),
    ],
)
def test_options_of_scores(ddpm: Ddpm, run: Path, arguments: tuple[object, ...], said: str) -> None:
    result = ddpm("ema", run, *arguments)
    assert result.code == 2 and said in result.err
