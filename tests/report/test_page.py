"""The page of a run: what it says is what the files say, whatever state they are in."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_cli.core.config.network import NetworkConfig
from ddpm_cli.core.config.run import OptimiserConfig, RunConfig
from ddpm_cli.core.data import files
from ddpm_cli.core.report import curves, drawing, pictures, public
from ddpm_cli.core.report.records import Record
from ddpm_cli.core.runs import differences
from ddpm_cli.core.runtime.run_directory import Row, RunDirectory
from ddpm_cli.core.training.validation import COLUMNS
from tests.support.cli import Result, refused

NASTY = "</script><script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """A parsed page: its texts by element, its tables and its attributes."""

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "img", "input", "path", "use"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all rows of tables."""
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", self.source, re.DOTALL)
        return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]

    @property
    def frames(self) -> list[list[dict[str, Any]]]:
        """The previews of each run."""
        kind = '<script type="application/json">(.*?)</script>'
        return [json.loads(text) for text in re.findall(kind, self.source, re.DOTALL)]


def content(uri: str) -> bytes:
    kind, _, data = uri.partition(";base64,")
    assert kind.startswith("data:image/")
    return base64.b64decode(data)


def test_it_says_what_the_files_say(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    run = tiny_run("run")
    result = ddpm("report", run, "--json")
    assert result.code == 0, result.err
    path = Path(run, "report.html")
    assert result.json().pop("provenance")["command"].startswith("ddpm report")
    assert {key: value for key, value in result.json().items() if key != "provenance"} == {
        "out": str(path), "runs": [str(run)], "states": ["finished"], "public": False,
        "bytes": path.stat().st_size, "left_out": [],
    }  # fmt: skip
    page = Page(path)
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    figures = dict(zip(page.texts["dt"], page.texts["strong"], strict=False))
    assert figures["images seen"] == "64"
    assert figures["loss, smoothed"] == f"{rows[-1]['loss_smooth']:.4g}"
    assert json.loads(page.texts["pre"][0]) == json.loads(Path(run, "config.json").read_text())
    start = json.loads(Path(run, "provenance.jsonl").read_text().splitlines()[0])
    assert start["command"] in page.texts["code"]
    assert Path(run, "log.txt").read_text().strip() == page.texts["pre"][1]
    previews = sorted(Path(run, "samples").glob("*.png"))
    assert [frame["images"] for frame in page.frames[0]] == [int(p.stem) for p in previews]
    assert [content(frame["source"]) for frame in page.frames[0]] == [
        path.read_bytes() for path in previews
    ]
    titles = page.texts["h3"]
    assert {"Loss", "Learning rate", "Gradient norm", "Speed"} <= set(titles)


def test_it_is_self_contained_and_changes_nothing_of_the_run(
    ddpm: Callable[..., Result], tiny_run: Callable
) -> None:
    run = Path(tiny_run("run"))

    def states() -> dict[Path, tuple[int, int]]:
        found = (path for path in run.rglob("*") if path.is_file())
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = states()
    assert ddpm("report", run, "--out", "elsewhere/page.html").code == 0
    assert states() == before
    page = Page("elsewhere/page.html")
    links = [uri for tag in ("img", "script", "link", "use") for name in ("src", "href")
             for uri in page.attributes(tag, name)]  # fmt: skip
    assert links and all(uri.startswith("data:") for uri in links)
    assert all(uri.startswith("#") for uri in page.attributes("a", "href"))
    assert "@import" not in page.source and "url(h" not in page.source


def test_settings_other_than_the_presets_are_marked(
    ddpm: Callable[..., Result], photos: Path, tiny: Path
) -> None:
    few = ["--images", 16, "--preview", 0, "--preset", "small", "--config", tiny]
    assert ddpm("train", "--data", photos, *few, "--lr", 0.0005, "--out", "run").code == 0
    assert ddpm("report", "run").code == 0
    rows = {re.sub("<.*?>", "", row[0]): row[1:] for row in Page("run/report.html").rows if row}
    assert rows["--lr"] == ["<strong>0.0005</strong>", "0.002"]
    assert rows["--images"] == ["<strong>16</strong>", "600,000"]
    assert "--beta-min" not in rows  # as the preset has it
    assert "data.source" in " ".join(rows) and "--data" not in rows


def test_texts_of_the_run_are_shown_as_they_are(
    ddpm: Callable[..., Result], tiny_run: Callable
) -> None:
    run = Path(tiny_run("run"))
    config = json.loads((run / "config.json").read_text())
    config["network"]["classes"] = [NASTY, "light"]
    config["data"]["source"] = NASTY
    (run / "config.json").write_text(json.dumps(config))
    row = {"images": 8, "label": NASTY, "value": 3.0, "protocol": NASTY, "steps": NASTY}
    (run / "scores.jsonl").write_text(json.dumps(row) + "\n")
    (run / "log.txt").write_text(NASTY)
    start = dict.fromkeys(("ddpm", "torch", "command", "date", "host", "device", "preset"), NASTY)
    (run / "provenance.jsonl").write_text(json.dumps(start))
    nasty = run.rename("<b onclick=alert(1)>")
    assert ddpm("report", nasty).code == 0
    page = Page(nasty / "report.html")
    assert page.texts["h1"] == [nasty.name]
    assert page.texts["pre"][1] == NASTY and NASTY in page.texts["pre"][0].replace('\\"', '"')
    assert "<b " not in page.source and "alert" not in " ".join(page.attributes("b", "onclick"))
    plain = [attrs for tag, attrs in page.tags if tag == "script" and "type" not in attrs]
    assert len(plain) == 1  # ours


@pytest.mark.parametrize(
    "damage",
    [
        {
            "metrics.jsonl": b'{"images": 8, "loss": 2, "loss_smooth": "x"}\n\xff\x00[1]\n7\n{"im',
            "scores.jsonl": b'{"images": 8}\n{"images": 1e999, "value": null}\n[',
            "fid.json": b"[3",
        },
        {
            "metrics.jsonl": b'{"images": 8, "loss": null, "lr": 1' + b"0" * 400 + b"}\n",
            "provenance.jsonl": b"\xff\n{}\n3",
            "log.txt": b"\xff\xfe",
        },
        {
            "metrics.jsonl": b"",
            "samples/000000032.png": b"no picture",
            "samples/000000064.png": b"",
            "generated/grid.png": b"no picture",
            "denoising.gif": b"GIF89a",
        },
        {"config.json": b"{"},
    ],
    ids=lambda damage: next(reversed(damage)),
)
def test_damaged_files_are_no_reason_to_fail(
    ddpm: Callable[..., Result], tiny_run: Callable, damage: dict[str, bytes]
) -> None:
    run = Path(tiny_run("run"))
    for name, bytes_ in damage.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(bytes_)
    result = ddpm("report", run)
    assert result.code == 0, result.err
    assert "<h1>run</h1>" in (run / "report.html").read_text()
    if "config.json" in damage:
        assert ddpm("report", run, "--compare", run).code == 0


def test_a_run_that_has_just_begun(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    run = Path(tiny_run("run"))
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ddpm("report", run).code == 0
    page = Page(run / "report.html")
    assert "There are no metrics yet." in page.source and "not begun" in page.source
    assert page.frames == [] and "svg" not in page.texts


def test_a_diverged_run_says_why(ddpm: Callable[..., Result], train_tiny: Callable) -> None:
    result = train_tiny("--out", "run", "--lr", 1e18, "--images", 800, "--preview", 0)
    assert result.code == 3, result
    assert ddpm("report", "run").code == 0
    page = Page("run/report.html")
    told = json.loads(Path("run/post-mortem.json").read_text())
    assert "Training diverged" in page.texts["h2"]
    words = " ".join(page.texts["p"])
    assert told["what"][1:] in words and told["try"][0] in words


def test_many_rows_and_large_previews_stay_within_bounds(
    ddpm: Callable[..., Result], tiny_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PREVIEWS", 100_000)
    run = Path(tiny_run("run"))
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    numbers = np.random.default_rng(0).lognormal(size=10_000)
    lines = (
        json.dumps(row | {"images": 8 * i, "loss": x, "loss_smooth": x, "grad_norm": x})
        for i, x in enumerate(map(float, numbers), 1)
    )
    (run / "metrics.jsonl").write_text("\n".join(lines))
    noise = np.random.default_rng(0).integers(0, 256, (3, 160, 160)).astype(np.uint8)
    for i in range(1, 13):
        files.write_png(run / "samples" / f"{i:09d}.png", np.roll(noise, i, axis=2))
    result = ddpm("report", run, "--json")
    assert result.code == 0, result.err
    assert (run / "report.html").stat().st_size < 400_000
    page, told = Page(run / "report.html"), result.json()["left_out"]
    shown = [frame["images"] for frame in page.frames[0]]
    assert 2 < len(shown) < 12 and shown[-1] == 64
    total = len(list((run / "samples").iterdir()))
    assert told == [f"{total - len(shown)} of {total} previews are left out of this page."]
    assert told[0] in page.source
    loss = re.search(r'id="loss-0">.*?d="(.*?)"', page.source, re.DOTALL)
    assert loss and 300 < len(re.findall("[ML] ", loss[1])) <= 600


def test_only_a_page_of_ours_is_replaced(
    ddpm: Callable[..., Result], tiny_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(tiny_run("run"))
    monkeypatch.setattr(curves, "draw", lambda _: [])  # which takes most of the time
    assert ddpm("report", run).code == ddpm("report", run).code == 0
    (run / "report.html").write_text("mine")
    refused(ddpm("report", run), "report.html", "--overwrite")
    assert (run / "report.html").read_text() == "mine"
    assert ddpm("report", run, "--overwrite").code == 0
    refused(ddpm("report", run, "--out", run), "folder")


def test_mistakes_are_a_line(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    run = tiny_run("run")
    Path("empty").mkdir()
    refused(ddpm("report", "none"), "none", "no such run")
    refused(ddpm("report", "empty"), "empty", "not a run")
    refused(ddpm("report"), "ddpm train")
    refused(ddpm("report", run, run), "--compare")
    refused(ddpm("report", "--compare", run), "two runs")
    assert not list(Path().rglob("*.html"))


def test_two_runs_beside_each_other(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    one = tiny_run("run")
    config = Path(shutil.copytree(one, "other"), "config.json")
    settings = json.loads(config.read_text())
    settings["optimiser"] |= {"lr": 0.01, "seed": 1}
    config.write_text(json.dumps(settings))
    assert ddpm("report", one, "--compare", "other").code == 0
    page = Page("run/comparison.html")
    differing = page.rows[1 : page.rows.index(page.rows[-1]) + 1]
    names = {re.sub("<.*?>", "", row[0]): row[1:] for row in differing}
    assert names == {"--lr": ["0.002", "0.01"], "--seed": ["0", "1"]}
    assert len(page.frames) == 2
    assert [len(frames) for frames in page.frames] == [3, 3]
    assert "run: smoothed" in page.source and "other: smoothed" in page.source
    assert ddpm("report", "--compare", one, "other", "--out", "two.html").code == 0
    assert Page("two.html").texts["h1"] == ["run and other"]


def test_two_runs_are_compared_as_ddpm_runs_compare_does(
    ddpm: Callable[..., Result], tiny_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings and cautions; with --sample the same samples."""
    monkeypatch.setattr(drawing, "_STEPS", 2)
    monkeypatch.setattr(curves, "draw", lambda _: [])
    one = tiny_run("run")
    other = Path(shutil.copytree(one, "other"))
    settings = json.loads((other / "config.json").read_text())
    settings["objective"]["loss"] = "l1"
    settings["diffusion"]["parameterisation"] = "v"
    (other / "config.json").write_text(json.dumps(settings))
    assert ddpm("report", one, "--compare", other, "--sample", "--device", "cpu").code == 0
    page = Page("run/comparison.html")
    cautions = differences.compare([Path(one), other]).cautions
    assert cautions and {f"{caution}." for caution in cautions} <= set(page.texts["p"])
    words = ["-n", 8, "--device", "cpu", "--out", "compared"]
    assert ddpm("runs", "compare", one, other, *words).code == 0
    drawn = [content(uri) for uri in page.attributes("img", "src")]
    assert Path("compared/samples.png").read_bytes() in drawn
    assert [len(frames) for frames in page.frames] == [3, 3]


def test_a_page_for_others_names_neither_machine_nor_folders(
    ddpm: Callable[..., Result], tiny_run: Callable
) -> None:
    run = Path(tiny_run("run")).resolve()
    secret, host = "/srv/secret clients/acme", "secret-host"
    start = {"date": "2030-01-02T03:04:05+00:00", "ddpm": "1.0", "torch": "2.0", "host": host,
             "device": host, "command": f"ddpm train --data {secret}/photos"}  # fmt: skip
    (run / "provenance.jsonl").write_text(json.dumps(start))
    (run / "log.txt").write_text(f"{host}: {Path.home()}/x {secret}")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = f"{secret}/photos"
    config["origin"] = {"path": f"{secret}/first.safetensors", "sha256": "0" * 64}
    (run / "config.json").write_text(json.dumps(config))
    row = {"images": 8, "label": "fid5k", "value": 3.0, "protocol": f"of {Path.home()}/stats.npz"}
    (run / "scores.jsonl").write_text(json.dumps(row))
    text = {"command": f"{host} {secret}"}
    files.write_png(run / "sheet.png", np.zeros((3, 8, 8), np.uint8), text)
    (run / "sheet.json").write_text(json.dumps({"provenance": text}))
    other = shutil.copytree(run, run.parent / "other")
    told = ddpm("report", run, "--out", "mine.html")
    assert "--public" in told.out and host in Path("mine.html").read_text()
    told = ddpm("report", run, "--public", "--out", "one.html")
    assert told.code == 0 and "--public" not in told.out
    words = [run, "--compare", other, "--public", "--out", "two.html"]
    assert ddpm("report", *words).code == 0
    for name in ("one.html", "two.html"):
        page = Page(name)
        shown = page.source + "".join(map(str, map(content, page.attributes("img", "src"))))
        for word in (host, "secret", "acme", str(Path.home()), str(run.parent), "Log</h2>"):
            assert word not in shown, (name, word)
    one = Page("one.html")
    assert json.loads(one.texts["pre"][0])["data"]["source"] == "photos"
    assert "ddpm train --resume run" in one.texts["code"]
    assert "of stats.npz" in one.source and "2 January 2030, 03:04 UTC" in one.source


def test_paths_in_texts_are_shortened() -> None:
    for text, shown in (
        ("of /home/a/b.npz, (/opt/x) ~/y", "of b.npz, (x) y"),
        (r"C:\Users\a\b.npz", "b.npz"),
        ("12 images/s at https://example.org/a/b or 3/4", None),
        ("data:image/png;base64,/9j/4AAQ", None),
    ):
        assert public.shortened(text) == (shown or text)


def test_pictures_of_the_run_are_shown(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    run = tiny_run("run")
    few = ["-n", 4, "--steps", 2, "--device", "cpu"]
    assert ddpm("sample", run, *few).code == 0
    assert ddpm("gif", run, *few, "--seconds", 0.2).code == 0
    assert ddpm("sample", run, *few[:2], "--steps", "1,2", "--device", "cpu").code == 0
    assert ddpm("report", run).code == 0
    page = Page(Path(run, "report.html"))
    shown = {content(uri) for uri in page.attributes("img", "src")}
    for name in ("generated/grid.png", "denoising.gif", "sheet.png"):
        assert Path(run, name).read_bytes() in shown, name
    assert {"Samples", "Denoising film", "Contact sheet"} <= set(page.texts["h3"])


def test_drawn_samples_are_those_of_ddpm_sample(
    ddpm: Callable[..., Result], tiny_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("run")
    monkeypatch.setattr(drawing, "_STEPS", 3)
    monkeypatch.setattr(drawing, "_SHEET_STEPS", (1, 2))
    monkeypatch.setattr(drawing, "_GRID", 6)
    before = set(Path(run).rglob("*"))
    assert ddpm("report", run, "--sample", "--device", "cpu").code == 0
    assert set(Path(run).rglob("*")) - before == {Path(run, "report.html")}
    page = Page(Path(run, "report.html"))
    by_alt = dict(zip(page.attributes("img", "alt"), page.attributes("img", "src"), strict=True))
    words = ["-n", 6, "--steps", 3, "--device", "cpu", "--precision", "fp32", "--out", "samples"]
    assert ddpm("sample", run, *words).code == 0
    grid = files.decode(content(by_alt["6 sampled images"]), "grid")
    np.testing.assert_array_equal(grid, files.decode(Path("samples/grid.png").read_bytes(), "png"))
    assert content(by_alt["9 images that emerge from noise"])[8:12] == b"WEBP"
    assert any("guidance (down)" in alt for alt in by_alt)


def test_the_sheet_is_of_what_the_network_has() -> None:
    def rows(drop: float = 0.1, **settings: Any) -> tuple[str, str]:
        optimiser = OptimiserConfig(class_drop=drop)
        config = RunConfig(network=NetworkConfig(**settings), optimiser=optimiser)
        steps, other = drawing.axes_of(config, 20)
        assert steps.values == (5, 10, 20)
        return steps.name, other.name

    assert rows(classes=("a", "b")) == ("steps", "guidance")
    assert rows(classes=("a", "b"), null_class=False) == rows() == ("steps", "eta")
    assert rows(0.0, classes=("a", "b")) == ("steps", "eta")  # was never without its class


def test_scores_of_documents_in_the_run(ddpm: Callable[..., Result], tiny_run: Callable) -> None:
    run = Path(tiny_run("run"))
    document = {"fid": 12.34567, "kid": 0.01, "features": "local", "line": "n_real=24 n_fake=16"}
    (run / "fid.json").write_text(json.dumps(document))
    assert ddpm("report", run).code == 0
    rows = Page(run / "report.html").rows
    assert ["local-FID", "12.3457", "fid.json", "n_real=24 n_fake=16"] in rows
    assert ["local-KID", "0.01", "fid.json", "n_real=24 n_fake=16"] in rows


def test_losses_on_images_held_out_have_a_chart(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for images in (8, 16, 24):
        validated: Row = {}
        if images != 16:  # a row between validations
            validated = {f"loss_holdout_q{q}": 0.25 * images for q in range(3)}
            validated |= {f"loss_trained_q{q}": 2.0 for q in range(4)}
        run.append_row({"images": images, "loss": 1.0, **dict.fromkeys(COLUMNS), **validated})
    (shown,) = [s for s in curves.draw([Record.read(tmp_path)]) if s.chart.key == "gap0"]
    assert [curve.label for curve in shown.chart.curves] == [
        "lowest quarter of the noise levels", "second quarter", "third quarter"
    ]  # fmt: skip
    for curve in shown.chart.curves:
        assert (curve.x.tolist(), curve.y.tolist()) == ([8, 24], [1, 3])


def test_links_to_nothing_and_previews_that_vanish(
    ddpm: Callable[..., Result], tiny_run: Callable
) -> None:
    run = Path(tiny_run("run"))
    for name in ("x.json", "sheet.png", "denoising.gif", "samples/000000001.png"):
        (run / name).symlink_to("nowhere")
    result = ddpm("report", run)
    assert result.code == 0, result.err
    assert [frame["images"] for frame in Page(run / "report.html").frames[0]] == [8, 32, 64]
