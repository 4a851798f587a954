"""Weights & Biases, online or offline as WANDB_MODE says."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

import wandb

from ddpm_cli.core.tracking.tracker import PROJECT, Run, unwritable

_SILENT_MODES = ("offline", "disabled")


def check() -> str:
    """What is wrong before a training starts: no login, or no folder."""
    settings = wandb.setup().settings
    if settings.mode != "disabled" and (folder := os.environ.get("WANDB_DIR")):
        if reason := unwritable(Path(folder)):
            return f"{reason}: WANDB_DIR should name another folder"
    if settings.mode in _SILENT_MODES:
        return ""
    if not wandb.Api(api_key=None).api_key:
        return "nobody is logged in: wandb login, or WANDB_MODE=offline to send the record later"
    return ""


class Record:
    """A run there, or with WANDB_MODE=offline a folder that `wandb sync` sends later.

    Steps never go back there: what is logged again after a resume is left out.
    """

    rewinds = False

    def __init__(self, run: Run) -> None:
        folder = os.environ.get("WANDB_DIR", str(run.path))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run.id or None,
            resume="allow",
            dir=folder,
            config=run.settings,
            settings=wandb.Settings(console="off", quiet=True),
        )
        self.id = self._run.id
        mode = self._run.settings.mode
        self.where = f"at {self._run.url}"
        if mode in _SILENT_MODES:
            self.where = "nowhere, as it is disabled by WANDB_MODE"
        if mode == "offline":
            runs = quote(str(Path(folder) / "wandb")) + "/offline-run-*"
            self.where = f"offline; send it with: wandb sync {runs}"

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add a step, named by the images seen."""
        images_of = {} if picture is None else {"samples": wandb.Image(str(picture))}
        self._run.log({**values, **images_of}, step=images)

    def close(self, state: str) -> None:
        """Send what is left."""
        self._run.finish(exit_code=1 if state == "failed" else 0)
