"""`ddpm train-classifier`, and scores in its features, labelled local."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddpm_cli.core.checkpoints import classifier
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.models.classifier import Classifier, ClassifierConfig
from tests.support.local_standin import shapes

Run = Callable[..., Any]


def test_it_learns_to_classify(ddpm: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    call = ("train-classifier", "--data", photos, "--out", out, "--epochs", 12, "--batch", 8)
    result = ddpm(*call, "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert document["classes"] == ["dark", "light"]
    assert (document["size"], document["channels"]) == ([8, 8], 3)
    assert document["accuracy"] == 1
    loaded = classifier.load(out)
    assert loaded.config.accuracy == 1
    dark = torch.full((1, 3, 8, 8), 40 / 127.5 - 1)
    predictions = loaded.network(torch.cat([dark, dark + 160 / 127.5])).argmax(dim=1)
    assert predictions.tolist() == [0, 1]
    refused = ddpm(*call)
    assert refused.code == 1
    assert "exists; choose another --out" in refused.err
    first = classifier.load(out).network.state_dict()
    assert ddpm(*call, "--overwrite").code == 0
    again = classifier.load(out).network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first), "not a function of --seed"


def test_images_without_classes_are_refused(ddpm: Run, photos: Path) -> None:
    result = ddpm("train-classifier", "--data", photos / "dark")
    assert result.code == 1
    assert "has 0 classes" in result.err
    assert ddpm("train-classifier", "--data", photos, "--lr", 0).code == 2


def test_scores_are_labelled_local(ddpm: Run, trained: Path, tmp_path: Path) -> None:
    real, fake = shapes(tmp_path / "r", 0, 60), shapes(tmp_path / "f", 100, 60, noise=40)
    call = ("fid", real, fake, "--features", trained, "--metrics", "fid,kid,prdc,is")
    text = ddpm(*call)
    assert text.code == 0, text.err
    for line in text.out.strip().splitlines():
        assert line.startswith("local-")
    assert "[local-features: bilinear to 16x16x3" in text.out
    assert "weights shapes.safetensors sha256:" in text.out
    document = ddpm(*call, "--json").json()
    assert (document["label"], document["features"]) == ("local-FID", "local")
    assert document["protocol"] == "local-features"
    assert document["fid"] > 0 < document["fid_std"]
    for name in ("kid", "precision", "recall", "density", "coverage", "inception_score"):
        assert isinstance(document[name], float), name
    score = ddpm("inception-score", fake, "--features", trained, "--splits", 2)
    assert score.out.startswith("local-Inception Score")
    assert score.code == 0


def test_statistics_keep_the_label(ddpm: Run, trained: Path, tmp_path: Path) -> None:
    real = shapes(tmp_path / "r", 0, 30)
    saved = tmp_path / "s.npz"
    assert ddpm("fid", real, real, "--features", trained, "--save-real", saved).code == 0
    both = ddpm("fid", saved, saved)
    assert both.out.startswith("local-FID 0.0000")


def test_worse_images_score_worse(ddpm: Run, trained: Path, tmp_path: Path) -> None:
    real, good = shapes(tmp_path / "r", 0, 90), shapes(tmp_path / "g", 300, 90)
    noisy = shapes(tmp_path / "n", 300, 90, noise=60)
    collapsed = shapes(tmp_path / "c", 300, 90, noise=2, step=0)

    def score(fake: Path) -> dict[str, Any]:
        call = ("fid", real, fake, "--features", trained, "--floor", "--json")
        return dict(json.loads(ddpm(*call).out))

    scores = {name: score(path) for name, path in [("g", good), ("n", noisy), ("c", collapsed)]}
    assert scores["g"]["fid"] < scores["c"]["fid"]
    assert scores["g"]["fid"] < scores["n"]["fid"]
    assert scores["g"]["kid"] < scores["n"]["kid"]
    assert scores["c"]["recall"] < scores["g"]["recall"]
    assert scores["g"]["fid_floor_n"] == 45
    assert scores["g"]["fid"] < 3 * scores["g"]["fid_floor"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DdpmError, match="no such file; ddpm train-classifier makes one"):
        classifier.load(tmp_path / "none")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DdpmError, match="holds no classifier"):
        classifier.load(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(DdpmError, match="no weights file but a text file"):
        classifier.load(tmp_path / "text")
    config = ClassifierConfig((8, 8), 3, ("a", "b"), "x", 4)
    wider = ClassifierConfig((8, 8), 3, ("a", "b"), "x", 8)
    classifier.save(tmp_path / "odd.safetensors", Classifier(config), wider)
    with pytest.raises(DdpmError, match="does not fit its own config"):
        classifier.load(tmp_path / "odd.safetensors")


def test_contradicting_options_are_refused(ddpm: Run, photos: Path, trained: Path) -> None:
    for options in (("--weights", trained), ("--protocol", "clean-fid")):
        result = ddpm("fid", photos, photos, "--features", trained, *options)
        assert result.code == 2
        assert f"{options[0]} is of the networks inception, dinov2-l, clip-l336" in result.err


def test_bf16_is_near_fp32_and_not_comparable_with_it(
    ddpm: Run, trained: Path, tmp_path: Path
) -> None:
    real, fake = shapes(tmp_path / "r", 0, 60), shapes(tmp_path / "f", 100, 60, noise=40)
    call = ("fid", real, fake, "--features", trained, "--metrics", "fid")
    exact = ddpm(*call, "--json", "--save-real", tmp_path / "s.npz").json()
    half = ddpm(*call, "--json", "--precision", "bf16").json()
    assert (exact["arithmetic"], half["arithmetic"]) == ("fp32", "bf16")
    assert half["fid"] != exact["fid"]
    assert half["fid"] == pytest.approx(exact["fid"], rel=0.05)
    mixed = ddpm("fid", tmp_path / "s.npz", *call[2:], "--precision", "bf16")
    assert mixed.code == 1
    assert "--precision of the statistics given as REAL is fp32, and bf16 is asked" in mixed.err
