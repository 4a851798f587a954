"""`ddpm push` and `ddpm pull`, against a stand-in of the hub's API."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ddpm_cli.core.checkpoints import weights
from ddpm_cli.core.conversion.exporting import export
from ddpm_cli.core.data import files
from ddpm_cli.core.generation.default_sampling import DefaultSampling
from ddpm_cli.core.runtime.downloads import sha256_of
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.support.cli import Result, config_of, refused
from tests.support.hub_standin import NAME, HubStandin

Run = Callable[..., Result]
MakeRun = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # of the library's

OURS = {"README.md", "model.safetensors", "config.json", "metrics.jsonl", "samples.png"}
THEIRS = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}


def pixels(folder: str) -> list[bytes]:
    """The images of a folder of samples, decoded."""
    paths = sorted(Path(folder).glob("0*.png"))
    return [files.decode(path.read_bytes(), path.name).tobytes() for path in paths]


def front_matter(card: str) -> dict:
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def pushed(hub: HubStandin, revision: str = "main", name: str = NAME) -> dict[str, bytes]:
    return hub.repositories[name].files(revision)


def test_a_run_comes_back_and_samples_the_same(
    ddpm: Run, hub: HubStandin, make_run: MakeRun
) -> None:
    run = make_run()
    sent = ddpm("push", run, NAME, "--json")
    assert sent.code == 0, sent.err
    assert "Logged in at" in sent.err and "as someone" in sent.err
    document = sent.json()
    assert {each["file"] for each in document["files"]} == OURS | THEIRS == set(pushed(hub))
    assert document["commit"] == hub.repositories[NAME].branches["main"]
    assert document["url"] == f"{hub.address}/{NAME}"
    got = ddpm("pull", NAME, "--json")
    assert got.code == 0, got.err
    assert got.json()["run"] == "runs/digits" and not got.json()["converted"]
    assert {path.name for path in Path("runs/digits").iterdir()} == OURS | {"pulled.json"}
    assert Path("runs/digits/config.json").read_text() == (run / "config.json").read_text()
    for place, out in ((run, "one"), ("runs/digits", "two")):
        done = ddpm("sample", place, "-n", 2, "--steps", 3, "--out", out)
        assert done.code == 0, done.err
    assert pixels("one") == pixels("two") != []
    assert ddpm("inspect-schedule").code == 0
    assert [path.name for path in Path("runs").iterdir()] == ["digits"]  # nothing beside it


def test_what_a_sweep_found_goes_along_with_its_weights(
    ddpm: Run, hub: HubStandin, make_run: MakeRun
) -> None:
    run = make_run()
    (run / "ema-0.100.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    measured = {"score": "FID", "value": 5.0, "real": "/home/me/photos"}
    best = DefaultSampling({"steps": 2, "eta": 0.5}, "ema-0.100", measured)
    best.write(RunDirectory(run))
    sent = ddpm("push", run, NAME, "--json")
    assert "the weights are ema-0.100, which ddpm sweep found best" in sent.err
    assert b"/home/me" not in pushed(hub)["default-sampling.json"]
    assert ddpm("pull", NAME).code == 0
    for place, out in ((run, "one"), ("runs/digits", "two")):
        done = ddpm("sample", place, "-n", 2, "--out", out, "--json").json()
        assert (done["nfe"], done["eta"]) == (2, 0.5)
    assert pixels("one") == pixels("two") != []
    assert ddpm("push", run, NAME, "--weights", "model", "--json").code == 0
    files = ddpm("push", run, NAME, "--weights", "model", "--dry-run", "--json").json()["files"]
    assert "default-sampling.json" not in {each["file"] for each in files}


def test_diffusers_loads_what_was_pushed(ddpm: Run, hub: HubStandin, make_run: MakeRun) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers' own imports
        diffusers = pytest.importorskip("diffusers")
    run = make_run()
    assert ddpm("push", run, NAME).code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.DDPMPipeline.from_pretrained(NAME)
    pipeline.set_progress_bar_config(disable=True)
    x, t = (
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.tensor([3, 900]),
    )
    ours = weights.load(run / "model.safetensors").network
    with torch.inference_mode():
        expected, theirs = ours(x, t.float()), pipeline.unet(x, t).sample
    assert float((theirs - expected).abs().max() / expected.abs().max()) < 1e-5
    drawn = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert drawn.shape == (2, 8, 8, 3) and drawn.std() > 0.01


def test_a_pipeline_of_diffusers_is_converted(
    ddpm: Run, hub: HubStandin, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    export(run / "model.safetensors", tmp_path / "pipeline")
    paths = [path for path in (tmp_path / "pipeline").rglob("*") if path.is_file()]
    held = {path.relative_to(tmp_path / "pipeline").as_posix(): path.read_bytes() for path in paths}
    hub.add(NAME, held | {"unet/diffusion_pytorch_model.fp16.safetensors": b"half", "run.py": b"1"})
    got = ddpm("pull", NAME, "--out", "theirs", "--json")
    assert got.code == 0, got.err
    assert got.json()["converted"] and {each["file"] for each in got.json()["files"]} == THEIRS
    assert {path.name for path in Path("theirs").iterdir()} == {
        *("model.safetensors", "config.json", "pulled.json")
    }
    one, other = (weights.load(place / "model.safetensors") for place in (run, Path("theirs")))
    assert all(map(torch.equal, one.network.parameters(), other.network.parameters()))
    assert config_of("theirs")["origin"]["path"] == NAME
    assert ddpm("sample", "theirs", "-n", 1, "--steps", 2).code == 0


def test_the_card_says_what_the_model_is(ddpm: Run, hub: HubStandin, make_run: MakeRun) -> None:
    run = make_run(classes=("cat", "dog"))
    rows = [
        {"images": seen, "label": "fid5k", "value": value, "protocol": "fid5k pytorch-fid n=5000"}
        for seen, value in ((320, 10.25), (480, 30.0), (640, 20.5))
    ]
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ddpm("push", run, NAME, "--license", "cc-by-4.0").code == 0
    card = pushed(hub)["README.md"].decode()
    assert front_matter(card) == {
        "library_name": "diffusers",
        "license": "cc-by-4.0",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["ddpm", "diffusion", "pixel-space", "class-conditional", "diffusers:DDPMPipeline"],
        "datasets": ["ylecun/mnist"],
    }
    for words in (
        *(
            "8x8 colour images of 2 classes (cat, dog)",
            "640 images",
            "by ddpm 0.0.7 from its preset `mnist`",
        ),
        *(
            "ddpm pull someone/digits",
            "ddpm sample runs/digits --guidance 2",
            "class_labels=labels",
        ),
        *('DDPMPipeline.from_pretrained("someone/digits")', "![Sampled images](samples.png)"),
        "| 320 | fid5k | 10.25 | fid5k pytorch-fid n=5000 |",
        "| 640 (these weights) | fid5k | 20.5 | fid5k pytorch-fid n=5000 |",
        *("| learning rate | 0.001 (AdamW) |", "cosine, 1,000 timesteps"),
        f"sha256 `{sha256_of(run / 'model.safetensors')}`",
    ):
        assert words in card, words
    assert "| 480" not in card  # neither the best nor the last


@pytest.mark.parametrize("option", ["--revision", "--message", "--license"])
def test_what_is_no_text_is_refused(ddpm: Run, make_run: MakeRun, option: str) -> None:
    refused(ddpm("push", make_run(), NAME, option, "\udcff", "--dry-run"), option, "UTF-8")
    run = make_run("other", source="/photos/\udce9t\udce9")
    card = ddpm("push", run, NAME, "--dry-run", "--json").json()["card"]
    assert "images of `?t?`" in card


def test_without_a_licence_the_card_asks_for_one(
    ddpm: Run, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = make_run(patch=2, preview=False, source="/home/someone/photos")
    done = ddpm("push", run, NAME, "--dry-run", "--json")  # without a hub, and without a login
    assert done.code == 0, done.err
    document = done.json()
    assert "license" not in front_matter(document["card"])
    assert "# license: none is given yet" in document["card"]
    assert "diffusers cannot load it" in document["card"]
    assert {each["file"] for each in document["files"]} == OURS - {"samples.png"}
    assert "samples.png would be drawn" in done.err and "names in place of your paths" in done.err
    assert "/home/someone" not in done.out + done.err
    text = ddpm("push", run, NAME, "--dry-run").out
    assert document["card"] in text and "Nothing was uploaded." in text


def test_other_weights_to_a_private_branch(ddpm: Run, hub: HubStandin, make_run: MakeRun) -> None:
    run = make_run()
    options = ("--weights", "best", "--private", "--revision", "best", "--message", "The best")
    assert ddpm("push", run, NAME, *options).code == 0
    repository = hub.repositories[NAME]
    assert repository.private and repository.messages[-1] == "The best"
    assert repository.files("main") == {}
    held = pushed(hub, "best")
    assert held["model.safetensors"] == (run / "best.safetensors").read_bytes()
    assert held["samples.png"] != (run / "samples" / "000000640.png").read_bytes()  # it is drawn
    assert "--revision best" in held["README.md"].decode()
    got = ddpm("pull", NAME, "--revision", "best", "--out", "best")
    assert got.code == 0 and weights.load(Path("best/model.safetensors")).images == 320


def test_the_card_alone(ddpm: Run, hub: HubStandin, make_run: MakeRun) -> None:
    run = make_run()
    assert ddpm("push", run, NAME, "--card-only").code == 0
    assert set(pushed(hub)) == {"README.md", "samples.png"}
    assert hub.repositories[NAME].messages[-1] == "Card of a model of ddpm after 640 images"


def test_a_push_without_a_login_prepares_nothing(
    ddpm: Run, hub: HubStandin, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run()
    monkeypatch.setenv("HF_TOKEN", "hf_of-nobody")
    refused(ddpm("push", run, NAME), "401", "hf auth login", "HF_TOKEN")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    refused(ddpm("push", run, NAME), "nobody is logged in", "hf auth login")
    assert hub.repositories == {}
    assert [request for request in hub.requests if "whoami" not in request] == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}), ("401", "hf auth login")),
        ((403, {}), ("403", "right to write")),
        ((429, {"Retry-After": "12"}), ("429", "in 12 seconds")),
        ((500, {}), ("out of order (500)",)),
        ((404, {"X-Error-Code": "RepoNotFound"}), ("no such repository", "private")),
        ((403, {"X-Error-Code": "GatedRepo"}), ("its owner lets in",)),
    ],
    ids=str,
)
def test_what_the_hub_refuses_is_one_line(
    ddpm: Run, hub: HubStandin, answer: tuple[int, dict[str, str]], words: tuple[str, ...]
) -> None:
    hub.refuse["/api/models"] = answer
    refused(ddpm("pull", NAME), NAME, *words)
    assert not Path("runs/digits").exists()


def test_what_is_not_there_is_one_line(
    ddpm: Run, hub: HubStandin, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(ddpm("pull", NAME), NAME, "no such repository")
    hub.add(NAME, {"README.md": b"nothing"})
    refused(ddpm("pull", NAME, "--revision", "v2"), "no branch, tag or commit 'v2'")
    refused(ddpm("pull", NAME), "no model.safetensors of ddpm", "README.md")
    refused_last(ddpm("push", make_run(), "other/digits"), "403", "right to write")
    refused_last(ddpm("push", "nowhere", NAME), "nowhere", "no such run")
    for name in ("digits", "a/b/c", "../digits", "someone/..", "-a/b", f"{hub.address}/a/b"):
        refused(ddpm("pull", "--", name) if name[0] == "-" else ddpm("pull", name), "user/name")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused(ddpm("pull", NAME), "127.0.0.1:9", "failed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(ddpm("pull", NAME), "HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(ddpm("pull", NAME), "pip install 'ddpm-cli[hub]'")
    assert not Path("runs/digits").exists()


def test_a_connection_that_is_lost_costs_what_had_not_arrived(
    ddpm: Run, hub: HubStandin, on_the_hub: Path
) -> None:
    hub.cut_after["model.safetensors"] = 1000
    broken = ddpm("pull", NAME)
    refused_last(
        broken, "127.0.0.1", "failed", "1 file that arrived whole is kept in runs/.digits."
    )
    assert not Path("runs/digits").exists()
    hub.cut_after.clear()
    hub.requests.clear()
    got = ddpm("pull", NAME)
    assert got.code == 0, got.err
    assert not any("GET" in each and "/config.json" in each for each in hub.requests)
    assert sha256_of(Path("runs/digits/model.safetensors")) == sha256_of(
        Path("trained/model.safetensors")
    )
    assert [path.name for path in Path("runs").iterdir()] == ["digits"]


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl"])
def test_a_file_that_arrives_damaged_is_deleted(
    ddpm: Run, hub: HubStandin, on_the_hub: Path, name: str
) -> None:
    hub.spoiled.add(name)
    refused_last(ddpm("pull", NAME), name, "arrived damaged")
    assert not Path("runs/digits").exists()
    assert not list(Path("runs").rglob(name))
    hub.spoiled.clear()
    assert ddpm("pull", NAME).code == 0


def test_nothing_is_overwritten(ddpm: Run, hub: HubStandin, on_the_hub: Path) -> None:
    before = sha256_of(on_the_hub / "config.json")
    refused(ddpm("pull", NAME, "--out", on_the_hub), "trained exists", "not overwritten")
    assert sha256_of(on_the_hub / "config.json") == before
    assert ddpm("pull", NAME).code == 0
    hub.requests.clear()
    again = ddpm("pull", NAME, "--json")
    assert again.code == 0 and "already" in again.err and again.json()["run"] == "runs/digits"
    assert not any("resolve" in request for request in hub.requests)
    hub.repositories[NAME].commit({"README.md": b"another"}, "later")
    refused(ddpm("pull", NAME), "runs/digits exists", "choose another --out")
    Path("empty").mkdir()
    assert ddpm("pull", NAME, "--out", "empty").code == 0


def test_only_known_files_of_known_sizes_are_taken(
    ddpm: Run, hub: HubStandin, on_the_hub: Path
) -> None:
    escaping = {"../../escaped.json": b"1", "snapshots/1.pt": b"2", "sub/config.json": b"3"}
    hub.repositories[NAME].commit(escaping, "more")
    assert ddpm("pull", NAME).code == 0
    assert {path.name for path in Path("runs/digits").rglob("*")} == OURS | {"pulled.json"}
    assert not Path("../escaped.json").exists() and not Path("escaped.json").exists()
    hub.listed["metrics.jsonl"] = {"size": 10**12}
    refused(ddpm("pull", NAME, "--out", "large"), "metrics.jsonl is of 1000.0 GB", "64.0 MB")
    assert not Path("large").exists()


@pytest.mark.parametrize("value", ["\udcff", "a" * 5000, "/dev/null", "a\nb", "/proc/x", "~no/x"])
@pytest.mark.parametrize("option", ["--out", "--revision"])
def test_values_that_no_one_meant(
    ddpm: Run, hub: HubStandin, on_the_hub: Path, option: str, value: str
) -> None:
    done = ddpm("pull", NAME, option, value)
    if done.code == 0:
        assert (option, value) == ("--out", "a\nb") and Path(value).is_dir()
    else:
        refused_last(done)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"unet/config.json": b"{}", "unet/diffusion_pytorch_model.bin": b"x"}, ("pickles",)),
        (
            {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"},
            ("another library", "model_type"),
        ),
        ({"model.safetensors": b"x" * 100}, ("model.safetensors",)),
    ],
    ids=["pickles", "transformers", "no-safetensors"],
)
def test_other_models_are_refused(
    ddpm: Run, hub: HubStandin, held: dict[str, bytes], words: tuple[str, ...]
) -> None:
    hub.add(NAME, held)
    refused_last(ddpm("pull", NAME), *words)
    assert not any("model.bin" in request for request in hub.requests)
    assert not Path("runs/digits").exists()


def refused_last(result: Result, *words: str) -> None:
    """An error of one line, after lines of progress."""
    refused(result._replace(err=result.err.splitlines()[-1]), *words)
