"""docs/images: every picture is drawn by one script of docs/figures, shown by a page, and small."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import ddpm_cli

TOP = Path(ddpm_cli.__file__).parent.parent
DOCS = TOP / "docs"
IMAGES = sorted((DOCS / "images").iterdir())
SCRIPTS = sorted(p for p in (DOCS / "figures").glob("*.py") if p.name != "drawing.py")
WITHOUT_RUNS = ["augmentation", "gaussians", "pixels", "schedules"]
LARGEST = 300_000  # bytes
TOLERANCE = 20  # grey levels of a field of 16x16: fonts of another machine; noise stays below


def outputs(script: Path) -> tuple[str, ...]:
    """The pictures that a script says it draws."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OUTPUTS":
            named: tuple[str, ...] = ast.literal_eval(node.value)
            return named
    return ()


def shown(text: str, page: Path) -> set[str]:
    """The pictures of docs/images that a page's text shows, in Markdown or in HTML."""
    links = re.findall(r'!\[[^\]]*\]\(([^)\s]+)|<img[^>]*src="([^"]+)"', text)
    paths = [(page.parent / "".join(link)).resolve() for link in links]
    return {path.name for path in paths if path.is_relative_to((DOCS / "images").resolve())}


def test_every_picture_is_drawn_by_one_script_and_shown_by_a_page() -> None:
    pages = [TOP / "README.md", *DOCS.rglob("*.md")]
    drawn = sorted(name for script in SCRIPTS for name in outputs(script))
    there = [path.name for path in IMAGES]
    assert drawn == there
    assert set().union(*(shown(page.read_text(), page) for page in pages)) == set(there)


def test_pictures_that_a_page_shows_are_found() -> None:
    text = '![a](images/a.png) [b](images/b.png) <img width="4" src="images/c.png"> ![d](d.png)'
    assert shown(text, DOCS / "page.md") == {"a.png", "c.png"}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_pictures_are_small_and_not_wider_than_a_page_can_show(path: Path) -> None:
    assert path.stat().st_size <= LARGEST
    with Image.open(path) as image:
        assert image.width <= 1600


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a script in this process, as `python docs/figures/NAME.py` does."""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    before = set(sys.modules)
    try:
        with matplotlib.rc_context():
            runpy.run_path(str(script), run_name="__main__")
    finally:
        for name in {"drawing", *(path.stem for path in SCRIPTS)} - before:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_say_what_they_draw_and_how(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        run(script, monkeypatch, "--help")
    assert not ending.value.code
    told = capsys.readouterr().out
    assert f"python docs/figures/{script.name}" in told and "--out" in told
    assert outputs(script) and all(name in told for name in outputs(script))


@pytest.mark.parametrize("name", WITHOUT_RUNS)
def test_scripts_without_runs_draw_their_pictures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = DOCS / "figures" / f"{name}.py"
    folder = tmp_path / "drawn"
    run(script, monkeypatch, "--out", folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(outputs(script))
    for path in folder.iterdir():
        with Image.open(path) as drawn, Image.open(DOCS / "images" / path.name) as kept:
            assert drawn.size == kept.size
            assert np.abs(coarse(drawn) - coarse(kept)).max() <= TOLERANCE


def coarse(image: Image.Image) -> NDArray[np.float64]:
    """The grey levels of 16x16 fields, from 0 to 255."""
    return np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64)
