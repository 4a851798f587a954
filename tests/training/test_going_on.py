"""Going on with a run: its settings hold where none are given; --resume by folder and by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.cli import Result, config_of, refused
from tests.support.training import equal_tensors

Run = Callable[..., Result]


OPTIONS = ("--size", "8x16", "--batch", 4, "--seed", 5, "--unconditional", "--holdout", 4)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(ddpm: Run, tiny: Path, written_photos: Path, trained_once: Path) -> Path:
    """A run of 16 images with many settings of its own: trained once, and copied for each test."""
    if not trained_once.exists():
        command = ("train", "--data", written_photos, "--config", tiny, "--out", trained_once)
        assert ddpm(*command, "--images", 16, "--snapshot-every", 8, *OPTIONS).code == 0
    return Path(shutil.copytree(trained_once, "run"))


def test_going_on_needs_no_retyping(ddpm: Run, tiny: Path, run: Path, written_photos: Path) -> None:
    """The weights are those of the whole command."""
    shutil.copytree("run", "retyped")
    before = config_of("run")
    more = ddpm("train", "--out", run, "--images", 24, "--json")
    assert (more.code, more.json()["resumed_at"], more.json()["images"]) == (0, 16, 24), more.err
    after = config_of("run")
    assert after == before | {"budget": before["budget"] | {"images": 24}}
    command = ("train", "--data", written_photos, "--config", tiny, "--out", "retyped", *OPTIONS)
    assert ddpm(*command, "--images", 24, "--snapshot-every", 8).code == 0
    assert config_of("retyped") == after
    one, other = (load_file(f"{name}/model.safetensors") for name in ("run", "retyped"))
    assert equal_tensors(one, other)
    again = ddpm("train", "--out", run)
    assert (again.code, "budget is used up" in again.err) == (0, True)


@pytest.mark.parametrize("named", ["run", "run/", "run/snapshots", "run/snapshots/000000000016.pt"])
def test_a_run_may_be_named_by_resume(ddpm: Run, run: Path, named: str) -> None:
    result = ddpm("train", "--resume", named, "--images", 20, "--json")
    assert (result.code, result.json()["run"], result.json()["resumed_at"]) == (0, "run", 16)
    assert sorted(Path("run/snapshots").iterdir())[-1].name == "000000000020.pt"
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_an_earlier_snapshot_named_by_resume_is_returned_to(ddpm: Run, run: Path) -> None:
    older = sorted((run / "snapshots").glob("*.pt"))[0]
    result = ddpm("train", "--resume", older, "--images", 20, "--json")
    assert (result.code, result.json()["resumed_at"]) == (0, int(older.stem)), result.err


def test_another_run_begins_from_a_runs_newest_snapshot(ddpm: Run, run: Path) -> None:
    command = ("train", "--resume", "run", "--out", "other", "--json", "--images")
    first = ddpm(*command, 20)
    assert (first.code, first.json()["resumed_at"]) == (0, 16), first.err
    assert config_of("other")["network"] == config_of("run")["network"]
    assert ddpm("train", "--out", "run", "--images", 24).code == 0  # it has a newer one now
    again = ddpm(*command, 24)
    assert (again.code, again.json()["resumed_at"]) == (0, 20), again.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--lr", 0.5), "--lr 0.002 -> 0.5"),
        (("--size", 16), "network.size (8, 16) -> (16, 16)"),
        (("--conditional",), "network.classes () -> ('dark', 'light')"),
        (("--schedule", "linear", "--width", 16), "--width 8 -> 16; --schedule"),
        (("--preset", "mnist"), "--width 8 -> 32"),
        (("--captions",), "captions"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize("how", [("--out", "run"), ("--resume", "run", "--out", "other")])
def test_settings_that_contradict_the_run_are_named(
    ddpm: Run,
    run: Path,
    photos: Path,
    options: tuple[object, ...],
    named: str,
    dry: tuple[str, ...],
    how: tuple[str, ...],
) -> None:
    result = ddpm("train", *how, "--images", 32, *options, *dry)
    result = Result(result.code, result.out, result.err.splitlines()[-1])
    refused(result, named)
    assert not Path("other").exists()


def test_settings_that_may_change(ddpm: Run, run: Path) -> None:
    options = ("--snapshot-every", 4, "--keep", 5, "--preview", 1, "--patience", 9, "--steps", 6)
    result = ddpm("train", "--out", run, *options, "--microbatch", 2, "--json")
    assert (result.code, result.json()["images"]) == (0, 24), result.err
    assert config_of("run")["budget"]["images"] is None


def test_images_that_were_added_need_a_new_run(ddpm: Run, run: Path, photos: Path) -> None:
    shutil.copy(photos / "dark" / "0.png", photos / "dark" / "more.png")
    for how in (("--out", "run"), ("--resume", "run", "--out", "new")):
        result = ddpm("train", *how, "--images", 32, "--data", photos)
        refused(result, f"--init-from run --data {photos}", "are not the ones it was trained on")
    assert not Path("new").exists()
    command = ("train", "--init-from", "run", "--data", photos, "--out", "new", "--batch", 4)
    assert ddpm(*command, "--images", 8, "--preview", 0).code == 0


def test_a_run_whose_images_moved(ddpm: Run, run: Path, photos: Path) -> None:
    config = config_of("run")
    Path("run/config.json").write_text(
        json.dumps(config | {"data": config["data"] | {"source": "gone"}})
    )
    refused(
        ddpm("train", "--out", run, "--images", 20), "gone: no such folder", "--data says where"
    )
    assert ddpm("train", "--out", run, "--images", 20, "--data", photos).code == 0


def test_a_snapshot_away_from_its_run(ddpm: Run, train_tiny: Run, run: Path) -> None:
    """Its settings are unknown: the network is compared before anything is written."""
    shutil.copy(run / "snapshots" / "000000000016.pt", "kept.pt")
    for more in (("--dry-run",), ()):
        result = train_tiny("--resume", "kept.pt", "--width", 16, "--out", "new", *more)
        refused(
            result,
            "--resume kept.pt is of another network",
            "first.weight is (32, 8), needs (64, 16)",
        )
        assert not Path("new").exists()
    shutil.rmtree("run")
    fits = train_tiny("--resume", "kept.pt", "--unconditional", "--out", "new", "--images", 24)
    assert fits.code == 0, fits.err


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("empty", "empty is not a run"),
        ("bare", "there is no snapshot in bare/snapshots"),
        ("gone", "gone: no such file"),
        ("run/samples", "run/samples is not a run"),
    ],
)
def test_what_is_no_run_or_snapshot(ddpm: Run, run: Path, named: str, says: str) -> None:
    Path("empty").mkdir()
    Path("bare").mkdir()
    shutil.copy("run/config.json", "bare")
    (run / "samples").mkdir(exist_ok=True)
    refused(ddpm("train", "--resume", named, "--dry-run"), says)


def test_no_folder_stays_behind_a_refusal(
    train_tiny: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a snapshot that turns out to be another's only when it is loaded."""
    from ddpm_cli.core.training import resuming

    monkeypatch.setattr(resuming, "verify_named_snapshot", lambda *_: None)
    shutil.copy(run / "snapshots" / "000000000016.pt", "kept.pt")
    result = train_tiny("--resume", "kept.pt", "--width", 16, "--out", "deep/new")
    assert (result.code, "is not a snapshot of this run" in result.err) == (1, True), result.err
    assert not Path("deep").exists()
