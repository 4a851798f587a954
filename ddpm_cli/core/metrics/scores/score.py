"""What every score has: a line, and its keys in the document of --json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Label = Callable[[str], str]  # a score's name -> its name in this feature space: "local-FID"


class Score(Protocol):
    """A score of FAKE against REAL, or of FAKE alone."""

    def line(self, label: Label) -> str:
        """The score with its spread."""

    def document(self) -> dict[str, object]:
        """Its keys and values in the document of --json."""


def digits(distance: float) -> str:
    """A Frechet distance: four decimals, or three digits where it is small, as of local features.

    Below 1e-6 there is nothing but rounding.
    """
    return f"{distance:.3g}" if 1e-6 < abs(distance) < 0.01 else f"{distance:.4f}"
