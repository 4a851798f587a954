"""The first minutes of the speed run, `ddpm train --preset cifar10-fast`: its loss and speed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from ddpm_cli.cli.app import main
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.runtime.run_directory import RunDirectory
from tests.benchmarks.gpu_day.day import TINY, Day

PRESET = "cifar10-fast" if "cifar10-fast" in PRESETS else "cifar10"
ENDING = 15  # seconds for the snapshot that a signal asks for
ROWS = 6  # of the table


def run(day: Day) -> None:
    """Train with the preset's own budget until the time is used up, then stop by SIGTERM."""
    day.need(60)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        os.environ["DDPM_CACHE"] = str(path / "cache")
        command = ["train", "--preset", PRESET, "--device", day.device.type]
        command += ["--data", str(images(day, path)), "--out", str(path / "run")]
        if day.dry:
            settings = TINY | {"optimiser": {"batch": 4}, "preview": 2, "log_every": 4}
            (path / "tiny.json").write_text(json.dumps(settings))
            command += ["--config", str(path / "tiny.json"), "--images", "8"]
        stop = threading.Timer(max(1, day.left - ENDING), os.kill, (os.getpid(), signal.SIGTERM))
        stop.daemon = True
        stop.start()
        code = ended_with(command)
        stop.cancel()
        report(day, RunDirectory(path / "run"), code)


def images(day: Day, folder: Path) -> Path:
    """CIFAR-10's training images where they are there, else random ones."""
    archive = day.data / "cifar10-train.zip"
    if archive.exists() and not day.dry:
        return archive
    if not day.dry:
        day.add("data", None, note=f"random images: {archive} is not there")
    count, side = (16, 8) if day.dry else (10_000, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    np.save(folder / "random.npy", pixels)
    return folder / "random.npy"


def ended_with(command: list[str]) -> int:
    """The exit code of `ddpm COMMAND`, run in this process."""
    sys.argv = ["ddpm", *command]
    try:
        main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    return 0


def report(day: Day, run: RunDirectory, code: int) -> None:
    """Some rows of its metrics, and its newest preview beside the table."""
    rows = run.rows()
    for row in rows[:: -max(1, len(rows) // ROWS)][::-1]:
        note = f"loss {row['loss_smooth']:.4f}, {row['images_per_second'] or 0:,.0f} images/s"
        day.add(f"{PRESET}: after {row['seconds']:.0f} s", row["images"], "images", note)
    for preview in sorted((run.path / "samples").glob("*.png"))[-1:]:
        shutil.copyfile(preview, day.rows.with_name("speed_run.png"))
    day.add(f"{PRESET}: exit code", code, note="75: stopped as planned, its snapshot written")
