"""Numbers in words."""

from __future__ import annotations

import pytest

from ddpm_cli.core.config.run import Budget
from ddpm_cli.core.runtime import quantities


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (56_520, "56.5 k"), (999_499, "999 k"),
     (999_500, "1 M"), (35_746_307, "35.7 M"), (12_400_000_000, "12.4 G"), (10**13, "10 T")],
)  # fmt: skip
def test_counts(number: int, words: str) -> None:
    assert quantities.count(number) == words


@pytest.mark.parametrize(
    ("seconds", "measured", "estimated"),
    [(0.4, "0 s", "0 s"), (59.6, "1 min 00 s", "60 s"), (89, "1 min 29 s", "89 s"),
     (3599.9, "1 h 00 min", "60 min"), (8280, "2 h 18 min", "2.3 h"),
     (187_200, "2 d 04 h", "52.0 h")],
)  # fmt: skip
def test_times(seconds: float, measured: str, estimated: str) -> None:
    assert (quantities.duration(seconds), quantities.roughly(seconds)) == (measured, estimated)


def test_limits_of_budgets() -> None:
    assert quantities.limits(Budget()) == ""
    assert quantities.limits(Budget(images=12_345_678_901)) == "12,345,678,901 images"
    assert quantities.limits(Budget(steps=1000, minutes=90.0)) == "1,000 steps or 90 minutes"
