"""What is done to an image of any size and mode before a network sees it."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_cli.core.config.run import RunConfig, parse_colour

WHITE = (255, 255, 255)

LARGEST_NATIVE = 64  # pixels; larger images, or images of mixed sizes, are resized to this


@dataclass(frozen=True)
class Transform:
    """The form that `files.decode` and `files.fit` bring an image into."""

    channels: int = 3  # 1 grey, 3 RGB, 4 RGBA
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the image's own
    fit: str = "crop"  # how images of another shape become that size: crop, pad or stretch
    background: tuple[int, int, int] = WHITE  # RGB beneath transparency, and of padding
    srgb: bool = False  # use embedded colour profiles; the published tools of scores do not

    @classmethod
    def of(cls, config: RunConfig) -> Transform:
        """The one that a run applies to its images."""
        return cls(
            config.network.channels,
            config.network.size,
            config.data.fit,
            parse_colour(config.data.background),
            srgb=True,
        )

    @property
    def key(self) -> str:
        """Identifies the transform, for caches of transformed images."""
        return repr((self.channels, self.size, self.fit, self.background, self.srgb))


def power_of_two(side: int, direction: str) -> int:
    """The nearest power of two that is no smaller ("up") or no larger ("down") than a side."""
    below = 1 << (side.bit_length() - 1)
    return below if direction == "down" or below == side else 2 * below
