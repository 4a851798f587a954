"""What pictures should show: classes, texts, both or nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.config.run import NULL_CLASS


class Condition(NamedTuple):
    """A class and a text for each of B pictures; None where the model knows no such thing.

    A text is L bytes of UTF-8, each plus one, or L vectors of a frozen encoder; zeros follow its
    end. No text is zeros alone.
    """

    labels: Tensor | None = None  # (B,) int64, NULL_CLASS for none
    text: Tensor | None = None  # (B, L) int64, or (B, L, D) float32
    augmented: Tensor | None = None  # (B, 9) float32: how training moved them; None: not at all

    @property
    def is_empty(self) -> bool:
        """Whether the model knows neither classes nor texts."""
        return self.labels is None and self.text is None

    def drop(self, chosen: Tensor) -> Condition:
        """Forget what the pictures chosen, (B,) bool, should show."""
        labels, text, augmented = self
        if labels is not None:
            labels = labels.masked_fill(chosen.to(labels.device), NULL_CLASS)
        if text is not None:
            text = text.masked_fill(chosen.to(text.device).reshape(-1, *[1] * (text.ndim - 1)), 0)
        return Condition(labels, text, augmented)

    def select(self, rows: slice) -> Condition:
        """What some of the pictures should show."""
        return Condition(*(None if field is None else field[rows] for field in self))

    def to(self, device: torch.device) -> Condition:
        """The same on another device."""
        return Condition(*(None if field is None else field.to(device) for field in self))

    def with_null(self) -> Condition:
        """Twice as many pictures: these, and after them as many of which nothing is said."""
        given = next(field for field in self if field is not None)
        null = self.drop(torch.ones(len(given), dtype=torch.bool, device=given.device))
        pairs = zip(self, null, strict=True)
        return Condition(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


UNCONDITIONAL = Condition()
