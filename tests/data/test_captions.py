"""Captions: their files, which one a training step uses, and what a run stores of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddpm_cli.core.conditioning import tokens
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.annotations.captions import from_class_names
from ddpm_cli.core.data.decoded import DecodedImages
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.sources import open_source
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.reporting import Silent
from ddpm_cli.core.training.batches import Batches
from tests.support.cli import TINY, Result
from tests.support.training import batches_of

CPU = torch.device("cpu")


def captions_for(folder: Path) -> dict[str, str]:
    """A caption for each of the photos."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    return {name: f"a {name.split('/')[0]} image, no. {i % 5}" for i, name in enumerate(names)}


def write(folder: Path, kind: str, captions: dict[str, str]) -> None:
    """Write captions in one of the supported formats."""
    if kind == "txt":
        for name, text in captions.items():
            (folder / name).with_suffix(".txt").write_text(f"{text}\n")
    elif kind == "csv":
        rows = "".join(f'{name},"{text}"\n' for name, text in captions.items())
        (folder / "captions.csv").write_text(f"file,caption\n{rows}", encoding="utf-8-sig")
    else:
        rows = [{"file_name": name, "text": text, "width": 8} for name, text in captions.items()]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(lines)


@pytest.fixture
def captioned(photos: Path) -> Path:
    write(photos, "csv", captions_for(photos))
    return photos


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
@pytest.mark.parametrize("packed", [False, True])
def test_captions_are_found(photos: Path, kind: str, packed: bool) -> None:
    expected = captions_for(photos)
    write(photos, kind, expected)
    path = photos
    if packed:
        path = photos.parent / "photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in photos.rglob("*.*"):
                archive.write(file, file.relative_to(photos))
    source = open_source(str(path))
    assert source.captioned
    captions = source.captions()
    assert [captions.sentences[n] for n in captions.indices[:, 0]] == list(expected.values())
    assert len(captions.sentences) == 10  # without duplicates


def test_images_without_captions_are_not_captioned(photos: Path) -> None:
    (photos / "notes.txt").write_text("beside no image")
    (photos / "metadata.jsonl").write_text('{"file_name": "dark/0.png", "label": 3}\n')
    source = open_source(str(photos))
    assert not source.captioned
    with pytest.raises(DdpmError, match=r"holds no captions: put a \.txt beside each image"):
        source.captions()
    assert not Shapes(6).captioned


def test_several_lines_are_several_captions(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.with_suffix(".txt").write_text("an image\n\none more word for it\n")
    (photos / "dark" / "0.txt").write_text("only this")
    captions = open_source(str(photos)).captions()
    assert captions.sentences == ("only this", "an image", "one more word for it")
    assert captions.indices[0].tolist() == [0, -1] and captions.indices[5].tolist() == [1, 2]
    rows = np.array([0, 0, 0, 1, 1, 1])
    draws = np.array([0.0, 0.5, 0.999, 0.0, 0.499, 0.5])
    assert captions.choose(rows, draws).tolist() == [0, 0, 0, 1, 1, 2]


def test_the_captions_of_shapes_describe_them() -> None:
    shapes = Shapes(30)
    captions = shapes.captions()
    for i in (0, 17, 29):
        figure = shapes.describe(i)
        caption = captions.sentences[captions.indices[i, 0]]
        assert caption == f"a {figure.size} {figure.colour} {figure.figure} on {figure.background}"


def test_templates_over_class_names() -> None:
    captions = from_class_names(
        ["a {class}", "no other than {class}"], ["cat", "ox"], np.array([1, 0, 1])
    )
    sentences = [[captions.sentences[n] for n in row] for row in captions.indices]
    assert sentences[0] == sentences[2] == ["a ox", "no other than ox"]
    assert sentences[1] == ["a cat", "no other than cat"]
    with pytest.raises(UsageError, match=r"'a photo' should contain \{class\}"):
        from_class_names(["a photo"], ["cat"], np.array([0]))
    with pytest.raises(DdpmError, match="these images have none"):
        from_class_names(["a {class}"], [], np.array([-1]))
    with pytest.raises(DdpmError, match=r"'caf\\udce9' is not UTF-8: rename its folder"):
        from_class_names(["a {class}"], ["caf\udce9"], np.array([0]))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dark/3.txt", None, "1 of 24 images have no caption in a .txt beside them: dark/3.png. W"),
        ("dark/3.txt", b" \n", "dark/3.txt: the caption of dark/3.png is empty"),
        ("light/0.txt", b"a \xff", r"light/0.txt is not UTF-8 \(byte 3 is 0xff\)"),
        ("captions.csv", b"file,caption\ndark/0.png,x", "23 of 24 images have no caption in capt"),
        (
            "captions.csv",
            b"file,caption\ndark/0.png,",
            "line 2: the caption of dark/0.png is empty",
        ),
        ("captions.csv", b"dark/0.png,x\ndark/1.png,y", "line 2 should have file_name or file and"),
        (
            "captions.csv",
            b"file,caption\na.png",
            "line 2 should have file_name or file and text or",
        ),
        ("captions.csv", b'file,caption\ndark/0.png,"x\ndark/1.png,y', "line 2: unexpected end of"),
        ("captions.csv", b'file,caption\na,"' + b"x" * 140_000, "line 2: field larger than"),
        (
            "metadata.jsonl",
            rb'{"file_name": "a.png", "text": "\ud83d"}',
            r"a.png is not UTF-8 \(it",
        ),
        ("metadata.jsonl", b'{"text": 3}', "line 1 should have file_name or file and text or capt"),
        ("metadata.jsonl", b"{text", "metadata.jsonl line 1: Expecting property name"),
    ],
)
def test_faulty_captions_are_named(
    photos: Path, file: str, content: bytes | None, message: str
) -> None:
    write(photos, file.rpartition(".")[2], captions_for(photos))
    if content is None:
        (photos / file).unlink()
    else:
        (photos / file).write_bytes(content)
    with pytest.raises(DdpmError, match=message):
        source = open_source(str(photos))
        assert source.captioned
        source.captions()


def test_tables_may_have_any_line_ending(photos: Path) -> None:
    write(photos, "csv", captions_for(photos))
    table = (photos / "captions.csv").read_bytes()
    for ending in (b"\r", b"\r\n"):
        (photos / "captions.csv").write_bytes(table.replace(b"\n", ending))
        captions = open_source(str(photos)).captions()
        assert [captions.sentences[n] for n in captions.indices[:, 0]] == list(
            captions_for(photos).values()
        )


def test_missing_captions_are_counted_and_some_named(
    photos: Path, ddpm: Callable[..., Result]
) -> None:
    write(photos, "txt", {k: v for k, v in captions_for(photos).items() if k.startswith("dark")})
    done = ddpm("train", "--data", photos)
    assert done.code == 1 and not Path("runs").exists()
    assert "12 of 24 images have no caption" in done.err
    listed = "light/0.png, light/1.png, light/10.png, light/11.png, light/2.png and 7 more"
    assert listed in done.err and "Traceback" not in done.err


def batches(config: RunConfig, templates: list[str]) -> Batches:
    labels = np.arange(12) % 2
    captions = from_class_names(templates, ["dark", "light"], labels)
    texts = tokens.tokenise(TextConfig(), captions.sentences, CPU, Silent())
    pixels = np.zeros((12, 3, 8, 8), np.uint8)
    images = DecodedImages(pixels, labels, np.arange(12), captions, texts)
    return batches_of(config, images)


def sentences(text: torch.Tensor) -> list[str]:
    return [bytes(b - 1 for b in row if b).decode() for row in text.tolist()]


def test_the_caption_of_a_step_is_a_function_of_seed_and_images_seen() -> None:
    small = {"network": {"size": [8, 8]}, "diffusion": {"schedule": "cosine"}}
    config = updated(RunConfig(), small | {"optimiser": {"batch": 64, "class_drop": 0.0}})
    templates = ["a {class}", "b {class}"]
    one, other = batches(config, templates), batches(config, templates)
    chosen = [
        sentences(one.draw(images_seen, None).condition.text) for images_seen in range(0, 640, 64)
    ]
    again = [
        sentences(other.draw(images_seen, None).condition.text)
        for images_seen in range(576, -1, -64)
    ]
    assert chosen == again[::-1]  # in whatever order they are drawn, as after a resume
    assert chosen[0] != chosen[1]
    share = np.mean([text.startswith("a") for batch in chosen for text in batch])
    assert abs(share - 0.5) < 0.1  # 640 draws: 5 standard deviations
    rows = one.draw(0, None).rows
    assert [text.split()[1] for text in chosen[0]] == [["dark", "light"][row % 2] for row in rows]


def test_processes_shard_the_captions_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = updated(RunConfig(), {"network": {"size": [8, 8]}, "optimiser": {"batch": 8}})
    whole = batches(config, ["a {class}", "{class}"]).draw(16, None)
    shards = []
    for rank in range(2):
        shard = slice(4 * rank, 4 * rank + 4)
        monkeypatch.setattr(distributed, "shard", lambda count, shard=shard: shard)
        shards.append(batches(config, ["a {class}", "{class}"]).draw(16, None))
    assert torch.equal(whole.condition.text, torch.cat([shard.condition.text for shard in shards]))


def test_captions_are_dropped_with_the_probability_of_class_drop() -> None:
    config = updated(RunConfig(), {"network": {"size": [8, 8], "classes": ["dark", "light"]}})
    config = replace(config, optimiser=OptimiserConfig(batch=2000, class_drop=0.3))
    labels, text, *_ = batches(config, ["{class}"]).draw(0, None).condition
    dropped = (text == 0).all(dim=1)
    assert abs(float(dropped.float().mean()) - 0.3) < 0.05
    assert torch.equal(dropped, labels == -1)  # class and caption together


@pytest.mark.usefixtures("planned_only")
def test_a_folder_with_captions_is_trained_on_captions(
    train_tiny: Callable[..., Result], captioned: Path
) -> None:
    plan = train_tiny("--dry-run", "--json").json()
    assert (plan["captions"], plan["captions_from"], plan["classes"]) == (10, "captions.csv", [])
    assert plan["text_encoder"] == "bytes"
    done = train_tiny("--out", "runs/a")
    assert done.code == 0, done.err
    assert "10 captions (captions.csv), as 'a dark image, no. 0'" in done.err
    config = json.loads(Path("runs/a/config.json").read_text())
    assert config["network"]["text"] == {
        **config["network"]["text"],
        "encoder": "bytes",
        "length": 128,
    }
    assert config["network"]["blocks"] == ["res", "res,attn,text-attn"]
    assert config["network"]["middle"] == "res,attn,text-attn,res"
    assert sorted(config["data"]["examples"]) == sorted(set(captions_for(captioned).values()))
    assert sorted(Path("runs/a/samples").glob("*.png"))

    both = train_tiny("--dry-run", "--json", "--conditional").json()
    assert (both["captions"], both["classes"]) == (10, ["dark", "light"])
    classes = train_tiny("--dry-run", "--json", "--no-captions").json()
    assert (classes["captions"], classes["classes"]) == (0, ["dark", "light"])
    assert train_tiny("--dry-run", "--json", "--preset", "cifar10").json()["captions"] == 0


def test_a_captioned_runs_config_works_without_captions(
    tiny_run: Callable[..., Path], ddpm: Callable[..., Result], photos: Path
) -> None:
    tiny_run("runs/a", "--caption", "a {class}", "--images", 8)
    recipe = ("train", "--config", "runs/a/config.json", "--dry-run", "--json")
    done = ddpm(*recipe, "--data", photos, "--no-captions")
    assert done.code == 0, done.err
    assert done.json()["classes"] == ["dark", "light"]
    bare = ddpm(*recipe, "--data", photos / "dark")  # no classes for the run's template
    assert (bare.code, bare.json()["captions"]) == (0, 0), bare.err
    again = ddpm(*recipe, "--data", photos)
    assert again.json()["captions"] == 2  # as the run had them


def test_a_resumed_run_equals_an_uninterrupted_one(
    train_tiny: Callable[..., Result], captioned: Path
) -> None:
    options = ("--caption", "a {class}", "--caption", "{class}", "--batch", "16")
    assert train_tiny(*options, "--out", "runs/whole").code == 0
    assert train_tiny(*options, "--out", "runs/halves", "--images", "32").code == 0
    again = train_tiny(*options, "--out", "runs/halves")
    assert "Resuming from" in again.err
    one, other = (load_file(f"runs/{name}/model.safetensors") for name in ("whole", "halves"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_changed_captions_are_not_the_same_run(
    train_tiny: Callable[..., Result], captioned: Path
) -> None:
    assert train_tiny("--out", "runs/a").code == 0
    write(captioned, "csv", captions_for(captioned) | {"dark/0.png": "something else"})
    done = train_tiny("--out", "runs/a", "--images", "128")
    assert done.code == 1
    assert f"the captions of {captioned} are not the ones it was trained on" in done.err
    assert len(done.err.splitlines()[-1]) < 400


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--caption", "a {class}", "--no-captions"], 2, "--no-captions learns none"),
        (["--caption", "a photo"], 2, "should contain {class}"),
        (["--no-captions", "--text-length", "9"], 2, "are for captions: there are none"),
        (["--text-length", "9"], 1, "more than the 9 bytes"),
        (["--blocks", "res", "--config", "m.json"], 2, "--blocks should have text-attn"),
    ],
)
def test_contradictions_are_refused(
    train_tiny: Callable[..., Result], captioned: Path, options: list[str], code: int, message: str
) -> None:
    Path("m.json").write_text(json.dumps(TINY | {"network": {"middle": "res"}}))
    done = train_tiny(*options)
    assert (done.code, message in done.err) == (code, True), done.err


def test_a_data_set_without_captions_says_so(ddpm: Callable[..., Result], photos: Path) -> None:
    done = ddpm("train", "--data", photos, "--captions")
    assert done.code == 1 and "holds no captions" in done.err


def test_a_caption_with_an_unquoted_comma_is_refused(
    train_tiny: Callable[..., Result], photos: Path
) -> None:
    rows = "".join(f"{name},{text}\n" for name, text in captions_for(photos).items())
    (photos / "captions.csv").write_text(f"file,caption\n{rows}")
    result = train_tiny("--dry-run")
    assert (result.code, "line 2 has more columns than the header" in result.err) == (1, True)


def test_a_table_without_a_header_is_refused(
    train_tiny: Callable[..., Result], photos: Path
) -> None:
    (photos / "captions.csv").write_text("dark/0.png,a dark image\ndark/1.png,another\n")
    result = train_tiny("--dry-run")
    assert (result.code, "a first line such as file_name,text" in result.err) == (1, True)


def test_disabled_captions_are_not_read(train_tiny: Callable[..., Result], photos: Path) -> None:
    (photos / "metadata.jsonl").write_text("{no json}\n")
    result = train_tiny("--dry-run")
    assert (result.code, "or add --no-captions" in result.err) == (1, True)
    assert train_tiny("--dry-run", "--no-captions").code == 0


def test_text_files_may_have_upper_case_suffixes(
    train_tiny: Callable[..., Result], photos: Path
) -> None:
    for name, text in captions_for(photos).items():
        (photos / name).with_suffix(".TXT").write_text(text)
    assert train_tiny("--dry-run", "--json").json()["captions"] == 10


@pytest.mark.parametrize("kind", ["class-attn", "text-attn"])
def test_a_runs_config_starts_another_whatever_its_blocks_attend_to(
    ddpm: Callable[..., Result], tiny: Path, captioned: Path, kind: str
) -> None:
    option = "--captions" if kind == "text-attn" else "--no-captions"
    command = ("train", "--data", captioned, option, "--images", 8)
    assert ddpm(*command, "--config", tiny, "--blocks", f"res,{kind}", "--out", "run").code == 0
    for source in (("--config", "run/config.json"), ("--init-from", "run")):
        result = ddpm(*command, *source, "--out", "new", "--dry-run")
        assert result.code == 0, result.err
