"""The page in a real browser: on a phone and a desktop, light and dark, by mouse and keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import browser
from tests.support.browser import Browser
from tests.support.cli import Result

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium")

RIGHT_OF_THE_WINDOW = """
[...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll, pre") && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 80))
"""
CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|\\/ 0/.test(colour)) return colour;
    }
  };
  const found = [];
  for (const e of document.querySelectorAll("h1, h2, h3, p, dt, strong, span, a, th, td, code,"
    + " li, figcaption, button, summary, label, svg text")) {
    if (!e.textContent.trim() || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), of = e.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(of), light(behind(e))].sort((x, y) => x - y);
    found.push([(b + 0.05) / (a + 0.05), e.outerHTML.slice(0, 80)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
})()
"""
HOVER = """
(() => {
  const svg = document.querySelector('[data-chart="loss"]'), area = svg.getBoundingClientRect();
  const at = {clientX: area.left + area.width * 0.98, clientY: area.top + 9, bubbles: true};
  svg.dispatchEvent(new PointerEvent("pointermove", at));
  return document.querySelector('[data-curve="loss-1"] output').textContent;
})()
"""
SEEN = "[...document.querySelectorAll('.screens output')].map((e) => e.textContent)"
SOURCES = "[...document.querySelectorAll('.screens img')].map((e) => e.src)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def both(ddpm: Callable[..., Result], tiny_run: Callable, tmp_path: Path) -> list[Path]:
    """The page of a run whose folder has a nasty name, and of it beside another."""
    run = tiny_run("run")
    nasty = Path(run).rename("<img src=x onerror=alert(1)>")
    Path(nasty, "log.txt").write_text("</script><script>document.title = 'theirs'</script>\n" * 20)
    assert ddpm("report", nasty, "--out", tmp_path / "one.html").code == 0
    other = tiny_run("other")
    assert ddpm("report", nasty, "--compare", other, "--out", tmp_path / "two.html").code == 0
    return [tmp_path / "one.html", tmp_path / "two.html"]


def test_pages_fit_the_window_and_can_be_read(page: Browser, both: list[Path]) -> None:
    backgrounds = set()
    for path in both:
        for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
            page.look(width, 900, dark=dark, touch=width < 500)
            page.open(path)
            assert page.run("document.documentElement.scrollWidth") == width
            assert page.run(RIGHT_OF_THE_WINDOW) == []
            contrast, where = page.run(CONTRASTS)
            assert contrast >= 4.5, (contrast, where)  # WCAG 2, level AA
            backgrounds.add((dark, page.run("getComputedStyle(document.body).backgroundColor")))
            assert page.complaints == []
            assert [url for url in page.requests if not url.startswith("data:")] == [
                path.resolve().as_uri()
            ]
        assert page.run("document.images.length") > 0
        assert page.run("[...document.images].every((i) => i.complete && i.naturalWidth)")
        assert page.run("[...document.images].every((i) => i.alt)")
        assert page.run("document.title").endswith("ddpm report")
    assert len(backgrounds) == 2


def test_previews_move_by_keyboard_and_touch_and_are_played(
    page: Browser, both: list[Path]
) -> None:
    page.look(390, 900, touch=True)
    page.open(both[1])
    assert page.run(SEEN) == ["64 images seen"] * 2
    newest = page.run(SOURCES)
    page.run("document.querySelector('.controls input').focus()")
    page.press("ArrowLeft", 37)
    assert page.run(SEEN) == ["32 images seen"] * 2
    assert not set(page.run(SOURCES)) & set(newest)
    assert page.run("document.querySelector('.controls input').ariaValueText") == "32 images seen"
    page.press("End", 35)
    assert page.run(SOURCES) == newest
    x, y = page.run(
        "(() => { const e = document.querySelector('.controls input'); e.scrollIntoView();"
        "const r = e.getBoundingClientRect(); return [r.left + 3, r.top + r.height / 2] })()"
    )
    page.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    first = page.run(SEEN)
    assert first[0] == first[1] != "64 images seen"
    done = "new Promise((r) => { const e = document.querySelector('.play'); const look = () =>"
    done += "e.ariaLabel === 'Play' ? r(true) : setTimeout(look, 20); e.click(); look(); })"
    assert page.run(done)
    assert page.run(SEEN) == ["64 images seen"] * 2
    assert page.complaints == []


def test_charts_say_their_values_and_the_button_changes_colours(
    page: Browser, both: list[Path]
) -> None:
    page.look(1280, 900)
    page.open(both[0])
    told = page.run("document.querySelector('.figures > div:nth-child(2) strong').textContent")
    assert float(page.run(HOVER)) == pytest.approx(float(told), rel=0.01)
    colour = "getComputedStyle(document.body).backgroundColor"
    seen = [page.run(f"document.getElementById('theme').click(); {colour}") for _ in range(3)]
    assert seen[0] == seen[2] != seen[1]
    assert page.complaints == []
