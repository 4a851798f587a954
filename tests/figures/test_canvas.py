"""Figures do not depend on the user's matplotlib, and one that fails does not end a training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.figures import canvas, curves, network, plots
from ddpm_cli.core.figures.axes import logarithmic
from ddpm_cli.core.runtime.reporting import Dispensable
from ddpm_cli.core.training import preview
from tests.support.cli import Result

pytestmark = pytest.mark.usefixtures("loss_curve")

SCORES = [{"images": 1, "value": 1.0, "label": "fid5k"}]
DRAW = f"""
from pathlib import Path
from ddpm_cli.core.figures import canvas, curves, network, plots
from ddpm_cli.core.figures.axes import logarithmic
plots.score_curve(Path("drawn.png"), {SCORES})
"""
STYLE = b"text.usetex: True\nfont.family: Nobody\nfigure.dpi: 30\naxes.facecolor: red\n"
INVALID = b"no setting at all\nfigure.dpi: abc\nbackend: nonsense\n"
BINARY = b"\xff\xfe\x00"


@pytest.mark.parametrize(
    ("variables", "content"),
    [
        ({"MPLBACKEND": "nonsense"}, None),
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, None),
        ({"MPLCONFIGDIR": "/proc/nowhere", "HOME": "/proc/nowhere"}, None),
        ({}, STYLE),
        ({"MATPLOTLIBRC": "matplotlibrc"}, INVALID),
        ({"MPLBACKEND": "nonsense", "DDPM_CACHE": "/proc/nowhere"}, BINARY),
    ],
)
def test_the_users_settings_of_matplotlib_change_nothing(
    variables: dict[str, str], content: bytes | None
) -> None:
    """A process of its own, as matplotlib reads them when it is imported."""
    if content is not None:
        Path("matplotlibrc").write_bytes(content)
    plots.score_curve(Path("expected.png"), SCORES)
    top = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": top, **variables}
    result = subprocess.run(
        [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert Path("drawn.png").read_bytes() == Path("expected.png").read_bytes()


def test_figures_that_fail_are_notices_of_a_training(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DdpmError("No space left on device")

    monkeypatch.setattr(plots, "loss_curve", fail)
    monkeypatch.setattr(preview, "save_preview", fail)
    result = train_tiny("--images", 64, "--out", "run")
    assert result.code == 0
    for what in ("the preview", "the loss curve"):
        assert result.err.count(f"training goes on without {what}: No space left on device") == 1


def test_a_dispensable_failure_is_said_once() -> None:
    messages: list[str] = []

    class Listener:
        say = messages.append

    dispensable = Dispensable(Listener())  # type: ignore[arg-type]
    for what in ("the plot", "the plot", "the film"):
        with dispensable.attempt(what):
            raise ValueError("first\nsecond")
    assert messages == [
        f"training goes on without {what}: first" for what in ("the plot", "the film")
    ]


def test_dollars_in_names_are_shown_as_they_are() -> None:
    """Mathtext would refuse them, as it would `10^{-1}` of an axis without formulas."""
    rows = [{"images": 8.0 * i, "seconds": 1.0 * i, "loss": 10.0**-i, "loss_smooth": 10.0**-i}
            for i in range(1, 6)]  # fmt: skip
    curves.curves(Path("curves.png"), [curves.RunCurves(r"a$_{b$^", rows)], "loss", r"$\x")
    group = network.Group(["res"], 8, 4)
    levels = [network.Row(group, other, "4 x 4", 1, "", 0.5) for other in (group, None)]
    network.draw(Path("net.png"), levels, r"$\no$ _{", [])
    plots.score_curve(Path("score.png"), [SCORES[0] | {"label": r"$\x"}])
    plots.loss_curve(Path("loss.png"), rows, r"$\x")
    with canvas.defaults():
        figure = canvas.Figure()
        drawn = figure.subplots()
        drawn.plot([1, 2], [0.01, 100.0])
        assert logarithmic(drawn)
        texts = [text.get_text() for text in drawn.get_yticklabels()]
    assert {"0.01", "1", "100"} <= set(texts) and not any("$" in text for text in texts)
