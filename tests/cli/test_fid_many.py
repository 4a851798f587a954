"""`ddpm fid` of several fakes: one table, none lost, and results of other days beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.metrics import evaluate as evaluation
from tests.support import ranks
from tests.support.cli import Result
from tests.support.local_standin import shapes
from tests.support.results import BASE

Run = Callable[..., Result]
SCORES = ("fid", "fid_std", "fid_floor", "kid", "precision", "recall", "density", "coverage")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return shapes(tmp_path / "real", 0, 30)


@pytest.fixture
def fakes(tmp_path: Path) -> list[Path]:
    """Worst first."""
    return [shapes(tmp_path / f"noise-{noise}", 200, 12, noise) for noise in (90, 30, 0)]


@pytest.fixture
def fid(ddpm: Run, trained: Path) -> Run:
    def call(*arguments: object) -> Result:
        return ddpm("fid", *arguments, "--features", trained)

    return call


def equal(one: dict[str, Any], other: dict[str, Any], rel: float = 1e-12) -> None:
    for score in SCORES:
        assert one[score] == pytest.approx(other[score], rel=rel, abs=1e-9), score


def test_several_fakes_have_the_scores_of_separate_calls(
    fid: Run, real: Path, fakes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = []
    collect = evaluation.collect

    def counted(images: Any, *rest: Any, **settings: Any) -> Any:
        collected.append(images.label)
        return collect(images, *rest, **settings)

    monkeypatch.setattr(evaluation, "collect", counted)
    several = fid(real, *fakes, "--floor", "--no-cache", "--json")
    assert several.code == 0, several.err
    assert collected == [str(path) for path in (real, *fakes)]
    document = several.json()
    assert [one["name"] for one in document["results"]] == [str(path) for path in fakes[::-1]]
    assert (document["sorted_by"], document["failed"]) == ("fid", [])
    assert "n_real=30 n_fake=12 | real png 16x16, fake png 16x16" in document["line"]
    assert document["provenance"]["command"].startswith("ddpm fid")
    for one in document["results"]:
        alone = fid(real, one["name"], "--floor", "--no-cache", "--json").json()
        assert alone.keys() - {"provenance"} == one.keys()
        assert (alone["name"], "results" in alone) == (one["name"], False)
        equal(one, alone)


def test_the_table_is_sorted_and_has_the_floor_and_each_notice_once(
    fid: Run, real: Path, fakes: list[Path]
) -> None:
    result = fid(real, *fakes, "--floor")
    assert result.code == 0, result.err
    title, *rows, line = result.out.splitlines()
    assert title.split()[:2] == ["FAKE", "local-FID"]
    assert title.split()[-5:] == ["local-KID", "PRECISION", "RECALL", "DENSITY", "COVERAGE"]
    names = [row.split("  ")[0] for row in rows]
    assert [name for name in names if name != "(real against real)"] == [
        str(path) for path in fakes[::-1]
    ]
    values = [
        float(row.removeprefix(name).split()[0]) for row, name in zip(rows, names, strict=True)
    ]
    assert values == sorted(values)
    assert "█" in rows[-1]
    assert line.startswith("[local-features: ")
    assert line.endswith("n_real=30 n_fake=12 | real png 16x16, fake png 16x16]")
    for path in fakes:  # said as soon as it is there
        assert f"{path}: local-FID " in result.err
    assert result.err.count("rank-deficient") == 1  # the same of all


def test_a_fake_that_cannot_be_read_does_not_lose_the_others(
    fid: Run, real: Path, fakes: list[Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(fakes[0], tmp_path / "broken")
    first = min(broken.rglob("*.png"))
    first.write_bytes(first.read_bytes()[:40])
    out = tmp_path / "scores.json"
    result = fid(real, tmp_path / "nowhere", fakes[0], broken, fakes[2], "--out", out)
    assert result.code == 1
    assert [row.split()[0] for row in result.out.splitlines()[1:-1]] == [
        str(fakes[2]),
        str(fakes[0]),
    ]
    last = result.err.splitlines()[-1]
    assert last == f"ddpm: 2 of 4 fakes could not be scored: {tmp_path / 'nowhere'}, {broken}"
    assert f"{broken} is left out: {first.relative_to(broken)}: damaged" in result.err
    assert result.err.count(": damaged") == 1
    assert "::" not in result.err
    kept = json.loads(out.read_text())
    assert [one["name"] for one in kept["results"]] == [str(fakes[2]), str(fakes[0])]
    assert {one["name"] for one in kept["failed"]} == {str(tmp_path / "nowhere"), str(broken)}
    last_fails = tmp_path / "last.json"
    assert fid(real, fakes[0], broken, "--out", last_fails).code == 1
    (failed,) = json.loads(last_fails.read_text())["failed"]
    assert "damaged" in failed["error"]
    nothing = fid(real, tmp_path / "nowhere", tmp_path / "neither")
    assert (nothing.code, nothing.out) == (1, "")


def test_all_fakes_are_checked_before_any_feature_is_extracted(
    fid: Run, real: Path, fakes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "collect", lambda *_, **__: pytest.fail("extracted"))
    assert fid(real, fakes[0], "--save-real", tmp_path / "s.txt").code == 2
    twice = fid(real, *fakes, fakes[0], "--no-cache")
    assert (twice.code, "is named more than once" in twice.err) == (2, True)
    for name, message in (("--plot", "should end in .png"), ("--out", "should end in .json")):
        refused = fid(real, *fakes, name, tmp_path / "f.txt")
        assert (refused.code, message in refused.err) == (2, True)
    (tmp_path / "there.json").write_text("{}")
    taken = fid(real, *fakes, "--out", tmp_path / "there.json")
    assert (taken.code, "choose another --out" in taken.err) == (1, True)
    none = fid(real, *fakes, "--each-snapshot")
    assert (none.code, f"{fakes[0]} is none" in none.err) == (2, True)


def test_what_was_scored_before_a_signal_is_shown(
    fid: Run, real: Path, fakes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = evaluation.collect

    def stopped(images: Any, *rest: Any, **settings: Any) -> Any:
        if images.label == str(fakes[1]):
            raise KeyboardInterrupt
        return collect(images, *rest, **settings)

    monkeypatch.setattr(evaluation, "collect", stopped)
    monkeypatch.setattr("os._exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    result = fid(real, *fakes, "--no-cache", "--json")
    assert result.code == 130
    document = result.json()
    assert [one["name"] for one in document["results"]] == [str(fakes[0])]
    assert [one["error"] for one in document["failed"]] == ["not reached", "not reached"]


def test_fakes_of_unlike_n_are_not_ranked_together(
    fid: Run, real: Path, fakes: list[Path], tmp_path: Path
) -> None:
    fewer = shapes(tmp_path / "fewer", 200, 7)
    result = fid(real, *fakes, fewer, "--json")
    names = [one["name"] for one in result.json()["results"]]
    assert names == [str(path) for path in (*fakes[::-1], fewer)]
    table = fid(real, *fakes, fewer).out.splitlines()
    assert table[0].split()[:2] == ["FAKE", "N"]
    assert [row.split()[1] for row in table[1:5]] == ["12", "12", "12", "7"]
    assert "n_real=30 | real" in table[5]
    assert table[6] == (
        "Not comparable with each other: n of the fakes is 12, 7, and local-FID, recall, coverage "
        "depend on it, so each n is sorted by itself; to compare them there is local-KID, "
        "precision, density"
    )
    by_kid = fid(real, *fakes, fewer, "--metrics", "kid")
    assert sorted(row.split()[1] for row in by_kid.out.splitlines()[1:5]) == ["12", "12", "12", "7"]
    values = [float(row.split()[2]) for row in by_kid.out.splitlines()[1:5]]
    assert values == sorted(values)
    assert "Not comparable" not in by_kid.out


def test_each_snapshot_of_a_run(
    fid: Run, tiny_run: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    tiny_run("run", "--images", 48, "--snapshot-every", 16, "--keep", 9, "--preview", 0)
    drawn = ("-n", 6, "--steps", 2, "--json", "--metrics", "fid,prdc")
    result = fid(photos, "run", "--each-snapshot", *drawn, "--plot", tmp_path / "p.png")
    assert result.code == 0, result.err
    found = {one["name"]: one for one in result.json()["results"]}
    snapshots = sorted(map(str, Path("run/snapshots").glob("*.pt")))
    assert len(snapshots) >= 3
    assert sorted(found) == snapshots
    assert f"run/model.safetensors holds the weights of {snapshots[-1]}" in result.err
    for name, one in found.items():
        assert one["sampled"]["images_seen"] == int(Path(name).stem)
    alone = fid(photos, snapshots[0], *drawn).json()
    assert found[snapshots[0]]["fid"] == pytest.approx(alone["fid"], rel=1e-12)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree("run/snapshots")  # the newest weights alone are left
    newest = fid(photos, "run", "--each-snapshot", *drawn).json()
    assert newest["name"] == "run/model.safetensors"
    assert newest["fid"] == pytest.approx(found[snapshots[-1]]["fid"], rel=1e-9)


def test_two_processes_score_several_fakes_as_one_does(
    fid: Run, trained: Path, real: Path, fakes: list[Path], tmp_path: Path
) -> None:
    broken = shutil.copytree(fakes[0], tmp_path / "broken")
    last = max(broken.rglob("*.png"))  # in the second process's part
    last.write_bytes(last.read_bytes()[:40])
    command = [real, fakes[0], broken, fakes[2], "--floor", "--no-cache", "--json"]
    one = fid(*command)
    both = ranks.run(2, "", "fid", *command, "--features", trained, "--device", "cpu")
    assert [result.code for result in both] == [one.code, 1] == [1, 1], both[0].err
    two = json.loads(both[0].out)
    assert [r["name"] for r in two["results"]] == [str(fakes[2]), str(fakes[0])]
    for mine, other in zip(two["results"], one.json()["results"], strict=True):
        equal(mine, other, rel=1e-4)  # batches differ where the parts meet
    assert two["failed"] == one.json()["failed"]


FAILING = """
import os
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import run_images

load, calls = run_images.load_model, []

def failing(*arguments):
    calls.append(arguments)
    if os.environ["RANK"] == "1" and len(calls) == {call}:
        raise DdpmError("cannot be read on this machine")
    return load(*arguments)

run_images.load_model = failing
"""


@pytest.mark.parametrize("call", [1, 2], ids=["checked", "scored"])
def test_a_model_that_one_process_cannot_load_does_not_stop_the_others(
    call: int,
    trained: Path,
    tiny_run: Callable[..., Path],
    real: Path,
    fakes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_run("run")
    monkeypatch.setattr(ranks, "SECONDS", 60)
    options = ("-n", 4, "--steps", 2, "--metrics", "fid", "--json", "--device", "cpu")
    command = ("fid", real, "run", fakes[0], "--features", trained, *options)
    both = ranks.run(2, FAILING.replace("{call}", str(call)), *command)
    assert [result.code for result in both] == [1, 1], both[0].err
    document = json.loads(both[0].out)
    assert [one["name"] for one in document["results"]] == [str(fakes[0])]
    (failed,) = document["failed"]
    assert (failed["name"], failed["error"]) == ("run", "cannot be read on this machine")


def test_saved_results_are_put_together_again(
    fid: Run, ddpm: Run, real: Path, fakes: list[Path], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert fid(real, fakes[0], "--out", one).code == 0
    assert fid(real, *fakes[1:], "--out", two).code == 0
    together = fid(real, *fakes).out
    picture = tmp_path / "p.png"
    compared = ddpm("fid", "--compare", one, two, "--plot", picture)
    assert compared.code == 0, compared.err
    assert compared.out == together
    assert picture.is_file()
    joined = tmp_path / "joined.json"
    again = ddpm("fid", "--compare", two, one, "--json", "--out", joined)
    assert json.loads(joined.read_text()) == again.json()
    assert [r["name"] for r in again.json()["results"]] == [str(path) for path in fakes[::-1]]
    assert ddpm("fid", "--compare", joined).out == together


def test_numbers_that_json_lacks_are_null_in_what_is_written(ddpm: Run, tmp_path: Path) -> None:
    odd, out = tmp_path / "odd.json", tmp_path / "out.json"
    odd.write_text(json.dumps(BASE | {"kid_subset": float("nan"), "sampled": {"x": float("inf")}}))
    result = ddpm("fid", "--compare", odd, "--out", out, "--json")
    assert result.code == 0, result.err
    assert json.loads(out.read_text()) == result.json()
    assert result.json()["results"][0]["kid_subset"] is None


def test_options_that_compute_are_refused_beside_compare(ddpm: Run, tmp_path: Path) -> None:
    for options in (("--floor",), ("-n", 10), ("--nproc", 2), ("--each-snapshot",), ("--steps", 3)):
        refused = ddpm("fid", "--compare", "a.json", "b.json", *options)
        assert (refused.code, f"{options[0]} has no meaning" in refused.err) == (2, True)
    missing = ddpm("fid", "--compare", "a.json")
    assert (missing.code, "a.json: no such file" in missing.err) == (1, True)
