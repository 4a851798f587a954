"""A command that starts itself again as several processes."""

from __future__ import annotations

import sys

from ddpm_cli.cli import console


def launch_if_needed(nproc: int, device: str) -> bool:
    """Start this same command as several processes, if they are asked for and not there yet."""
    from ddpm_cli.core.runtime import devices, distributed
    from ddpm_cli.core.runtime.elastic import launch, slurm

    if nproc == 1:
        slurm.attach()
        return False
    if distributed.under_launcher():
        return False
    devices.check_processes(nproc, device)
    launch.launch(launch.LaunchConfig(nproc), sys.argv[1:], console.reporter())
    return True
