"""holdout.png: the losses on images held out and on images trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.figures import holdout


def row(images: float, held_out: float, quarters: tuple[float | None, ...]) -> Any:
    names = {f"loss_holdout_q{q}": loss for q, loss in enumerate(quarters)}
    trained = {f"loss_trained_q{q}": 0.5 for q in range(4)}
    return {"images": images, "loss_holdout": held_out, "loss_trained": 0.5} | names | trained


def test_both_losses_and_their_ratios_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(holdout, "write_figure", lambda _, figure: drawn.append(figure))
    between = {"images": 60.0, "loss": 1.0, "loss_holdout": None, "loss_trained": None}
    rows = [
        row(50, 0.6, (0.5, 1.0, 0.5, None)) | {"loss_gap": 0.2},
        between,
        row(100, 0.4, (1.0, 2.0, 0.5, None)) | {"loss_gap": 0.6},
        row(150, 0.7, (2.0, 4.0, 0.5, None)) | {"loss_gap": 1.5},
    ]
    assert holdout.curves(Path("holdout.png"), rows, "error", 1.0)
    losses, ratios = drawn[0].axes
    lines = {line.get_label(): line for line in losses.lines}
    assert lines["held out"].get_xdata().tolist() == [50, 100, 150]
    assert lines["trained on"].get_ydata().tolist() == [0.5, 0.5, 0.5]
    assert lines["lowest"].get_xdata() == [100]
    lines = {line.get_label(): line for line in ratios.lines}
    assert lines["less noise"].get_ydata().tolist() == [2, 4, 8]
    assert lines["--stop-at-gap"].get_ydata() == [2, 2]
    compared = lines["largest less 2 errors"]
    assert compared.get_ydata().tolist() == pytest.approx([1.2, 1.6, 2.5])
    assert "most noise" not in lines  # no image held out has so much


def test_without_images_held_out_nothing_is_drawn(tmp_path: Path) -> None:
    older = {"images": 8.0, "loss": 0.5, "loss_holdout": 0.5}  # of a version without the others
    for rows in ([], [{"images": 8.0, "loss": 0.5}], [older]):
        assert not holdout.curves(tmp_path / "holdout.png", rows, "error")
    assert not (tmp_path / "holdout.png").exists()
    assert holdout.curves(tmp_path / "holdout.png", [row(8, 0.0, (0.0, 1.0, 1.0, 1.0))], "error")
