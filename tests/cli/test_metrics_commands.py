"""`ddpm fid` and `ddpm inception-score` from the command line, with stand-in weights."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cli.core.metrics.networks.inception import PUBLISHED
from ddpm_cli.core.runtime.downloads import sha256_of
from tests.support.inception_standin import standin_weights

Run = Callable[..., tuple[int, str, str]]  # exit code, stdout, stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "standin.pth"
    torch.save(standin_weights(), path)
    return path


def folder(path: Path, n: int, seed: int = 0, size: int = 16) -> Path:
    path.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
    return path


def test_fid_of_folders_and_of_saved_statistics(ddpm: Run, weights: Path, tmp_path: Path) -> None:
    real, fake = folder(tmp_path / "real", 4, seed=0), folder(tmp_path / "fake", 3, seed=1)
    saved = tmp_path / "real.npz"
    code, out, err = ddpm("fid", real, fake, "--weights", weights, "--save-real", saved, "--json")
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    assert document["fid"] > 0
    assert (document["n_real"], document["n_fake"]) == (4, 3)
    assert document["protocol"] == "pytorch-fid"
    assert document["weights_sha256"] == sha256_of(weights)
    assert "n_real=4 and n_fake=3 are below 2048" in err
    with np.load(saved) as arrays:
        assert arrays["sigma"].shape == (2048, 2048)

    code, out, err = ddpm("fid", saved, fake, "--weights", weights, "--batch", 2)
    assert code == 0, err
    assert out.startswith(f"FID {document['fid']:.4f}  [pytorch-fid: bilinear to 299, half-pixel")
    for part in (
        f"| weights standin.pth sha256:{sha256_of(weights)[:8]}… | fp32",
        "n_real=4 n_fake=3 | real png 16x16, fake png 16x16]",
    ):
        assert part in out

    code, _, err = ddpm("fid", saved, fake, "--weights", weights, "--protocol", "torch-fidelity")
    assert code == 1
    assert "--protocol of the statistics given as REAL is pytorch-fid, and torch-fidelity is" in err


def test_inception_score_of_a_folder(ddpm: Run, weights: Path, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 4)
    score = ("inception-score", images, "--weights", weights, "--splits", 2)
    code, out, err = ddpm(*score, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert 1 < document["mean"] < 1008
    assert document["std"] >= 0
    assert (document["n"], document["splits"]) == (4, 2)
    assert document["weights_sha256"] == sha256_of(weights)
    code, out, _ = ddpm(*score, "--protocol", "torch-fidelity")
    assert code == 0
    assert "[torch-fidelity: bilinear" in out
    code, _, err = ddpm("inception-score", images, "--weights", weights)
    assert code == 1
    assert "holds 4 images, too few for 10 splits" in err


def only_line(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ddpm: ")
    return lines[0]


def test_inputs_are_checked_before_the_weights(ddpm: Run, tmp_path: Path) -> None:
    """Without network the weights cannot be downloaded, so the inputs are checked first."""
    real = folder(tmp_path / "real", 2)
    (tmp_path / "empty").mkdir()
    code, out, err = ddpm("fid", real, tmp_path / "empty")
    assert (code, out) == (1, "")
    assert "no images in" in only_line(err)
    code, _, err = ddpm("fid", tmp_path / "reall", real)
    assert code == 1
    assert "no such folder or archive" in only_line(err)
    (tmp_path / "photos.zip").write_text("no zip")
    code, _, err = ddpm("inception-score", tmp_path / "photos.zip")
    assert code == 1
    assert "not a zip archive" in only_line(err)
    code, _, err = ddpm("fid", real, real, "--protocol", "tf")
    assert code == 2
    assert "--protocol 'tf' is unknown; choose one of pytorch-fid, torch-fidelity" in only_line(err)
    np.savez(tmp_path / "s.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    code, _, err = ddpm("inception-score", tmp_path / "s.npz")
    assert code == 2
    assert "needs the images" in only_line(err)


def test_two_statistics_files_need_no_weights(ddpm: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "b.npz", mu=np.ones(64), sigma=4 * np.eye(64))
    code, out, _ = ddpm("fid", tmp_path / "a.npz", tmp_path / "b.npz", "--json")
    assert code == 0
    assert json.loads(out)["fid"] == pytest.approx(64 + 64)
    assert json.loads(out)["n_real"] is None


def test_wrong_and_missing_weights(ddpm: Run, tmp_path: Path) -> None:
    real = folder(tmp_path / "real", 2)
    code, _, err = ddpm("fid", real, real, "--weights", tmp_path / "nowhere.pth")
    assert code == 1
    assert "nowhere.pth: no such file" in only_line(err)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    code, _, err = ddpm("inception-score", real, "--weights", tmp_path / "other.pth", "--splits", 1)
    assert code == 1
    assert "is not the FID Inception network" in only_line(err)


def test_without_network_no_files_are_written(
    ddpm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(_url: str, *, timeout: float) -> None:
        raise urllib.request.URLError("offline")

    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    real = folder(tmp_path / "real", 2)
    code, out, err = ddpm("fid", real, real, "--save-real", tmp_path / "s.npz")
    assert (code, out) == (1, "")
    assert PUBLISHED.sha256[:12] in err and "train-classifier" in err
    assert "--weights FILE" in err
    assert not (tmp_path / "s.npz").exists()
    assert not any((tmp_path / "cache").rglob("*.pth"))


def test_unreadable_images(ddpm: Run, weights: Path, tmp_path: Path) -> None:
    real = folder(tmp_path / "real", 3)
    (real / "1.png").write_bytes((real / "1.png").read_bytes()[:200])
    score = ("inception-score", real, "--weights", weights, "--splits", 1, "--json")
    code, out, err = ddpm(*score)
    assert (code, out) == (1, "")
    assert "1.png" in err
    assert "--skip-bad" in err
    code, out, err = ddpm(*score, "--skip-bad")
    assert code == 0
    assert json.loads(out)["n"] == 2
    assert "left out 1 unreadable files: 1.png" in err
