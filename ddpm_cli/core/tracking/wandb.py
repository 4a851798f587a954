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
    folder = os.environ.get("WANDB_DIR")
    if folder and settings.mode != "disabled" and (reason := unwritable(Path(folder))):
        return f"{reason}: WANDB_DIR should name another folder"
    if settings.mode in _SILENT_MODES:
        return ""
    try:
        found = wandb.login(verify=False)  # the key is there; a server may be out of reach
    except wandb.errors.UsageError:
        found = False
    missing = "no login was found: run wandb login, or set WANDB_MODE=offline to send it later"
    return "" if found else missing


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
        if mode == "offline":
            self.where = f"offline; send it with: wandb sync {quote(folder)}/wandb/offline-run-*"
        elif mode == "disabled":
            self.where = "nowhere, as WANDB_MODE disables it"
        else:
            self.where = f"at {self._run.url}"

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add a step, named by the images seen."""
        images_of = {} if picture is None else {"samples": wandb.Image(str(picture))}
        self._run.log({**values, **images_of}, step=images)

    def close(self, state: str) -> None:
        """Send what is left."""
        self._run.finish(exit_code=1 if state == "failed" else 0)
