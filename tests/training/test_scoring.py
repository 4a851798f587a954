"""Scores during training: label, file, best weights, and the cost reported beforehand."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.generation.model import Model
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.metrics.scores.fid import Fid
from ddpm_cli.core.metrics.statistics import FeatureOrigin
from ddpm_cli.core.training import scoring
from tests.support import ranks
from tests.support.local_standin import write_classifier

Run = Callable[..., Any]


def rows(run: Path = Path("run")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("quick_scores")
def test_scores_at_regular_intervals(train_tiny: Run, ddpm: Run, trained: Path) -> None:
    options = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    result = train_tiny(*options, "--images", 32)
    assert result.code == 0, result.err
    assert [row["images"] for row in rows()] == [16, 32]
    assert {row["label"] for row in rows()} == {"local-fid10"}
    assert "n_real=24 n_fake=10" in rows()[0]["protocol"]
    announced = result.err.index("local-fid10 every 16 images: about")
    assert announced < result.err.index("local-fid10 ", announced + 20)
    assert ", 2 times: " in result.err[announced:]
    assert Path("run/scores.png").read_bytes().startswith(b"\x89PNG")
    best = min(rows(), key=lambda row: row["value"])
    loaded = weights.load(Path("run/best-local-fid10.safetensors"))
    assert loaded.images == best["images"]
    # the same score as `ddpm fid` of these weights
    call = ("fid", "run/best-local-fid10.safetensors", "--features", trained, "--json")
    photos = Path(json.loads(Path("run/config.json").read_text())["data"]["source"])
    again = ddpm(call[0], photos, *call[1:], "-n", 10, "--steps", best["steps"])
    assert again.json()["fid"] == pytest.approx(best["value"], rel=1e-3)


@pytest.mark.usefixtures("quick_scores")
def test_a_resumed_training_keeps_its_scores(train_tiny: Run, trained: Path) -> None:
    options = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    assert train_tiny(*options, "--images", 32).code == 0
    first = rows()
    result = train_tiny(*options, "--images", 48)
    assert result.code == 0
    assert [row["images"] for row in rows()] == [16, 32, 48]
    assert rows()[:2] == first
    assert "is in the cache" in result.err


@pytest.mark.usefixtures("quick_scores")
def test_scoring_does_not_change_the_training(train_tiny: Run, trained: Path) -> None:
    options = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained)
    assert train_tiny(*options, "--images", 32, "--out", "scored").code == 0
    assert train_tiny("--images", 32, "--out", "plain").code == 0
    scored, plain = (weights.load(Path(run) / "model.safetensors") for run in ("scored", "plain"))
    for name, tensor in plain.network.state_dict().items():
        assert tensor.equal(scored.network.state_dict()[name]), name


@pytest.mark.usefixtures("quick_scores")
def test_a_signal_aborts_scoring_and_the_score_is_repeated_later(
    train_tiny: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling may take longer than a cluster waits after a signal."""
    options = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    sample = scoring.generated_images

    def interrupted_at(when: int) -> Any:
        def interrupted(label: str, model: Model, *arguments: Any) -> Any:
            if model.images == when:
                os.kill(os.getpid(), signal.SIGTERM)
            return sample(label, model, *arguments)

        return interrupted

    for when, before in ((16, []), (48, [24, 32])):
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "generated_images", interrupted_at(when))
            result = train_tiny(*options, "--images", 48)
        assert result.code == 75, result.err
        scored = [row["images"] for row in rows()] if before else []
        assert scored == before  # the aborted score is repeated one training step later
    assert train_tiny(*options, "--images", 48).code == 0
    assert [row["images"] for row in rows()] == [24, 32, 48]


def test_a_signal_while_training_images_are_scored_stops_the_run(
    train_tiny: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--fid-every", 16, "--fid-n", 10, "--fid-features", trained, "--out", "run")
    batches = scoring.TrainingImages.batches

    def interrupted(self: Any, part: slice) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return batches(self, part)

    monkeypatch.setattr(scoring.TrainingImages, "batches", interrupted)
    result = train_tiny(*options, "--images", 48)
    assert (result.code, "run the same command again" in result.err) == (75, True)


@pytest.mark.usefixtures("quick_scores")
def test_scores_of_different_features_are_not_compared(
    train_tiny: Run, trained: Path, tmp_path: Path
) -> None:
    options = ("--fid-every", 16, "--fid-n", 10, "--out", "run", "--fid-features")
    assert train_tiny(*options, trained, "--images", 16).code == 0
    other = write_classifier(tmp_path / "other.safetensors", seed=1)
    result = train_tiny(*options, other, "--images", 32)
    assert result.code == 0
    assert [row["images"] for row in rows()] == [
        16,
        24,
        32,
    ]  # at once with other features
    assert "at 24 images (the best so far" in result.err
    assert weights.load(Path("run/best-local-fid10.safetensors")).images > 16


def test_a_model_of_few_timesteps_is_scored_in_as_many_steps(
    train_tiny: Run, trained: Path, ddpm: Run
) -> None:
    options = ("--fid-every", 16, "--fid-n", 4, "--fid-features", trained, "--out", "run")
    assert train_tiny(*options, "--images", 16, "--timesteps", 20).code == 0
    assert rows()[0]["steps"] == 20
    assert ddpm("sample", "run", "-n", 1, "--json").json()["nfe"] == 20


def test_two_processes_score_as_one(
    train_tiny: Run, trained: Path, photos: Path, tiny: Path
) -> None:
    """Shards that differ by one image, and few images to measure the cost on."""
    options = ("--fid-every", 16, "--fid-n", 5, "--fid-features", trained, "--images", 16)
    assert train_tiny(*options, "--out", "run").code == 0
    both = ranks.run(2, "", "train", "--data", photos, "--config", tiny, *options, "--out", "two")
    assert [result.code for result in both] == [0, 0], both[0].err
    one, two = rows()[0], rows(Path("two"))[0]
    # weights differ by the rounding of gradients that are summed in another order
    assert two["value"] == pytest.approx(one["value"], rel=0.02)


@pytest.mark.usefixtures("quick_scores")
def test_a_run_that_ends_by_patience_is_scored_at_its_end(train_tiny: Run, trained: Path) -> None:
    options = ("--fid-every", 10_000, "--fid-n", 4, "--fid-features", trained, "--out", "run")
    slow = ("--lr", 1e-12, "--patience", 1, "--snapshot-every", 8, "--images", 800)
    result = train_tiny(*options, *slow, "--json")
    assert result.code == 0, result.err
    assert "stopped early" in result.err
    assert [row["images"] for row in rows()] == [result.json()["images"]] != [800]


@pytest.mark.parametrize(("n", "label"), [(5000, "fid5k"), (10_000, "fid10k"), (2048, "fid2048")])
def test_labels_contain_the_number_of_images(n: int, label: str) -> None:
    assert scoring.score_label(n, "local-FID") == f"local-{label}"
    assert scoring.score_label(n) == label
    assert scoring.score_label(n, "FD-DINOv2") == label.replace("fid", "fd-dinov2-")


def test_wrong_scoring_options_are_refused_before_training(train_tiny: Run, trained: Path) -> None:
    result = train_tiny("--fid-every", 16, "--fid-features", "none.safetensors", "--out", "run")
    assert result.code == 1
    assert "none.safetensors: no such file" in result.err
    for options in (("--fid-every", 0), ("--fid-every", 16, "--fid-n", 1)):
        assert train_tiny(*options, "--fid-features", trained, "--out", "run").code == 2
    assert train_tiny("--fid-features", trained, "--out", "run").code == 2
    assert not Path("run").exists()


def test_fid_of_inception_features_has_no_prefix() -> None:
    report = Report(FeatureOrigin("pytorch-fid", "ab" * 32), 3, 4, "png", "png", (Fid(1.0),))
    assert report.lines().startswith("FID 1.0000  [pytorch-fid | ")
    assert report.document()["label"] == "FID"
