"""Where a result comes from: versions, command, time and machine.

It stands beside results and is never in what identifies them: weights, settings, caches.
"""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ddpm_cli.core.runtime import threads
from ddpm_cli.core.runtime.elastic import worker

_OURS = ("ddpm", "__main__")  # file names of the command line


def gather(device: torch.device | None = None, preset: str = "") -> dict[str, Any]:
    """The provenance of what this process computes now on this device, ready for JSON.

    The command is quoted for the shell, the date in UTC (ISO 8601); what is unknown is None.
    """
    return {
        "ddpm": sys.modules["ddpm_cli"].__version__,
        "torch": torch.__version__,
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": None if device is None else _name(device),
        "preset": preset or None,
    }


def command() -> str:
    """The command line of this process, quoted for the shell."""
    program, *arguments = sys.argv or [""]
    ours = worker.is_worker() or Path(program).stem in _OURS
    return shlex.join(["ddpm" if ours else program, *arguments])


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {threads.cores()} cores)"
