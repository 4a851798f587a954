"""report.png: the page of `ddpm report`, on a desktop and on a phone.

Needs Chromium, and a run with previews and samples:

    ddpm train
    python docs/figures/report.py --run runs/shapes-32
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import drawing
from PIL import Image

OUTPUTS = ("report.png",)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HEIGHT = 1130  # pixels of the pages that are shown
DESKTOP, PHONE, GAP = 1280, 500, 40  # a window without a frame is 500 pixels wide at least
SHOWN = 1400  # pixels of the width of the picture


def screenshot(page: Path, folder: Path, width: int, *, dark: bool) -> Image.Image:
    """The top of the page in a window of that width."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"needs a browser: {', '.join(BROWSERS)}")
    picture = folder / f"{width}.png"
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--screenshot={picture}", f"--window-size={width},{HEIGHT}"]
    command += [f"--user-data-dir={folder / 'profile'}"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run([*command, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
    with Image.open(picture) as image:
        return image.convert("RGB")


def main() -> None:
    """Draw the picture."""
    given = drawing.options(__doc__, run="a run with previews")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = folder / "report.html"
        drawing.ddpm("report", given.run, "--sample", "--out", page)
        desktop = screenshot(page, folder, DESKTOP, dark=False)
        phone = screenshot(page, folder, PHONE, dark=True)
    both = Image.new("RGB", (DESKTOP + GAP + PHONE, HEIGHT), "white")
    both.paste(desktop, (0, 0))
    both.paste(phone, (DESKTOP + GAP, 0))
    size = SHOWN, round(both.height * SHOWN / both.width)
    drawing.save(given.out / "report.png", both.resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
