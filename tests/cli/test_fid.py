"""`ddpm fid`: kinds of input, the cache of features, several processes, refused options."""

from __future__ import annotations

import io
import json
import os
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.metrics import feature_cache
from ddpm_cli.core.metrics.networks.inception import PUBLISHED
from tests.support import ranks
from tests.support.local_standin import shapes

Run = Callable[..., Any]


@pytest.fixture
def score(ddpm: Run, trained: Path) -> Run:
    """Call `ddpm fid` with local features: the JSON document, or exit code and message."""

    def call(*arguments: object) -> Any:
        result = ddpm("fid", *arguments, "--features", trained, "--json")
        return result.json() if result.code == 0 else f"{result.code} {result.err}"

    return call


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for image in sorted(folder.rglob("*.png")):
            archive.write(image, f"../{image.relative_to(folder)}")  # outside of the folder
    return path


def test_folder_zip_and_array_of_the_same_images_have_equal_scores(
    score: Run, tmp_path: Path
) -> None:
    real, fake = shapes(tmp_path / "r", 0, 30), shapes(tmp_path / "f", 200, 30, noise=30)
    zipped = pack(fake, tmp_path / "f.zip")
    pixels = [np.asarray(Image.open(path)) for path in sorted(fake.rglob("*.png"))]
    np.savez(tmp_path / "f.npz", arr_0=np.stack(pixels))
    folder = score(real, fake)
    for other in (zipped, tmp_path / "f.npz"):
        result = score(real, other)
        for name in ("fid", "fid_std", "kid", "precision", "recall", "density", "coverage"):
            assert result[name] == pytest.approx(folder[name], rel=1e-4, abs=1e-7), name
    assert not list(tmp_path.parent.glob("*.png"))
    assert (folder["n_real"], folder["real"]) == (30, "png 16x16")


def test_a_data_set_by_name_and_its_saved_statistics(
    score: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = shapes(tmp_path / "f", 200, 20)
    monkeypatch.setattr(Shapes.__init__, "__defaults__", (40,))
    result = score("shapes", fake, "--metrics", "fid", "--save-real", tmp_path / "s.npz")
    assert (result["n_real"], result["real"]) == (40, "data set 32x32")
    assert result["kid"] is None
    again = score(tmp_path / "s.npz", fake)
    assert again["fid"] == pytest.approx(result["fid"], rel=1e-9)
    assert again["precision"] is None
    for metrics in ("kid", "prdc,fid"):
        assert "needs the images of REAL" in score(tmp_path / "s.npz", fake, "--metrics", metrics)
    assert "--floor needs the images of REAL" in score(tmp_path / "s.npz", fake, "--floor")
    assert "choose from fid,kid,prdc,infinity" in score(fake, fake, "--metrics", "fdi")
    assert "splits are mnist:train and mnist:test" in score("mnist:val", fake)


def test_a_run_is_sampled_in_memory(
    score: Run, tiny_run: Callable[..., Path], photos: Path
) -> None:
    tiny_run("run")
    before = sorted(Path("run").rglob("*"))
    result = score(photos, "run", "-n", 12, "--steps", 3, "--seed", 5)
    assert (result["n_fake"], result["fake"]) == (12, "drawn 8x8")
    assert sorted(Path("run").rglob("*")) == before
    assert score(photos, "run", "-n", 12, "--steps", 3, "--seed", 5)["fid"] == result["fid"]
    assert score(photos, "run", "-n", 12, "--steps", 3)["fid"] != result["fid"]
    weights = score(photos, "run/model.safetensors", "-n", 12, "--steps", 3, "--seed", 5)
    assert weights["fid"] == result["fid"]
    assert "REAL run is a run" in score("run", photos)
    assert "is for sampling from a run" in score(photos, photos, "-n", 5)
    assert "is for sampling from a run" in score(photos, photos, "--sampler", "heun")
    heun = ("--sampler", "heun", "--steps", 2, "--seed", 5)
    assert score(photos, "run", "-n", 12, *heun)["fid"] != result["fid"]


def test_a_run_has_the_score_of_the_images_that_sample_writes(
    score: Run, ddpm: Run, tiny_run: Callable[..., Path], photos: Path
) -> None:
    tiny_run("run")
    assert ddpm("sample", "run", "-n", 10, "--steps", 3, "--out", "generated").code == 0
    files = score(photos, "generated")
    assert score(photos, "run", "-n", 10, "--steps", 3)["fid"] == pytest.approx(files["fid"], 1e-5)


def test_the_inception_score_of_a_run_is_that_of_the_images_drawn_from_it(
    ddpm: Run, tiny_run: Callable[..., Path], trained: Path, photos: Path
) -> None:
    tiny_run("run")
    options = ("--features", trained, "--splits", 2, "--json")
    drawn = ddpm("inception-score", "run", "-n", 10, "--steps", 3, *options)
    assert drawn.code == 0, drawn.err
    assert "sampling 10 images: ddim, 3 steps" in drawn.err
    assert (drawn.json()["n"], drawn.json()["images"]) == (10, "drawn 8x8")
    assert drawn.json()["sampled"]["steps"] == 3
    assert ddpm("sample", "run", "-n", 10, "--steps", 3, "--out", "drawn").code == 0
    files = ddpm("inception-score", "drawn", *options).json()
    assert files["n"] == 10
    assert drawn.json()["mean"] == pytest.approx(files["mean"], 1e-5)
    refused = ddpm("inception-score", photos, "-n", 10, *options)
    assert (refused.code, "is for sampling from a run" in refused.err) == (2, True)


def test_features_are_cached_by_image_content(
    ddpm: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    real, fake = shapes(tmp_path / "r", 0, 30), shapes(tmp_path / "f", 200, 30)

    def call(folder: Path, *more: str) -> tuple[list[str], dict[str, Any]]:
        result = ddpm("fid", folder, fake, "--features", trained, "--json", *more)
        assert result.code == 0, result.err
        document = result.json()
        del document["provenance"]  # the time, and the command line
        lines = result.err.splitlines()
        return [line.partition(":")[0] for line in lines if "is in the cache" in line], document

    hits, first = call(real)
    assert hits == []
    assert call(real) == (["real", "fake"], first)
    moved = tmp_path / "elsewhere"
    shutil.copytree(real, moved)
    assert call(moved) == (["real", "fake"], first), "the same images under another name"
    image = next(iter(sorted(moved.rglob("*.png"))))
    time = image.stat()
    data = bytearray(image.read_bytes())
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    os.utime(image, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert image.read_bytes() != data
    hits, changed = call(moved)
    assert hits == ["fake"]
    assert changed["fid"] != first["fid"]
    assert call(real, "--no-cache") == ([], first)
    hits, with_logits = call(real, "--metrics", "is,fid")
    assert hits == ["real"], "the fakes' logits were not kept"
    assert call(real, "--metrics", "is,fid") == (["real", "fake"], with_logits)
    cleared = ddpm("data", "--clear-cache", "--json").json()["features"]
    assert cleared["inputs"] == 3
    assert cleared["bytes"] > 90 * 4
    assert call(real)[0] == []


def test_the_cache_keeps_what_was_used_last(
    ddpm: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    real, *fakes = (shapes(tmp_path / str(i), 200 * i, 8) for i in range(4))
    entries = tmp_path / "cache" / "features"

    def hits(fake: Path) -> int:
        result = ddpm("fid", real, fake, "--features", trained, "--metrics", "fid")
        assert result.code == 0, result.err
        for entry in entries.iterdir():  # earlier, without waiting
            os.utime(entry, (0, entry.stat().st_mtime - 10))
        return result.err.count("is in the cache")

    assert [hits(fake) for fake in fakes[:2]] == [0, 1]
    size = sum(file.stat().st_size for file in entries.rglob("*.*"))
    monkeypatch.setattr(feature_cache, "LIMIT", size + 100)
    assert hits(fakes[0]) == 2
    assert hits(fakes[2]) == 1, "and the second has to go"
    assert hits(fakes[0]) == 2
    assert hits(fakes[1]) == 1


def test_images_of_a_run_are_not_cached(
    ddpm: Run,
    tiny_run: Callable[..., Path],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    real, run = shapes(tmp_path / "r", 0, 8), tiny_run("run")
    command = ("fid", real, run, "-n", 8, "--steps", 2, "--features", trained)
    for expected in (0, 1):
        result = ddpm(*command)
        assert result.code == 0, result.err
        assert result.err.count("is in the cache") == expected
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1


def test_inputs_with_unreadable_files_are_not_cached(
    ddpm: Run, trained: Path, tmp_path: Path
) -> None:
    real = shapes(tmp_path / "r", 3000, 30)
    broken = next(iter(sorted(real.rglob("*.png"))))
    broken.write_bytes(broken.read_bytes()[:60])
    call = ("fid", real, real, "--features", trained)
    assert ddpm(*call).code == 1
    for _ in range(2):
        result = ddpm(*call, "--skip-bad", "--json")
        assert result.code == 0
        assert "is in the cache" not in result.err
        assert "left out 1 unreadable" in result.err
        assert result.json()["n_real"] == 29


def test_two_processes_compute_the_scores_of_one(ddpm: Run, trained: Path, tmp_path: Path) -> None:
    real, fake = shapes(tmp_path / "r", 0, 31), shapes(tmp_path / "f", 200, 25, noise=30)
    command = ["fid", real, fake, "--features", trained, "--metrics", "fid,kid,prdc,is", "--json"]
    one = ddpm(*command, "--no-cache").json()
    both = ranks.run(2, "", *command, "--no-cache", "--device", "cpu")
    assert [result.code for result in both] == [0, 0], both[0].err
    two = json.loads(both[0].out)
    assert one.keys() == two.keys()
    del one["provenance"]  # the time, and the command line
    for name, value in one.items():
        if isinstance(value, float):
            assert two[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        else:
            assert two[name] == value, name


def test_scores_that_need_more_images_are_left_out(score: Run, tmp_path: Path) -> None:
    result = score(shapes(tmp_path / "r", 0, 5), shapes(tmp_path / "f", 200, 3))
    assert result["fid"] > 0
    assert result["kid_subset"] == 3
    assert result["precision"] is None
    assert result["fid_std"] is None
    only = score(tmp_path / "r", tmp_path / "f", "--metrics", "prdc")
    assert "prdc needs 6 images in each input" in only


def test_an_image_too_large_to_decode_is_named(score: Run, tmp_path: Path) -> None:
    real = shapes(tmp_path / "r", 0, 5)
    huge = tmp_path / "r" / "huge.png"
    Image.new("1", (8, 8)).save(huge)
    data = bytearray(huge.read_bytes())
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    huge.write_bytes(bytes(data))
    message = score(real, real)
    assert message.startswith("1 ")
    assert "huge.png" in message
    assert score(real, real, "--skip-bad")["n_real"] == 5


def test_notices_of_formats_and_sizes_that_change_scores(
    ddpm: Run, trained: Path, tmp_path: Path
) -> None:
    real, fake = shapes(tmp_path / "r", 0, 8), tmp_path / "f"
    for i, path in enumerate(sorted(real.rglob("*.png"))):
        fake.mkdir(exist_ok=True)
        Image.open(path).resize((20, 20)).save(fake / f"{i}.jpg")
    result = ddpm("fid", real, fake, "--features", trained)
    assert "only FAKE is JPEG" in result.err
    assert "REAL is 16x16, FAKE 20x20" in result.err
    Image.open(fake / "0.jpg").save(fake / "0.png")
    (fake / "0.jpg").unlink()
    mixed = ddpm("fid", real, fake, "--features", trained)
    assert "some of FAKE are JPEG" in mixed.err and "below 50 images" in mixed.err
    equal = ddpm("fid", real, real, "--features", trained)
    assert "JPEG" not in equal.err
    assert "resized straight" not in equal.err


def test_fetch_weights_refuses_other_content(
    ddpm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    requests: list[str] = []

    def urlopen(url: str, *, timeout: float) -> io.BytesIO:
        requests.append(url)
        return io.BytesIO(b"other")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    result = ddpm("fetch-weights", "--to", tmp_path / "stick")
    assert (result.code, requests) == (1, [PUBLISHED.url])
    assert "gave 5 bytes" in result.err
    assert not [path for path in (tmp_path / "stick").glob("*") if path.suffix == ".pth"]


def test_options_without_effect_are_refused(score: Run, ddpm: Run, tmp_path: Path) -> None:
    one, other = shapes(tmp_path / "r", 0, 8), shapes(tmp_path / "f", 200, 8)
    assert "--floor is of FID" in score(one, other, "--metrics", "kid", "--floor")
    assert "needs no REAL" in score(one, other, "--metrics", "is")
    assert "sampling from a run" in score(one, other, "--seed", 7)
    assert "sampling from a run" in score(one, other, "--class", "circle")
    assert "should end in .npz" in score(one, other, "--save-real", tmp_path / "s.txt")
    saved = tmp_path / "s.npz"
    score(one, other, "--save-real", saved)
    assert ddpm("fid", saved, saved).code == 0
    for options in (
        ("--protocol", "clean-fid"),
        ("--weights", "none.pth"),
        ("--precision", "bf16"),
    ):
        result = ddpm("fid", saved, saved, *options)
        assert (result.code, "no network runs" in result.err) == (2, True)


def test_scores_are_printed_where_the_cache_cannot_be_written(
    score: Run, ddpm: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = shapes(tmp_path / "r", 0, 8), shapes(tmp_path / "f", 200, 8)
    expected = score(one, other, "--no-cache")["fid"]
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    result = ddpm("fid", one, other, "--features", trained, "--json")
    assert result.code == 0, result.err
    assert "not kept for the next call" in result.err
    assert result.json()["fid"] == pytest.approx(expected, rel=1e-6)


def test_the_score_of_one_class_of_a_run(
    score: Run, tiny_run: Callable[..., Path], photos: Path
) -> None:
    tiny_run("run")
    names = json.loads(Path("run/config.json").read_text())["network"]["classes"]
    every = score(photos, "run", "-n", 6, "--steps", 2)
    one = score(photos, "run", "-n", 6, "--steps", 2, "--class", names[0])
    assert one["fid"] != every["fid"]
    assert "did you mean" in score(photos, "run", "-n", 6, "--steps", 2, "--class", names[0] + "x")


RESOLVED = """
import os
from pathlib import Path
from torch import distributed
from ddpm_cli.core.generation import generate, nll, run_images
from ddpm_cli.core.metrics.networks import extraction

def local_rank_0_first(module, name):
    work = getattr(module, name)

    def checked(*arguments, **settings):
        assert distributed.is_initialized(), f"{name} before the processes met"
        done = Path(f"{name}-is-done")
        assert done.exists() == (os.environ["RANK"] == "1"), f"{name} of all processes at once"
        result = work(*arguments, **settings)
        done.touch()
        return result

    setattr(module, name, checked)

for module, name in PREPARATIONS:
    local_rank_0_first(module, name)
"""


@pytest.mark.parametrize(
    ("command", "preparations"),
    [
        (
            ("fid", "photos", "run", "-n", 12, "--steps", 1),
            "(run_images, 'resolve_request'), (extraction, 'load_local_extractor')",
        ),
        (("sample", "run", "-n", 2, "--steps", 1), "(generate, 'resolve_request'),"),
        (("nll", "run", "-n", 2), "(nll.loader, 'prepare'),"),
        (("inception-score", "photos"), "(extraction, 'load_local_extractor'),"),
    ],
)
def test_one_process_prepares_what_the_others_then_find(
    tiny_run: Callable[..., Path],
    photos: Path,
    trained: Path,
    command: tuple[Any, ...],
    preparations: str,
) -> None:
    """Prompts are encoded and files downloaded by one process of a machine, not by all at once."""
    tiny_run("run")
    arguments = [photos if word == "photos" else word for word in command]
    if command[0] in ("fid", "inception-score"):
        arguments += ["--features", trained]
    program = RESOLVED.replace("PREPARATIONS", f"({preparations})")
    for ended in ranks.run(2, program, *arguments):
        assert ended.code == 0, ended.err
