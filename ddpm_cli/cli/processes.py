"""A command that starts itself again as several processes."""

from __future__ import annotations

import sys

import typer


def launched(nproc: int, device: str) -> bool:
    """Start this same command as several processes, if they are asked for and not there yet."""
    from ddpm_cli.core.runtime import devices, distributed, launch

    if nproc == 1 or distributed.under_launcher():
        return False
    devices.check_processes(nproc, device)
    code = launch.launch(nproc, sys.argv[1:])
    if code:
        raise typer.Exit(code)
    return True
