"""The site made of docs: it builds without a warning, leaves no page out, needs no other host."""

from __future__ import annotations

import html.parser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import DOCS, SITE

MISSING = [name for name in ("mkdocs", "material") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (extra `docs`)")

PAGES = [page for page in DOCS.rglob("*.md") if page.parent.name != "figures"]
LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}


class Resources(html.parser.HTMLParser):
    """What a browser loads of a page by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.found.append(values.get(LOADED[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", SITE, "-d", folder]
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # mkdocs-material's own announcement
    done = subprocess.run(
        list(map(str, command)), env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in PAGES:
        name = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert (site / name).exists()
        assert f'href="{"." if name == "index.html" else name}' in index, name


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        found = Resources(page.read_text()).found
        assert found and not [name for name in found if re.match(r"(https?:)?//", name)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_what_would_be_loaded_is_recognised() -> None:
    text = '<script src="//a/b.js"></script><link rel="stylesheet" href="c.css"><img src="d.png"/>'
    assert Resources(text).found == ["//a/b.js", "c.css", "d.png"]
