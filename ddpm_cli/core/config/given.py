"""The image that a network is given beside its input: how it is made of the images trained on."""

from __future__ import annotations

from typing import NamedTuple

from ddpm_cli.core.config.fields import shortened
from ddpm_cli.core.errors import UsageError

_AMOUNTS = {  # of the kinds that have one: what it is, from, to
    "lowres": ("how many times smaller, a whole number", 2, 64),
    "blur": ("a standard deviation in pixels", 0.1, 64),
}
KINDS = ("lowres", "grey", "blur", "mask", "edges")
_NOISE = 0.2  # deviation of the noise in low-resolution images, at most, by default


class Degradation(NamedTuple):
    """What is left of an image: `lowres:4`, `grey`, `blur:2`, `mask` or `edges`."""

    kind: str
    amount: float = 0  # of lowres the factor, of blur the deviation in pixels

    @classmethod
    def parse(cls, text: str, option: str = "--given") -> Degradation:
        """Read the text of the option. Raises UsageError."""
        kind, colon, amount = text.partition(":")
        if kind not in KINDS or bool(colon) != (kind in _AMOUNTS):
            raise UsageError(
                f"{option} {shortened(text)} should be lowres:4, grey, blur:2, mask or edges"
            )
        if not colon:
            return cls(kind)
        what, least, most = _AMOUNTS[kind]
        try:
            value = int(amount) if kind == "lowres" else float(amount)
        except ValueError:
            value = -1
        if not least <= value <= most:
            raise UsageError(
                f"{option} {shortened(text)}: {kind} takes {what}, from {least:g} to {most}"
            )
        return cls(kind, value)

    @property
    def noise(self) -> float:
        """The deviation of the noise that is added by default in training, at most."""
        return _NOISE if self.kind == "lowres" else 0.0

    def channels(self, of_images: int) -> int:
        """Channels of what is left, of images of so many; of a mask's with the mask itself."""
        return {"grey": 1, "edges": 1, "mask": of_images + 1}.get(self.kind, of_images)

    def size(self, full: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what is left of an image, in pixels."""
        if self.kind != "lowres":
            return full
        height, width = (max(1, round(side / self.amount)) for side in full)
        return height, width


def parse_given(text: str) -> str:
    """The text of --given; "none" is no image."""
    return "" if text == "none" else text


def check_given(name: str, value: str) -> None:
    """Raise UsageError for a text that is none of the degradations."""
    if value:
        Degradation.parse(value, name)
