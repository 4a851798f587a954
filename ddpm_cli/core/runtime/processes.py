"""Starting a command again as several processes."""

from __future__ import annotations

import sys

from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.elastic import stopping, world
from ddpm_cli.core.runtime.reporting import Reporter


def launch_if_needed(
    nproc: int, device: str, reporter: Reporter, kept: str = stopping.NOTHING_WRITTEN
) -> bool:
    """Start this command as `nproc` processes and wait for them, unless it is one of them already.

    Returns False where this process should do the work. Raises WorkersFailedError where they fail;
    the message says what is `kept`.
    """
    if nproc == 1:
        world.attach_tasks()
        return False
    if distributed.under_launcher():
        return False
    devices.check_processes(nproc, device)
    from ddpm_cli.core.runtime.elastic import launch  # torch's, which takes long to import

    launch.launch(launch.LaunchConfig(nproc, kept=kept), sys.argv[1:], reporter)
    return True
