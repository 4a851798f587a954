"""A folder, an .npz and a .zip have the same images: in shards, and through kills."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.generation.outputs import archive, record
from ddpm_cli.core.generation.outputs.archive import ImageArchive
from ddpm_cli.core.generation.outputs.output import Shard
from tests.support import ranks
from tests.support.cli import Result, refused, start

Run = Callable[..., Result]
COUNT = 9
BOTH = ("--class", "light", "--class", "dark")
QUICK = ("-n", COUNT, "--steps", 3, "--eta", 0.5)
OUTS = ("out", "out.npz", "out.zip")
KILLED = """
import os, signal
from pathlib import Path
replace, left = Path.replace, [{after}]

def replace_or_die(self, target):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = replace_or_die
"""
CUT_SHORT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.fixture
def run(tiny_run: Callable[..., Path]) -> Path:
    return tiny_run("run", "--images", 8)


def refusal(result: Result) -> Result:
    """A result with the last line alone of what was said."""
    return result._replace(err=f"{result.err.splitlines()[-1]}\n")


def pixels(out: str | Path) -> NDArray[np.uint8]:
    """The images of a folder or an archive, in order: (N, H, W, C)."""
    path = Path(out)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return np.asarray(arrays["arr_0"])
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            names = sorted(name for name in file.namelist() if name.endswith(".png"))
            return np.stack([imageio.imread(io.BytesIO(file.read(name))) for name in names])
    return np.stack([imageio.imread(name) for name in sorted(path.glob("0*.png"))])


def close(images: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Equal to one grey level: other batches add numbers in another order."""
    same_shape = images.shape == expected.shape
    return same_shape and int(np.abs(images.astype(int) - expected).max()) <= 1


def left_over() -> list[Path]:
    return [*Path().glob(".out*"), *Path().glob("out/.*")]


@pytest.fixture
def whole(ddpm: Run, run: Path) -> NDArray[np.uint8]:
    """The images of one call of one process, and no two of them alike."""
    assert ddpm("sample", run, *QUICK, "--out", "whole").code == 0
    images = pixels("whole")
    assert len(np.unique(images.reshape(COUNT, -1), axis=0)) == COUNT
    return images


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_any_format_and_batch_has_the_same_images(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str, batch: int
) -> None:
    result = ddpm("sample", run, *QUICK, "--batch", batch, "--out", out, "--json")
    assert (result.json()["out"], result.json()["drawn"], result.json()["missing"]) == (out, 9, 0)
    assert close(pixels(out), whole)
    assert left_over() == []
    again = ddpm("sample", run, *QUICK, "--batch", batch, "--out", out, "--json").json()
    assert again["drawn"] == 0


@pytest.mark.parametrize(
    "out", ["out.npz", *(pytest.param(out, marks=pytest.mark.chaos) for out in ("out", "out.zip"))]
)
def test_two_processes_write_into_one_place(run: Path, whole: NDArray[np.uint8], out: str) -> None:
    ended = ranks.run(2, "", "sample", run, *QUICK, "--batch", 2, "--out", out, "--json")
    assert [process.code for process in ended] == [0, 0], ended[0].err
    assert json.loads(ended[0].out)["drawn"] == COUNT
    assert close(pixels(out), whole)
    assert left_over() == []
    assert f"sampling: {COUNT + 1}/{COUNT + 1} images" not in ended[0].err


@pytest.mark.parametrize("out", OUTS)
def test_shards_make_the_whole_in_any_order(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str
) -> None:
    for number, missing in ((3, 6), (1, 3), (2, 0)):
        result = ddpm("sample", run, *QUICK, "--shard", f"{number}/3", "--out", out)
        assert result.code == 0
        assert result.out.startswith(f"3 images of shard {number} of 3 in {out}, ")
        assert (f"{missing} of 9 are still missing: other shards" in result.out) == (missing > 0)
        assert Path(out).is_file() == (missing == 0 and "." in out)
    assert close(pixels(out), whole)
    assert left_over() == []


@pytest.mark.parametrize("of", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [1, 15, 16, 1000])
def test_shards_are_of_equal_size_and_all_there_is(of: int, count: int) -> None:
    shards = [Shard.parse(f"{number}/{of}").indices(count) for number in range(1, of + 1)]
    assert [index for shard in shards for index in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["17/16", "0/16", "-1/4", "3", "3/", "/3", "1/0", "a/b", "1/2/3"])
def test_shards_that_there_are_not(text: str) -> None:
    with pytest.raises(UsageError, match="--shard takes a shard such as 3/16, from 1/16 on"):
        Shard.parse(text)


@pytest.mark.parametrize("out", OUTS)
def test_more_are_the_same_as_all_at_once(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str
) -> None:
    assert ddpm("sample", run, *QUICK[2:], "-n", 4, "--out", out).code == 0
    first = pixels(out)
    more = ddpm("sample", run, *QUICK[2:], "--more", 5, "--out", out, "--json").json()
    assert (more["n"], more["drawn"]) == (COUNT, 5)
    assert close(pixels(out), whole)
    np.testing.assert_array_equal(pixels(out)[:4], first)
    assert left_over() == []
    refused(refusal(ddpm("sample", run, *QUICK[2:], "-n", 4, "--out", out)), out, "holds ")
    assert len(pixels(out)) == COUNT


@pytest.mark.parametrize("out", OUTS)
def test_more_of_images_that_are_not_all_there_are_those(ddpm: Run, run: Path, out: str) -> None:
    assert ddpm("sample", run, *QUICK, "--shard", "1/3", "--out", out).code == 0
    result = ddpm("sample", run, *QUICK[2:], "--more", 5, "--out", out, "--json").json()
    assert (result["n"], result["drawn"]) == (COUNT, 6)


@pytest.mark.chaos
@pytest.mark.parametrize("out", OUTS)
def test_killed_ten_times_the_same_command_ends_with_all_images(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str
) -> None:
    """At a random one of the renames by which files get their names, each of them once at least."""
    moments = random.Random(0)
    command = ("sample", run, *QUICK, "--batch", 2, "--out", out)
    for _ in range(10):
        after = moments.randrange(3)
        [ended] = ranks.run(1, KILLED.format(after=after), *command)
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        if Path(out).is_file():
            assert close(pixels(out), whole)
    result = ddpm(*command, "--json")
    assert result.json()["n"] == COUNT
    assert close(pixels(out), whole)
    assert sorted(path.name for path in left_over() if path.suffix != ".part") == []


KILLED_AT = """
import os, signal
from pathlib import Path
from ddpm_cli.core.generation.outputs import archive
archive._BATCH = 2
replace, left = Path.replace, [{times}]

def replace_or_die(self, target):
    if Path(target).match("{name}"):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = replace_or_die
"""


@pytest.mark.parametrize(
    ("out", "name", "times", "drawn"),
    [
        ("out.npz", "out.npz", 1, 0),  # when all is to be written
        ("out.zip", "out.zip", 1, 0),
        ("out", "manifest.jsonl", 1, 0),
        ("out.npz", "*.batches/0*.npz", 2, 5),  # of the two batches of what was there
        ("out.zip", "*.batches/0*.npz", 2, 5),
    ],
)
def test_more_is_added_once_through_a_kill(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str, name: str, times: int, drawn: int
) -> None:
    assert ddpm("sample", run, *QUICK[2:], "-n", 4, "--out", out).code == 0
    first = pixels(out)
    command = ("sample", run, *QUICK[2:], "--more", 5, "--out", out, "--json")
    [ended] = ranks.run(1, KILLED_AT.format(name=name, times=times), *command)
    assert ended.code == -signal.SIGKILL
    again = ddpm(*command).json()
    assert (again["n"], again["drawn"]) == (COUNT, drawn)
    assert close(pixels(out), whole)
    np.testing.assert_array_equal(pixels(out)[:4], first)
    assert [path for path in left_over() if "out/" not in str(path)] == []
    assert ddpm(*command).json()["n"] == COUNT + 5  # once it is finished


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
@pytest.mark.parametrize("out", OUTS[1:])
def test_a_full_disk_loses_nothing(
    ddpm: Run, run: Path, whole: NDArray[np.uint8], out: str
) -> None:
    command = ("sample", run, *QUICK, "--batch", 1, "--out", out)
    [ended] = ranks.run(1, CUT_SHORT.format(size=1500), *command)
    assert (ended.code, "Traceback" in ended.err) == (1, False)
    assert ended.err.splitlines()[-1].startswith(f"ddpm: cannot write {out}: File too large; ")
    assert not Path(out).exists()
    assert ddpm(*command, "--json").json()["drawn"] == 0  # all were kept
    assert close(pixels(out), whole)


@pytest.mark.parametrize("out", OUTS[1:])
def test_archives_of_other_settings_stay(ddpm: Run, run: Path, out: str) -> None:
    command = ("sample", run, "--steps", 2, "--out", out)
    assert ddpm(*command, "-n", 2).code == 0
    content = Path(out).read_bytes()
    refused(
        refusal(ddpm(*command, "-n", 2, "--seed", 1)),
        out,
        "images of other settings",
        "--overwrite",
    )
    refused(refusal(ddpm(*command, "-n", 1)), out, "holds 2 images, not 1")
    assert Path(out).read_bytes() == content
    replaced = ddpm(*command, "-n", 1, "--seed", 1, "--overwrite", "--json")
    assert (replaced.json()["n"], replaced.json()["drawn"], len(pixels(out))) == (1, 1, 1)
    Path(out).write_bytes(b"mine")
    refused(refusal(ddpm(*command, "-n", 2, "--overwrite")), out, "was not written by ddpm sample")
    assert Path(out).read_bytes() == b"mine"


def test_a_job_that_is_started_again_replaces_nothing_twice(
    ddpm: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a launcher starts again goes on, also where the command says --overwrite."""
    assert ddpm("sample", run, *QUICK, "--out", "out").code == 0
    command = ("sample", run, *QUICK, "--out", "out", "--overwrite", "--json")
    assert ddpm(*command).json()["drawn"] == COUNT
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ddpm(*command).json()["drawn"] == 0


def test_the_arrays_of_an_npz(ddpm: Run, run: Path) -> None:
    """As evaluators of the field read it: arr_0 (N, H, W, C) uint8, arr_1 labels."""
    assert ddpm("sample", run, *QUICK, *BOTH, "--out", "x.npz").code == 0
    with np.load("x.npz") as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((COUNT, 8, 8, 3), np.uint8)
        assert arrays["arr_1"].tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
        assert json.loads(str(arrays["sampling"]))["steps"] == 3
    with zipfile.ZipFile("x.npz") as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}


def test_the_members_of_a_zip(ddpm: Run, run: Path) -> None:
    assert ddpm("sample", run, *QUICK, "--class", "light", "--out", "x.zip").code == 0
    assert ddpm("sample", run, *QUICK, "--class", "light", "--out", "x").code == 0
    with zipfile.ZipFile("x.zip") as file:
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(file.read("dataset.json"))["labels"]
        assert labels == [[f"{index:06d}.png", 1] for index in range(COUNT)]
        assert file.read("classes.txt").split() == [b"dark", b"light"]
        for index in range(COUNT):
            name = f"{index:06d}.png"
            assert file.read(name) == Path("x", name).read_bytes()
        assert file.read("manifest.jsonl") == Path("x/manifest.jsonl").read_bytes()


def test_writing_an_archive_takes_no_memory_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3,000 images of 3 KB, of which the archive is written a batch at a time."""
    network: Any = type("Network", (), {"size": (32, 32), "channels": 3, "classes": ()})
    model: Any = type("Model", (), {"config": type("Config", (), {"network": network})})
    conditions = type("Conditions", (), {"labels": (), "prompts": ()})
    fields = {"count": 3_000, "conditions": conditions, "init": None}
    request: Any = type("Request", (), fields)
    out = ImageArchive(Path("x.npz"), model, request)
    monkeypatch.setattr(ImageArchive, "record", lambda self: {"n": 3_000})
    monkeypatch.setattr(record, "settings_of", lambda *_: {})
    images = np.random.default_rng(0).integers(0, 256, (100, 3, 32, 32), dtype=np.uint8)
    for first in range(0, 3_000, 100):
        for task in out.tasks(range(first, first + 100), images):
            task()
    monkeypatch.setattr(archive, "track", lambda each, *_: each)
    tracemalloc.start()
    out.finish(None)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    written = pixels("x.npz")
    assert written.shape == (3_000, 32, 32, 3)
    np.testing.assert_array_equal(written[:100], images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("out", OUTS)
def test_what_was_sampled_is_scored_and_trained_on(
    ddpm: Run, run: Path, tiny: Path, trained: Path, photos: Path, out: str
) -> None:
    assert ddpm("sample", run, *QUICK, "--out", out).code == 0
    score = ddpm("fid", photos, out, "--features", trained, "--json").json()
    assert (score["n_fake"], score["n_real"]) == (COUNT, 24)
    score = ddpm("inception-score", out, "--features", trained, "--splits", 3, "--json").json()
    assert score["n"] == COUNT
    trained_on = ddpm("train", "--data", out, "--config", tiny, "--out", "second", "--images", 8)
    assert trained_on.code == 0, trained_on.err
    network = json.loads(Path("second/config.json").read_text())["network"]
    assert network["size"] == [8, 8]


LIKE = ("--steps", 4, "--sampler", "dpmpp-2m", "--guidance", 2, *BOTH)


def test_an_image_is_drawn_again_from_its_own_text(ddpm: Run, run: Path) -> None:
    assert ddpm("sample", run, "-n", 5, *LIKE, "--seed", 30, "--out", "out").code == 0
    again = ddpm("sample", "--like", "out/000003.png", "--out", "again", "--json")
    assert again.code == 0, again.err
    document = again.json()
    assert (document["n"], document["seed"], document["classes"]) == (1, 33, ["dark"])
    assert (document["steps"], document["guidance"]) == (4, 2)
    assert document["weights"] == "run/model.safetensors"  # as the folder says
    assert close(pixels("again")[0], pixels("out")[3])
    ten = ddpm("sample", "--like", "out/000003.png", "-n", 3, "--guidance", 3, "--json").json()
    assert (ten["n"], ten["guidance"], ten["steps"]) == (3, 3, 4)
    other = ddpm("sample", "--like", "out/000003.png", "--sampler", "ddpm", "--json").json()
    assert (other["eta"], other["spacing"], other["steps"]) == (1, "trailing", 4)
    seeded = ddpm("sample", "--like", "out/000003.png", "--seed", 0, "--json").json()
    assert (seeded["seed"], seeded["classes"]) == (0, ["dark"])


def test_an_image_of_other_weights_is_said_to_be_another(
    ddpm: Run, run: Path, train_tiny: Run
) -> None:
    assert ddpm("sample", run, "-n", 1, "--steps", 2, "--out", "out").code == 0
    assert train_tiny("--out", "other", "--images", 8, "--seed", 1).code == 0
    for command in (("sample", "other"), ("sample", "run")):
        result = ddpm(*command, "--like", "out/000000.png", "--out", f"again-{command[1]}")
        assert result.code == 0
        said = "are not the weights of that image" in result.err
        assert said == ("other" in command)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.png", "cannot be read: "),
        ("text.png", "has no record of how it was sampled"),
        ("plain.png", "has no record of how it was sampled"),
        ("cut.png", "has no record of how it was sampled"),
        ("odd.png", "has no record of how it was sampled"),
    ],
)
def test_images_without_a_record(ddpm: Run, name: str, words: str) -> None:
    Path("text.png").write_text("text")
    Image.new("L", (4, 4)).save("plain.png")
    Path("cut.png").write_bytes(Path("plain.png").read_bytes()[:20])
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("ddpm", '{"seed": 3}')
    Image.new("L", (4, 4)).save("odd.png", pnginfo=text)
    refused(ddpm("sample", "--like", name), f"--like {name} {words}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "x.npz", "--format", "png"), "should be a folder with --format png"),
        (("--out", "x", "--format", "zip"), "should end in .zip with --format zip"),
        (("--format", "tar"), "png, npz, zip"),
        (("--more", 3), "--more takes the place of -n, and needs the --out"),
        (("--more", 3, "-n", 3, "--out", "x"), "--more takes the place of -n"),
        (("--more", 3, "--out", "x"), "--more adds to images that are there, but x has none"),
        (("--more", 0, "--out", "x"), "--more"),
        (("--more", 2, "--out", "x", "--overwrite"), "--more keeps the images"),
        (("--shard", "1/2"), "--shard needs an --out"),
        (("--shard", "1/2", "--out", "x", "--overwrite"), "no --overwrite"),
        (("--shard", "17/16", "--out", "x"), "3/16"),
        (("-n", 0, "--out", "x"), "-n must be at least 1, not 0"),
    ],
)
def test_options_that_exclude_each_other(
    ddpm: Run, run: Path, options: tuple[object, ...], words: str
) -> None:
    refused(refusal(ddpm("sample", run, *options)), words)
    assert not Path("x").exists()


DIES_ONCE = """
import os, signal
from pathlib import Path
replace = Path.replace

def replace_or_die(self, target):
    if os.environ.get("RANK") == "1" and str(target).endswith("8.png"):
        try:
            Path(os.environ["DIED"]).touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = replace_or_die
"""


@pytest.mark.chaos
def test_a_worker_that_dies_is_started_again(
    run: Path, whole: NDArray[np.uint8], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DIES_ONCE)
    path = os.pathsep.join([str(site), str(Path(__file__).parents[2])])
    command = ("sample", run, *QUICK, "--batch", 1, "--nproc", 2, "--out", "out", "--json")
    process = start(*command, PYTHONPATH=path, DIED=str(tmp_path / "died"))
    out, err = process.communicate(timeout=ranks.SECONDS)
    assert process.returncode == 0, err
    assert "was killed by SIGKILL" in err
    assert "Restarting all for what is missing (1 of 3" in err
    assert json.loads(out)["drawn"] < COUNT  # some were kept
    assert close(pixels("out"), whole)
