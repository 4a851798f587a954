"""TensorBoard: event files in the run directory, written without TensorFlow or torch."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ddpm_cli.core.tracking.tracker import Run

_SIZE = slice(16, 24)  # of a PNG: width and height in its first chunk


def check() -> str:
    """What is wrong before a training starts: nothing, as the run directory is checked anyway."""
    return ""


class Record:
    """A folder of event files: a resumed training adds one, which replaces later steps."""

    id, rewinds = "tensorboard", True

    def __init__(self, run: Run) -> None:
        folder = run.path / self.id
        self.where = f"in {folder}; look at it with: tensorboard --logdir {run.path.parent}"
        self._writer = EventFileWriter(str(folder))
        if run.id:
            self._add(run.images + 1, session_log=SessionLog(status=SessionLog.START))
        rows = "".join(f"| {name} | `{value}` |\n" for name, value in run.settings.items())
        table = f"| setting | value |\n| --- | --- |\n{rows}"
        self._add(run.images, summary=text_pb("settings", table))

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add scalars, and a PNG as it is."""
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        if picture is not None:
            content = picture.read_bytes()
            width, height = struct.unpack(">II", content[_SIZE])
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=content
            )
            found.append(Summary.Value(tag="samples", image=image))
        self._add(images, summary=Summary(value=found))
        self._writer.flush()

    def close(self, state: str) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, images: int, **content: Any) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=images, **content))
