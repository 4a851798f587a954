"""The panel that shows a training on a terminal: progress, speed, the loss so far, notices."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.box import ROUNDED
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from ddpm_cli.core.runtime.elastic import stopping
from ddpm_cli.core.runtime.files import in_words
from ddpm_cli.core.runtime.reporting import TrainingStatus
from ddpm_cli.core.runtime.run_directory import RunDirectory

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#"
_NOTICES = 2  # the newest, which are above the panel and in log.txt as well
_REFRESH = 1.0  # seconds between two drawings, at least: training waits for each
_LOOK = 10.0  # seconds between two looks for a new preview
_MOST_POINTS = 4096  # of the curve that are kept
_ECHO = 2  # columns left free, where the terminal writes ^C: else it would begin a line
_LOGARITHMIC = 10.0  # largest over smallest loss, from which the curve is drawn by the logarithm


class TrainingPanel:
    """A panel that is drawn again with a row of metrics, once a second at most.

    Threads may note something, too; what they print above the panel draws it again.
    """

    def __init__(self, console: Console, title: str, status: TrainingStatus) -> None:
        self._console, self._title, self._run = console, title, RunDirectory(status.run)
        self._lock = threading.Lock()  # of what is drawn; Rich's own are never taken within it
        self._notices: deque[str] = deque(maxlen=_NOTICES)
        self._activity = ""
        self._losses = self._earlier()
        self._started, self._done_at_start = time.monotonic(), math.nan
        self._status, self._done = status, 0.0
        self._drawn = self._looked = -math.inf
        self._preview: Path | None = None
        self._live = Live(self, console=console, auto_refresh=False, vertical_overflow="crop")

    def start(self) -> None:
        """Show the panel."""
        stopping.take_announcement()
        self._live.start()

    def stop(self) -> None:
        """Draw it for the last time; the cursor is below it then."""
        self._activity = ""
        self._look()
        self._refresh()
        self._live.stop()

    def show(self, done: float, status: TrainingStatus) -> None:
        """Take the state of a row; `done`: percent of the budget."""
        with self._lock:
            if math.isnan(self._done_at_start):
                self._done_at_start = done
            self._status, self._done = status, done
            if math.isfinite(status.loss):
                self._losses.append(status.loss)
            if len(self._losses) > _MOST_POINTS:
                self._losses = self._losses[::2]
        if time.monotonic() - self._looked >= _LOOK:
            self._look()
        self._draw()

    def note(self, message: str) -> None:
        """Keep a notice, with the time."""
        with self._lock:
            self._notices.append(f"{datetime.now():%H:%M} {message}")

    def doing(self, activity: str) -> None:
        """Show what is done besides training, such as sampling for a score; "": nothing."""
        self._activity = activity
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn >= _REFRESH:
            self._drawn = now
            self._refresh()

    def _refresh(self) -> None:
        if announced := stopping.take_announcement():
            self.note(announced)
            rows = math.ceil(cell_len(announced) / self._console.width)
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
            self._console.control(Control(*up * rows))  # back to the last line of the panel
        self._live.refresh()

    def _look(self) -> None:
        self._looked = time.monotonic()
        previews = self._run.previews()
        self._preview = previews[-1] if previews else None

    def _earlier(self) -> list[float]:
        """The smoothed losses of the rows before this call, which a resumed run has."""
        losses = [row.get("loss_smooth") for row in self._run.rows()[:-1]]
        every = max(1, len(losses) // (_MOST_POINTS // 2))
        return [loss for loss in losses[::every] if loss is not None and math.isfinite(loss)]

    def _left(self) -> str:
        gained = self._done - self._done_at_start
        if not gained > 0 or self._done >= 100:
            return ""
        seconds = (100 - self._done) * (time.monotonic() - self._started) / gained
        return f"about {_rough(seconds)} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the panel for a console of this width and these characters."""
        width = options.max_width - 4 - _ECHO
        with self._lock:
            lines = [self._progress(), *self._numbers(width, options), *self._words()]
        grid = Table.grid(expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for line in lines:
            grid.add_row(line)
        title = Text(f"{self._title} {self._status.run}", overflow="ellipsis", no_wrap=True)
        title.truncate(width - 2, overflow="ellipsis")
        yield Panel(
            grid,
            box=ROUNDED,
            title=title,
            title_align="left",
            border_style="dim",
            width=width + 4,
        )

    def _progress(self) -> RenderableType:
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(100, self._done), f"{math.floor(self._done)} %", Text(self._left()))
        return row

    def _numbers(self, width: int, options: ConsoleOptions) -> list[Text]:
        status = self._status
        budget = f" of {status.budget:,}" if status.budget else ""
        facts = [f"{status.images:,}{budget} images"]
        if status.images_per_second:
            facts.append(f"{status.images_per_second:,.1f} images/s")
        facts.append(f"learning rate {status.lr:.3g}")
        if status.memory:
            facts.append(f"memory {in_words(status.memory)}")
        if status.skipped:
            facts.append(f"{status.skipped:,} non-finite steps skipped")
        return [*map(Text, _filled(facts, width)), self._curve(width, options)]

    def _curve(self, width: int, options: ConsoleOptions) -> Text:
        loss = f"loss {self._status.loss:.4f}"
        drawn = Text(loss, style="bold")
        if len(self._losses) > 1:
            most = f"  from {max(self._losses):.3g}"
            blocks = _ASCII if options.ascii_only else _BLOCKS
            curve = sparkline(self._losses, max(1, width - len(loss) - len(most) - 2), blocks)
            drawn.append(f"  {curve}", style="not bold cyan")
            drawn.append(most, style="not bold dim")
        return drawn

    def _words(self) -> list[Text]:
        lines = []
        if self._activity:
            lines.append(Text(self._activity))
        if self._preview is not None:
            lines.append(Text(f"newest preview {self._preview}", style="dim"))
        return [*lines, *(Text(notice, style="dim") for notice in self._notices)]


def sparkline(values: Sequence[float], width: int, blocks: str = _BLOCKS) -> str:
    """The curve of some values in at most so many blocks, each the mean of its part of them.

    By the logarithm where all are positive, and the largest is some times the smallest.
    """
    width = min(width, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    if min(means) > 0 and max(means) > _LOGARITHMIC * min(means):
        means = [math.log(mean) for mean in means]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(blocks[round((mean - low) / span * (len(blocks) - 1))] for mean in means)


def _filled(facts: Sequence[str], width: int) -> list[str]:
    """Facts beside each other, in as many lines as they need."""
    lines = [""]
    for fact in facts:
        joined = f"{lines[-1]}   {fact}" if lines[-1] else fact
        if lines[-1] and len(joined) > width:
            lines.append(fact)
        else:
            lines[-1] = joined
    return lines


def _rough(seconds: float) -> str:
    """A time to a minute, or from two hours on to a tenth of an hour."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
