"""`ddpm fid --metrics classes`: the classes of folders, arrays, samples and runs, and groups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_cli.core.metrics import scoring
from ddpm_cli.core.metrics.scores import by_class
from tests.support import ranks
from tests.support.local_standin import shapes

Run = Callable[..., Any]


@pytest.fixture
def score(ddpm: Run, trained: Path) -> Run:
    """Call `ddpm fid --metrics classes` with local features: the document, or code and message."""

    def call(*arguments: object, metrics: str = "fid,classes") -> Any:
        given = ("--features", trained, "--json", "--metrics", metrics)
        result = ddpm("fid", *arguments, *given)
        return result.json() if result.code == 0 else f"{result.code} {result.err}"

    return call


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Real and fake images in class folders."""
    return shapes(tmp_path / "r", 0, 60), shapes(tmp_path / "f", 200, 45, noise=30)


def by_name(document: dict[str, Any]) -> dict[str, Any]:
    return {entry["class"]: entry for entry in document["classes"]}


def test_each_class_has_the_score_of_its_folder(score: Run, sides: tuple[Path, Path]) -> None:
    real, fake = sides
    document = score(real, fake)
    classes = by_name(document)
    assert set(classes) == {folder.name for folder in real.iterdir()}
    for name, entry in classes.items():
        alone = score(real / name, fake / name, metrics="fid")
        assert entry["fid"] == pytest.approx(alone["fid"], rel=1e-4), name
        assert (entry["n_real"], entry["n_fake"]) == (alone["n_real"], alone["n_fake"])
    worst = max(classes.values(), key=lambda entry: entry["fid"])["class"]
    assert document["worst_class"] == worst == document["classes"][0]["class"]
    assert document["groups"] == []


def test_kid_of_a_class_is_that_of_its_folder(score: Run, sides: tuple[Path, Path]) -> None:
    """Of as many images on both sides; the command otherwise takes subsets of the fewer."""
    real, fake = sides
    name = sorted(folder.name for folder in real.iterdir())[0]
    count = min(len(list((side / name).iterdir())) for side in (real, fake))
    for side in (real, fake):
        for path in sorted((side / name).iterdir())[count:]:
            path.unlink()
    entry = by_name(score(real, fake))[name]
    alone = score(real / name, fake / name, metrics="kid")
    assert entry["kid"] == pytest.approx(alone["kid"], rel=1e-4)


def test_the_table_has_the_worst_class_first(
    ddpm: Run, trained: Path, sides: tuple[Path, Path]
) -> None:
    _, fake = sides
    name = sorted(folder.name for folder in fake.iterdir())[0]
    shutil.rmtree(fake / name)
    result = ddpm("fid", *sides, "--features", trained, "--metrics", "classes")
    assert result.code == 0, result.err
    head, columns, *rows = result.out.splitlines()
    assert head.startswith(f"local-FID by class: worst {rows[0].split()[0]} ")
    assert f"; 1 of {len(rows)} classes has no fake: {name}  [local-features" in head
    assert columns.split() == ["CLASS", "REAL", "FAKE", "local-FID", "local-KID"]
    assert rows[-1].split()[0] == name
    assert rows[-1].split()[-3:] == ["0", "-", "-"]
    values = [float(row.split()[-2]) for row in rows[:-1]]
    assert values == sorted(values, reverse=True)
    said = " ".join(result.err.split())
    assert "no local-FID without 2 images on each side" in said


def test_several_fakes_have_a_table_of_classes_each(
    ddpm: Run,
    trained: Path,
    sides: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, fake = sides
    other = shapes(tmp_path / "other", 300, 45, noise=60)
    alone = [
        ddpm("fid", real, one, "--features", trained, "--metrics", "fid,classes").out.splitlines()
        for one in (fake, other)
    ]
    out = tmp_path / "both.json"
    options = ("--features", trained, "--metrics", "fid,classes", "--out", out)
    fitted, floor, work = by_class._fitted, scoring.fid_floor, []
    monkeypatch.setattr(by_class, "_fitted", lambda *a: work.append("class") or fitted(*a))
    monkeypatch.setattr(scoring, "fid_floor", lambda *a: work.append("floor") or floor(*a))
    both = ddpm("fid", real, other, fake, *options)
    assert both.code == 0, both.err
    classes = len(list(real.iterdir()))
    assert work == ["class"] * 3 * classes  # of the real ones once, of each fake once
    for name, lines in zip((fake, other), alone, strict=True):
        start = both.out.splitlines().index(f"{name}: local-FID by class") + 1
        table = lines[2:]  # after FID and the worst class
        assert both.out.splitlines()[start : start + len(table)] == table
    assert ddpm("fid", "--compare", out).out == both.out
    ddpm("fid", real, other, fake, "--floor", "--features", trained, "--metrics", "fid")
    assert work.count("floor") == 1


def test_groups_of_classes(score: Run, sides: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = sides
    first, second, *_ = sorted(folder.name for folder in real.iterdir())
    document = score(real, fake, "--class-groups", f"both = {first}, 1 ; one={second}")
    both, one = document["groups"]
    assert (both["group"], both["classes"]) == ("both", [first, second])
    parts = []
    for side in sides:
        part = tmp_path / f"part-{side.name}"
        for name in (first, second):
            shutil.copytree(side / name, part / name)
        parts.append(part)
    alone = score(*parts, metrics="fid,is")
    assert both["fid"] == pytest.approx(alone["fid"], rel=1e-4)
    assert both["inception_score"] == pytest.approx(alone["inception_score"], rel=1e-4)
    assert one["fid"] == pytest.approx(by_name(document)[second]["fid"], rel=1e-6)
    assert document["inception_score"] is None  # of all fakes it was not requested


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("", "--class-groups is empty"),
        ("a", "'a' is no group; write them as"),
        ("a=", "'a=' is no group"),
        ("a=circle;a=square", "a is there twice"),
        ("a=circl", "there is no class 'circl', of a; did you mean circle?"),
        ("a=99", "there is no class '99', of a"),
    ],
)
def test_wrong_groups(score: Run, sides: tuple[Path, Path], groups: str, message: str) -> None:
    found = score(*sides, "--class-groups", groups)
    assert found.startswith("2 ")
    assert message in " ".join(found.split())


def test_groups_need_classes(score: Run, sides: tuple[Path, Path]) -> None:
    found = score(*sides, "--class-groups", "a=circle", metrics="fid")
    assert found.startswith("2 ")
    assert "add classes to --metrics" in found


def arrays(folder: Path, path: Path, *, names: bool) -> Path:
    """The images of class folders as an .npz with labels, by name or by index."""
    classes = sorted(each.name for each in folder.iterdir())
    files = [(label, file) for label, name in enumerate(classes)
             for file in sorted((folder / name).iterdir())]  # fmt: skip
    labels = np.array([classes[label] if names else label for label, _ in files])
    np.savez(path, arr_0=np.stack([np.asarray(Image.open(f)) for _, f in files]), arr_1=labels)
    return path


@pytest.mark.parametrize("names", [True, False])
def test_labels_of_arrays(
    score: Run, sides: tuple[Path, Path], tmp_path: Path, names: bool
) -> None:
    expected = by_name(score(*sides))
    found = by_name(score(sides[0], arrays(sides[1], tmp_path / "f.npz", names=names)))
    assert found.keys() == expected.keys()
    for name, entry in found.items():
        assert entry["fid"] == pytest.approx(expected[name]["fid"], rel=1e-4), name


def test_numbers_are_told_to_be_indices(
    ddpm: Run, trained: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    fake = arrays(sides[1], tmp_path / "f.npz", names=False)
    result = ddpm("fid", sides[0], fake, "--features", trained, "--metrics", "classes")
    assert "the classes of FAKE are numbers: they are taken as indices of those of REAL (0 = " in (
        " ".join(result.err.split())
    )
    with np.load(fake) as old:
        np.savez(tmp_path / "one.npz", arr_0=old["arr_0"], arr_1=old["arr_1"] + 1)
    found = ddpm(
        "fid", sides[0], tmp_path / "one.npz", "--features", trained, "--metrics", "classes"
    )
    assert found.code == 1  # from 1: the last is no index
    assert "have no class in common: REAL has " in " ".join(found.err.split())


def test_inputs_without_classes(score: Run, sides: tuple[Path, Path], tmp_path: Path) -> None:
    real, fake = sides
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(fake.rglob("*.png")):
        shutil.copy(path, flat / f"{index}.png")
    found = " ".join(score(real, flat).split())
    assert found.startswith("1 ")
    assert f"the class of each image, and FAKE, {flat}, has none" in found
    other = shutil.copytree(fake, tmp_path / "other")
    for index, folder in enumerate(sorted(other.iterdir())):
        folder.rename(other / f"thing{index}")
    found = " ".join(score(real, other).split())
    assert "have no class in common" in found
    assert "FAKE has thing0, thing1" in found


def test_unreadable_files_do_not_shift_the_classes(
    score: Run, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    real, fake = sides
    damaged = shutil.copytree(fake, tmp_path / "damaged")
    first = sorted(damaged.iterdir())[0]
    (first / "0-bad.png").write_bytes(b"no image")
    expected, found = by_name(score(real, fake)), by_name(score(real, damaged, "--skip-bad"))
    for name, entry in expected.items():
        assert found[name]["fid"] == pytest.approx(entry["fid"], rel=1e-4), name


def test_scores_that_the_inputs_do_not_allow(
    score: Run, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    real, fake = sides
    found = score(real, fake, metrics="fid,sfid")
    assert found.startswith("2 ")
    assert "sfid is no score of the features of a classifier" in found
    found = score(real, fake, metrics="infinity")  # 45 fakes
    assert found.startswith("1 ")
    assert "--metrics infinity needs 50 images in FAKE, which holds 45" in found
    saved = score(real, fake, "--save-real", tmp_path / "real.npz", metrics="fid")
    assert saved["fid"] > 0
    for metrics in ("classes", "mind"):
        assert f"--metrics {metrics} needs the images of REAL" in score(
            tmp_path / "real.npz", fake, metrics=metrics
        )
    from_statistics = score(tmp_path / "real.npz", real, metrics="fid,infinity")
    assert len(from_statistics["fid_infinity_fids"]) == 15  # it needs no images of REAL


def test_samples_and_a_run_have_the_classes_that_they_are_conditioned_on(
    score: Run, ddpm: Run, tiny_run: Callable[..., Path], photos: Path
) -> None:
    tiny_run("run")
    options = ("-n", 12, "--steps", 2)
    drawn = by_name(score(photos, "run", *options))
    counts = {name: (entry["n_real"], entry["n_fake"]) for name, entry in drawn.items()}
    assert counts == {"dark": (12, 6), "light": (12, 6)}
    for path in ("drawn", "drawn.zip", "drawn.npz"):
        assert ddpm("sample", "run", *options, "--out", path).code == 0
        found = by_name(score(photos, path))
        assert found.keys() == drawn.keys()
        for name, entry in drawn.items():
            assert found[name]["n_fake"] == entry["n_fake"], (path, name)
            assert found[name]["fid"] == pytest.approx(entry["fid"], rel=1e-4), (path, name)
    named = by_name(score(photos, "run", *options, "--class", "light"))
    assert {name: entry["n_fake"] for name, entry in named.items()} == {"dark": 0, "light": 12}
    assert named["dark"]["fid"] is None


def test_two_processes_have_the_scores_of_one(
    score: Run, sides: tuple[Path, Path], trained: Path
) -> None:
    metrics = "fid,infinity,mind,classes"
    fake = shapes(sides[1].with_name("more"), 400, 60, noise=30)
    arguments = ["fid", str(sides[0]), str(fake), "--metrics", metrics, "--features", str(trained)]
    alone = score(sides[0], fake, metrics=metrics)
    ended = ranks.run(2, "", *arguments, "--json", "--no-cache", "--device", "cpu")
    assert [each.code for each in ended] == [0, 0], ended[0].err
    both = json.loads(ended[0].out)
    for name, entry in by_name(alone).items():
        for key in ("fid", "kid"):
            value = by_name(both)[name][key]
            assert value == pytest.approx(entry[key], rel=1e-3, abs=1e-6), (name, key)
    for key in ("fid", "fid_infinity", "fid_infinity_std", "mind"):
        assert both[key] == pytest.approx(alone[key], rel=1e-3), key
