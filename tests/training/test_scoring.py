"""Scores while training: their label, their file, the best weights, their cost told beforehand."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.statistics import FeatureOrigin
from ddpm_cli.core.training import scoring
from tests.support import ranks
from tests.support.local_standin import write_classifier

Run = Callable[..., Any]


def rows(run: Path = Path("run")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def test_a_training_is_judged_now_and_then(train_tiny: Run, ddpm: Run, trained: Path) -> None:
    given = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    result = train_tiny(*given, "--images", 32)
    assert result.code == 0, result.err
    assert [row["images"] for row in rows()] == [16, 32]
    assert {row["label"] for row in rows()} == {"local-fid10"}
    assert "n_real=24 n_fake=10" in rows()[0]["protocol"]
    told = result.err.index("local-fid10 every 16 images: about")
    assert told < result.err.index("local-fid10 ", told + 20)
    assert ", 2 times: " in result.err[told:]
    assert Path("run/scores.png").read_bytes().startswith(b"\x89PNG")
    best = min(rows(), key=lambda row: row["value"])
    held = weights.load(Path("run/best-local-fid10.safetensors"))
    assert held.images == best["images"]
    # the score is that of the same command on the kept weights
    call = ("fid", "run/best-local-fid10.safetensors", "--features", trained, "--json")
    photos = Path(json.loads(Path("run/config.json").read_text())["data"]["source"])
    again = ddpm(call[0], photos, *call[1:], "-n", 10, "--steps", scoring._STEPS)
    assert again.json()["fid"] == pytest.approx(best["value"], rel=1e-3)


def test_a_resumed_training_keeps_its_scores(train_tiny: Run, trained: Path) -> None:
    given = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    assert train_tiny(*given, "--images", 32).code == 0
    first = rows()
    result = train_tiny(*given, "--images", 48)
    assert result.code == 0
    assert [row["images"] for row in rows()] == [16, 32, 48]
    assert rows()[:2] == first
    assert "is in the cache" in result.err


def test_judging_changes_nothing_that_is_learned(train_tiny: Run, trained: Path) -> None:
    given = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained)
    assert train_tiny(*given, "--images", 32, "--out", "judged").code == 0
    assert train_tiny("--images", 32, "--out", "plain").code == 0
    judged, plain = (weights.load(Path(run) / "model.safetensors") for run in ("judged", "plain"))
    for name, tensor in plain.network.state_dict().items():
        assert tensor.equal(judged.network.state_dict()[name]), name


def test_a_score_is_given_up_when_a_signal_asks_to_stop(
    train_tiny: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing may take longer than a cluster waits; the score is made up for afterwards."""
    given = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    judged = scoring.TrainingScorer._evaluate

    def interrupted_at(when: int) -> Any:
        def interrupted(self: Any, averaged: Any, count: int, images: int) -> Report:
            if images == when:
                os.kill(os.getpid(), signal.SIGTERM)
            return judged(self, averaged, count, images)

        return interrupted

    for when, before in ((16, []), (48, [24, 32])):
        with monkeypatch.context() as patch:
            patch.setattr(scoring.TrainingScorer, "_evaluate", interrupted_at(when))
            result = train_tiny(*given, "--images", 48)
        assert result.code == 75, result.err
        seen = [row["images"] for row in rows()] if before else []
        assert seen == before  # the one given up is made one step of training later
    assert train_tiny(*given, "--images", 48).code == 0
    assert [row["images"] for row in rows()] == [24, 32, 48]


def test_a_signal_before_the_first_step_ends_as_any_other(
    train_tiny: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    walk = scoring.TrainingImages.walk

    def interrupted(self: Any, part: slice) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return walk(self, part)

    monkeypatch.setattr(scoring.TrainingImages, "walk", interrupted)
    result = train_tiny(*given, "--images", 48)
    assert (result.code, "run the same command again" in result.err) == (75, True)


def test_scores_of_other_features_are_kept_apart(
    train_tiny: Run, trained: Path, tmp_path: Path
) -> None:
    given = ("--fid-every", 16, "--fid-n", 10, "--out", "run", "--fid-features")
    assert train_tiny(*given, trained, "--images", 16).code == 0
    other = write_classifier(tmp_path / "other.safetensors", seed=1)
    result = train_tiny(*given, other, "--images", 32)
    assert result.code == 0
    assert [row["images"] for row in rows()] == [16, 24, 32]  # none in these features yet: at once
    assert "at 24 images (the best so far" in result.err
    assert weights.load(Path("run/best-local-fid10.safetensors")).images > 16


def test_a_model_of_few_timesteps_is_judged_in_as_many_steps(
    train_tiny: Run, trained: Path, ddpm: Run
) -> None:
    given = ("--fid-every", 16, "--fid-n", 4, "--fid-features", trained, "--out", "run")
    assert train_tiny(*given, "--images", 16, "--timesteps", 20).code == 0
    assert rows()[0]["steps"] == 20
    assert ddpm("sample", "run", "-n", 1, "--json").json()["nfe"] == 20


def test_two_processes_score_as_one(
    train_tiny: Run, trained: Path, photos: Path, tiny: Path
) -> None:
    """Shares that differ by one picture, and more processes than pictures in the announcement."""
    given = ("--fid-every", 16, "--fid-n", 5, "--fid-features", trained, "--images", 16)
    assert train_tiny(*given, "--out", "run").code == 0
    both = ranks.run(2, "", "train", "--data", photos, "--config", tiny, *given, "--out", "two")
    assert [ended.code for ended in both] == [0, 0], both[0].err
    one, two = rows()[0], rows(Path("two"))[0]
    # weights differ by the rounding of gradients that are summed in another order
    assert two["value"] == pytest.approx(one["value"], rel=0.02)


def test_a_training_that_ends_by_patience_is_judged_at_its_end(
    train_tiny: Run, trained: Path
) -> None:
    given = ("--fid-every", 10_000, "--fid-n", 4, "--fid-features", trained, "--out", "run")
    slow = ("--lr", 1e-12, "--patience", 1, "--snapshot-every", 8, "--images", 800)
    result = train_tiny(*given, *slow, "--json")
    assert result.code == 0, result.err
    assert "stopped early" in result.err
    assert [row["images"] for row in rows()] == [result.json()["images"]] != [800]


@pytest.mark.parametrize(("n", "label"), [(5000, "fid5k"), (10_000, "fid10k"), (2048, "fid2048")])
def test_labels_say_how_many(n: int, label: str) -> None:
    assert scoring.score_label(n, local=True) == f"local-{label}"
    assert scoring.score_label(n, local=False) == label


def test_what_is_wrong_is_found_before_training(train_tiny: Run, trained: Path) -> None:
    result = train_tiny("--fid-every", 16, "--fid-features", "none.safetensors", "--out", "run")
    assert result.code == 1
    assert "none.safetensors: no such file" in result.err
    for given in (("--fid-every", 0), ("--fid-every", 16, "--fid-n", 1)):
        assert train_tiny(*given, "--fid-features", trained, "--out", "run").code == 2
    assert train_tiny("--fid-features", trained, "--out", "run").code == 2
    assert not Path("run").exists()


def test_inception_scores_have_no_prefix() -> None:
    report = Report(FeatureOrigin("pytorch-fid", "ab" * 32), False, 3, 4, "png", "png", fid=1.0)
    assert report.lines().startswith("FID 1.0000  [pytorch-fid | ")
    assert report.document()["label"] == "FID"
