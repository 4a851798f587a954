"""The last lines of `ddpm train`."""

from __future__ import annotations

from typing import Any

import pytest

from ddpm_cli.cli.training import _closing

SUMMARY: dict[str, Any] = {
    "run": "run",
    "images": 64,
    "steps": 8,
    "seconds": 1.0,
    "images_per_second": None,
    "skipped_steps": 0,
    "loss": 0.1,
    "loss_smooth": 0.1,
    "best_of": "loss_heldout",
    "best": 0.2,
    "loss_heldout": 0.2,
    "gap": None,
}


@pytest.mark.parametrize(("held_out", "named"), [(0.2, False), (0.3, True), (None, False)])
def test_weights_from_before_the_held_out_loss_rose_are_named(
    held_out: float | None, *, named: bool
) -> None:
    summary = SUMMARY | {"loss_heldout": held_out}
    last = _closing(summary, guided=False, stop_at_gap=None).splitlines()[-1]
    assert last.startswith("Next: ddpm sample run" + " --weights best (" * named)
    assert named or last == "Next: ddpm sample run"


def test_the_gap_is_named_where_it_would_stop_a_training() -> None:
    first = _closing(SUMMARY | {"gap": 0.431}, guided=False, stop_at_gap=1.0).splitlines()[0]
    assert first.endswith("best held out 0.2000, gap 0.43 of 1 that stops.")
    for gap, limit in ((0.431, None), (None, 1.0)):
        assert "gap" not in _closing(SUMMARY | {"gap": gap}, guided=False, stop_at_gap=limit)
