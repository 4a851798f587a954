"""What is done to an image of any size and mode before a network sees it."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_cli.core.config.run import RunConfig


@dataclass(frozen=True)
class Transform:
    """The form that `files.decode` and `files.fit` bring an image into."""

    channels: int = 3  # 1 grey, 3 RGB, 4 RGBA
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the image's own

    @classmethod
    def of(cls, config: RunConfig) -> Transform:
        """The one that a run applies to its images."""
        return cls(config.network.channels, config.network.size)

    @property
    def key(self) -> str:
        """Identifies the transform, for caches of transformed images."""
        return repr((self.channels, self.size))
