"""The condition of a batch: class labels, text, an image, some of them or none."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_cli.core.config.network_inputs import NULL_CLASS
from ddpm_cli.core.runtime.devices import to_device


class Condition(NamedTuple):
    """Class labels, text and image for each of B images; None where the model has no use for it.

    Labels are one class each, or of K classes any number (multi-label): zeros and ones. A text is
    L bytes of UTF-8, each plus one, or L hidden states of a frozen encoder, padded with zeros. The
    null text is all zeros.
    """

    labels: Tensor | None = None  # (B,) or (B, K) int64; all NULL_CLASS: the null condition
    text: Tensor | None = None  # (B, L) int64, or (B, L, D) float32
    augmented: Tensor | None = None  # (B, 9) float32 augmentation labels; None: not augmented
    given: Tensor | None = None  # (B, C', H, W) float32 in [-1, 1], beside the input; never dropped
    given_noise: Tensor | None = None  # (B,) float32, deviation of noise in `given`; None: none
    guidance: Tensor | None = None  # (B,) float32, of a network that learned it; None: none

    @property
    def is_empty(self) -> bool:
        """Whether there are neither class labels nor texts, which guidance is towards."""
        return self.labels is None and self.text is None

    def drop(self, mask: Tensor) -> Condition:
        """Replace class and text by the null condition where `mask`, (B,) bool, is set."""
        labels, text = self.labels, self.text
        if labels is not None:
            labels = labels.masked_fill(_over_rows(mask, labels), NULL_CLASS)
        if text is not None:
            text = text.masked_fill(_over_rows(mask, text), 0)
        return self._replace(labels=labels, text=text)

    def select(self, rows: slice) -> Condition:
        """The condition of some of the images."""
        return Condition(*(None if field is None else field[rows] for field in self))

    def to(self, device: torch.device) -> Condition:
        """Copy all tensors to a device, without waiting for it."""
        return Condition(*(field if field is None else to_device(field, device) for field in self))

    def null(self) -> Condition:
        """The null condition of as many images, with what is never dropped."""
        first = next(field for field in self if field is not None)
        return self.drop(torch.ones(len(first), dtype=torch.bool, device=first.device))

    def with_null(self) -> Condition:
        """Stack with the null condition for classifier-free guidance: 2B rows, the null ones last.

        Source: Ho & Salimans (2022).
        """
        pairs = zip(self, self.null(), strict=True)
        return Condition(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


def _over_rows(mask: Tensor, values: Tensor) -> Tensor:
    """The mask (B,) in a shape that broadcasts over all values of each row."""
    return mask.to(values.device).reshape(-1, *[1] * (values.ndim - 1))


UNCONDITIONAL = Condition()
