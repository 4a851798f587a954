"""--features NAME and fetch-weights NAME: labels, protocols, refusals."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ddpm_cli
from ddpm_cli.core.doctor import storage
from ddpm_cli.core.doctor.findings import OK
from ddpm_cli.core.metrics.networks import named
from tests.support import vision_standin as standin
from tests.support.local_standin import shapes

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    standin.smaller(monkeypatch)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return shapes(tmp_path / "real", 0, 8), shapes(tmp_path / "fake", 200, 8, noise=30)


@pytest.fixture
def dino(tmp_path: Path) -> tuple[object, ...]:
    path = standin.write(tmp_path / "dino.pth", standin.meta_weights())
    return "--features", "dinov2-l", "--weights", path


@pytest.fixture
def clip(tmp_path: Path) -> tuple[object, ...]:
    path = standin.write(tmp_path / "clip.bin", standin.clip_weights())
    return "--features", "clip-l336", "--weights", path


def message(result: Any, code: int) -> str:
    assert result.code == code, result.err
    return str(result.err)


def test_distances_of_dinov2_have_names_of_their_own(
    ddpm: Run, sides: tuple[Path, Path], dino: tuple[object, ...]
) -> None:
    result = ddpm("fid", *sides, *dino)
    first, *rest = result.out.splitlines()
    assert first.startswith("FD-DINOv2 ")
    assert "[dinov2-l, dgm-eval: PIL bicubic to 224, antialiased, rounded to bytes | " in first
    assert [line.split()[0] for line in rest] == ["KD-DINOv2", "DINOv2-precision"]
    assert " FID" not in result.out and " KID" not in result.out
    document = ddpm("fid", *sides, *dino, "--json").json()
    named = {key: document[key] for key in ("features", "label", "protocol", "cmmd")}
    assert named == {
        "features": "dinov2-l",
        "label": "FD-DINOv2",
        "protocol": "dgm-eval",
        "cmmd": None,
    }
    assert document["fid"] > 0 and document["kid"] is not None
    others = [
        ddpm("fid", *sides, *dino, "--protocol", name, "--metrics", "fid", "--json").json()
        for name in ("edm2", "torch-fidelity")
    ]
    assert len({document["fid"], *(other["fid"] for other in others)}) == 3
    assert [other["protocol"] for other in others] == ["edm2", "torch-fidelity"]


def test_cmmd(ddpm: Run, sides: tuple[Path, Path], clip: tuple[object, ...]) -> None:
    result = ddpm("fid", *sides, *clip)
    (line,) = result.out.splitlines()
    assert line.startswith("CMMD ")
    assert "[clip-l336, cmmd: the middle square, PIL bicubic to 336" in line
    document = ddpm("fid", *sides, *clip, "--json").json()
    assert document["cmmd"] == pytest.approx(float(line.split()[1]), abs=1e-4)
    named = (document["fid"], document["features"], document["label"])
    assert named == (None, "clip-l336", "CMMD")


def test_several_fakes_and_results_of_other_features(
    ddpm: Run,
    sides: tuple[Path, Path],
    dino: tuple[object, ...],
    clip: tuple[object, ...],
    tmp_path: Path,
) -> None:
    other = shapes(tmp_path / "other", 100, 8, noise=60)
    fast = ("--no-spread", "--metrics", "fid,kid")
    table = ddpm("fid", *sides, other, *dino, *fast, "--out", tmp_path / "dino.json").out
    assert "FD-DINOv2" in table and "KD-DINOv2" in table
    assert " FID" not in table and " KID" not in table
    table = ddpm("fid", *sides, other, *clip, "--out", tmp_path / "clip.json").out
    assert "CMMD" in table and "FID" not in table
    told = message(ddpm("fid", "--compare", tmp_path / "dino.json", tmp_path / "clip.json"), 1)
    assert "not comparable: the score is FD-DINOv2 of " in told and "CMMD of " in told


def test_unlike_features_are_never_compared(
    ddpm: Run, sides: tuple[Path, Path], dino: tuple[object, ...], tmp_path: Path
) -> None:
    saved = tmp_path / "real.npz"
    only = ("--metrics", "fid")
    assert ddpm("fid", *sides, *dino, *only, "--save-real", saved).code == 0
    again = ddpm("fid", saved, sides[1], *dino, *only)
    assert again.out.startswith("FD-DINOv2 ")
    other = message(ddpm("fid", saved, sides[1], *dino, *only, "--protocol", "edm2"), 1)
    assert "is dgm-eval, and edm2 is asked for: add --protocol dgm-eval" in other
    for inputs in ((saved, sides[1]), (sides[0], saved), (saved, *sides)):
        early = message(ddpm("fid", *inputs, *only), 1)  # nothing is downloaded
        assert "features of dinov2-l" in early and "add --features dinov2-l" in early
    folder = message(ddpm("fid", *sides, "--features", tmp_path), 1)
    assert "is a run or another folder, not a classifier; ddpm train-classifier" in folder
    arrays = dict(np.load(saved))
    assert str(arrays["features"]) == "dinov2-l"
    inception = tmp_path / "inception.npz"
    np.savez(inception, **arrays | {"features": np.str_(""), "protocol": np.str_("pytorch-fid")})
    conflict = message(ddpm("fid", saved, inception), 1)
    assert "not comparable: --features of REAL is dinov2-l, of FAKE inception" in conflict
    np.savez(inception, **arrays | {"features": np.str_("dinov9")})
    assert "the network 'dinov9', which is none of" in message(ddpm("fid", inception, saved), 1)
    both = ddpm("fid", saved, saved)
    assert both.out.startswith("FD-DINOv2 0.0000")


def test_statistics_of_clip_have_no_score(
    ddpm: Run, sides: tuple[Path, Path], clip: tuple[object, ...], tmp_path: Path
) -> None:
    saved = tmp_path / "real.npz"
    assert ddpm("fid", *sides, *clip, "--save-real", saved).code == 0
    for call in ((saved, saved), (saved, sides[1], *clip)):
        assert "(cmmd) need the images of FAKE and REAL" in message(ddpm("fid", *call), 2)
    assert "fid is no score of the features of clip-l336" in message(
        ddpm("fid", saved, saved, "--metrics", "fid"), 2
    )


@pytest.mark.parametrize(
    "options, told",
    [
        ("--features dinov2-l --metrics cmmd", "cmmd is no score of the features of dinov2-l"),
        ("--features dinov2-l --metrics fid,is", "is is no score of the features of dinov2-l"),
        ("--features clip-l336 --metrics fid", "which has cmmd; it is one of --features inception"),
        ("--features clip-l336 --floor", "fid is no score of the features of clip-l336"),
        ("--metrics cmmd", "it is one of --features clip-l336"),
        ("--features dinov2-l --protocol clean-fid", "clean-fid is of --features inception; of "),
        ("--protocol dgm-eval", "dgm-eval is of --features dinov2-l; of inception choose one of"),
        ("--features dinov2-l --protocol dgm", "'dgm' is unknown; choose one of dgm-eval, edm2"),
        ("--features dinov2", "nor a network's name; did you mean dinov2-l? Or choose one of"),
    ],
)
def test_options_that_do_not_fit(
    ddpm: Run, sides: tuple[Path, Path], options: str, told: str
) -> None:
    assert told in message(ddpm("fid", *sides, *options.split()), 2)


def test_the_inception_score_needs_classes(ddpm: Run, sides: tuple[Path, Path]) -> None:
    for name in ("dinov2-l", "clip-l336"):
        result = ddpm("inception-score", sides[0], "--features", name)
        assert f"is is no score of the features of {name}" in message(result, 2)


def test_from_python(
    sides: tuple[Path, Path], dino: tuple[object, ...], clip: tuple[object, ...]
) -> None:
    report = ddpm_cli.evaluate(*sides, features="dinov2-l", weights=str(dino[3]), device="cpu")
    assert report.lines().startswith("FD-DINOv2 ")
    report = ddpm_cli.evaluate(*sides, features="clip-l336", weights=str(clip[3]), device="cpu")
    assert report.fid is None and report.lines().startswith("CMMD ")


@pytest.mark.usefixtures("quick_scores")
def test_scores_during_training(train_tiny: Run, dino: tuple[object, ...]) -> None:
    options = ("--fid-every", 16, "--fid-n", 8, "--out", "run", "--images", 16)
    given = ("--fid-features", "dinov2-l", "--fid-weights", dino[3])
    assert train_tiny(*options, *given).code == 0
    (row,) = map(json.loads, Path("run/scores.jsonl").read_text().splitlines())
    assert row["label"] == "fd-dinov2-8"
    assert row["protocol"].startswith("dinov2-l, dgm-eval: ")
    assert Path("run/best-fd-dinov2-8.safetensors").is_file()
    refused = train_tiny(*options, "--fid-features", "clip-l336")
    assert "clip-l336 has no Frechet distance" in message(refused, 2)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Other contents at the published addresses, by name of the network."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    contents = {name: name.encode() * 3 for name in named.NETWORKS}
    by_url = {}
    for name, content in contents.items():
        network = named.NETWORKS[name]
        digest = hashlib.sha256(content).hexdigest()
        remote = replace(network.published, sha256=digest, size=len(content))
        monkeypatch.setitem(named.NETWORKS, name, replace(network, published=remote))
        by_url[remote.url] = content
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: io.BytesIO(by_url[url]))
    return contents


def test_fetching_one_and_all(ddpm: Run, published: dict[str, bytes], tmp_path: Path) -> None:
    one = ddpm("fetch-weights", "clip-l336", "--to", tmp_path / "stick", "--json").json()
    path = tmp_path / "stick" / "clip-vit-large-patch14-336.bin"
    assert (one["path"], one["features"], one["bytes"]) == (str(path), "clip-l336", 27)
    assert path.read_bytes() == published["clip-l336"]
    assert one["files"] == [{key: value for key, value in one.items() if key != "files"}]
    files = ddpm("fetch-weights", "all", "--json").json()["files"]
    assert {file["features"]: Path(file["path"]).read_bytes() for file in files} == published
    found = [(finding.topic, finding.verdict) for finding in storage.weights()]
    assert found == [("FID weights", OK), ("DINOv2 weights", OK), ("CLIP weights", OK)]
    assert "choose one of inception, dinov2-l, clip-l336, all" in message(
        ddpm("fetch-weights", "dinov2"), 2
    )
