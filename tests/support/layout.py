"""The plan of the packages: which lies above which."""

from __future__ import annotations

LAYERS = (  # lowest first; packages on one layer do not import each other
    ("core.errors",),
    ("core.config",),
    ("core.runtime",),
    ("core.conditioning",),
    ("core.data",),
    ("core.models", "core.diffusion"),
    ("core.checkpoints",),
    ("core.figures", "core.tracking"),
    ("core.metrics",),
    ("core.generation",),
    ("core.conversion", "core.training", "core.sweep"),
    ("core.runs", "core.doctor"),
    ("core.report", "core.hub"),
    ("cli",),
    ("library",),  # ddpm_cli/__init__.py, whose progress bars are the terminal's
)
HEIGHT = {package: height for height, packages in enumerate(LAYERS) for package in packages}


def package(name: str) -> str:
    """The folder below core that a module lies in, "core.errors", "cli" or "library"."""
    first, *rest = name.split(".")
    if first == "core":
        return ".".join([first, *rest[:1]])
    return "cli" if first in ("cli", "__main__") else "library"
