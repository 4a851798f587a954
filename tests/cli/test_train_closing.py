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
}


@pytest.mark.parametrize(("held_out", "named"), [(0.2, False), (0.3, True), (None, False)])
def test_weights_from_before_the_held_out_loss_rose_are_named(
    held_out: float | None, *, named: bool
) -> None:
    last = _closing(SUMMARY | {"loss_heldout": held_out}, guided=False).splitlines()[-1]
    assert last.startswith("Next: ddpm sample run" + " --weights best (" * named)
    assert named or last == "Next: ddpm sample run"
