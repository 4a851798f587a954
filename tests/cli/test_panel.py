"""The panel of a training: what it draws at each width, and what it leaves on a real terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from ddpm_cli.cli import console, panel
from ddpm_cli.cli.panel import TrainingPanel, sparkline
from ddpm_cli.core.runtime.elastic import stopping
from ddpm_cli.core.runtime.reporting import TrainingStatus

STATUS = TrainingStatus(
    run=Path("run"), images=5000, budget=20_000, images_per_second=1234.5, loss=0.25, lr=2e-4,
    memory=2_000_000_000, skipped=1,
)  # fmt: skip


def drawn(shown: object, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(width=width, file=file, color_system=None, force_terminal=True).print(shown)
    file.seek(0)
    return file.read().splitlines()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingPanel]:
    """A panel after three rows, half a minute each."""
    clock = [100.0]
    monkeypatch.setattr(panel.time, "monotonic", lambda: clock[0])
    made = TrainingPanel(Console(file=io.StringIO()), "training", STATUS)
    for done, loss in ((5, 0.75), (15, 0.5), (25, 0.25)):
        made.show(done, replace(STATUS, loss=loss))
        clock[0] += 30
    yield made


def test_what_it_shows(shown: TrainingPanel) -> None:
    shown.note("FID 12.3 at 4,000 images")
    text = "\n".join(drawn(shown))
    for part in (
        "training run", "25 %", "about 6 min left", "5,000 of 20,000 images", "1,234.5 images/s",
        "learning rate 0.0002", "memory 2.0 GB", "1 non-finite steps skipped",
        "loss 0.2500  █▅▁  from 0.75", "FID 12.3 at 4,000 images",
    ):  # fmt: skip
        assert part in text, (part, text)


@pytest.mark.parametrize("width", [40, 41, 60, 80, 120])
def test_every_line_fits(shown: TrainingPanel, width: int) -> None:
    shown.note("a notice of more words than a terminal has columns " * 5)
    lines = drawn(shown, width)
    assert {len(line) for line in lines} == {width - 2}  # where ^C is echoed
    assert any("loss 0.2500" in line for line in lines)


def test_a_terminal_of_ascii(shown: TrainingPanel) -> None:
    assert all(line.isascii() for line in drawn(shown, encoding="ascii") if "run" not in line)
    assert "loss 0.2500  #=_  from 0.75" in "\n".join(drawn(shown, encoding="ascii"))


def test_what_is_done_meanwhile_is_a_line_of_it(shown: TrainingPanel) -> None:
    shown.doing("sampling 10/500 images")
    assert "sampling 10/500 images" in "\n".join(drawn(shown))
    shown.doing("")
    assert "sampling" not in "\n".join(drawn(shown))


def test_a_notice_of_another_thread_while_it_is_drawn(
    shown: TrainingPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown.note("the first")
    noting = threading.Thread(target=shown.note, args=("the second",))
    text = panel.Text

    def interrupted(words: str = "", *args: Any, **kwargs: Any) -> Text:
        if "the first" in words and not noting.ident:
            noting.start()
            noting.join(0.05)  # it waits for the end of the drawing
        return text(words, *args, **kwargs)

    monkeypatch.setattr(panel, "Text", interrupted)
    assert "the second" not in "\n".join(drawn(shown))
    noting.join()
    assert "the second" in "\n".join(drawn(shown))


def test_the_line_of_a_signal_becomes_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It went straight to the terminal: over the panel's last line, and a line more."""
    screen, written = io.StringIO(), io.BytesIO()
    monkeypatch.setattr(stopping.os, "isatty", lambda _: True)
    monkeypatch.setattr(stopping.os, "write", lambda _, line: written.write(line))
    shown = TrainingPanel(Console(file=screen, width=60, force_terminal=True), "training", STATUS)
    shown.start()
    shown.show(1, STATUS)
    stop = stopping.StopRequest()
    stop.saves = True
    stop.on_signal(signal.SIGINT)
    line = written.getvalue().decode().removeprefix("\r\x1b[K").removesuffix("\n")
    begin = screen.tell()
    shown.stop()
    redrawn = screen.getvalue()[begin:]
    assert 60 < len(line) <= 120  # two rows
    assert redrawn.startswith("\x1b[1A\x1b[2K" * 2 + "\r") and "Stopping: " in redrawn
    assert stopping.take_announcement() == ""


def test_the_curve_of_a_resumed_run_begins_at_its_beginning() -> None:
    Path("run").mkdir()
    rows = "".join(f'{{"images": {i}, "loss_smooth": {v}}}\n' for i, v in ((1, 9.0), (2, 5.0)))
    Path("run/metrics.jsonl").write_text(rows)
    made = TrainingPanel(Console(file=io.StringIO()), "training", STATUS)
    made.show(50, replace(STATUS, loss=5.0))  # the last row
    assert "from 9" in "\n".join(drawn(made))


def test_sparklines() -> None:
    assert sparkline(range(8), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0] * 100, 5) == "▁▁▁▁▁"
    assert sparkline(range(100), 4) == "▁▃▆█"
    assert sparkline([1, 10, 100], 3) == "▁▅█"  # by the logarithm: 4.5 is above the half
    assert sparkline([-1, 10, 100], 3) == "▁▂█"


def test_a_drawing_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawings = [0.0], []
    monkeypatch.setattr(panel.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(panel.Live, "refresh", lambda _: drawings.append(clock[0]))
    made = TrainingPanel(Console(file=io.StringIO()), "training", STATUS)
    for _ in range(1000):
        clock[0] += 0.01
        made.show(1, STATUS)
    assert len(drawings) <= 10 / 1 + 1


def on_terminal(arguments: list[object], **environment: str) -> tuple[int, str]:
    """Run `ddpm` on a pseudo-terminal; its exit code, and all that it wrote there."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ddpm_cli", *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not read:
            break
        written += read
    os.close(leader)
    return process.wait(), written.decode()


def test_on_a_terminal(photos: Path, tiny: Path) -> None:
    train = ["train", "--data", photos, "--config", tiny, "--images", 64, "--device", "cpu"]
    code, text = on_terminal([*train, "--out", "run"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours
    assert code == 0 and "╭─ training run" in text and "newest preview run/samples" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is shown again
    assert "Next: ddpm sample run" in text.rpartition("╰")[2], text  # the result is below the panel


@pytest.mark.parametrize(
    ("variable", "value", "is_a_terminal"), [("TERM", "dumb", True), ("FORCE_COLOR", "1", False)]
)
def test_plain_lines(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, is_a_terminal: bool
) -> None:
    """On a terminal without cursor, and in a pipe that is to have colours."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_a_terminal)
    terminal = console.Terminal()
    with terminal.bar("training", 100, "%") as bar:
        bar.update(100, "done", STATUS)
    assert sys.stderr.getvalue() == "training: 100 %, done\n"  # type: ignore[attr-defined]
