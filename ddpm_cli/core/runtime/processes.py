"""Starting a command again as several processes."""

from __future__ import annotations

import sys

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import devices, distributed
from ddpm_cli.core.runtime.elastic import stopping, world
from ddpm_cli.core.runtime.reporting import Reporter

_MISSING = "for what is missing"  # all processes start again


def launch_if_needed(
    nproc: int,
    device: str,
    reporter: Reporter,
    kept: str = stopping.NOTHING_WRITTEN,
    restarts: int = 0,
) -> bool:
    """Start this command as `nproc` processes and wait for them, unless it is one of them already.

    Returns False where this process should do the work. Raises WorkersFailedError where they fail;
    the message says what is `kept`. restarts: how often all start again when one dies.
    """
    if nproc == 1:
        world.attach_tasks()
        return False
    if distributed.under_launcher():
        return False
    devices.check_processes(nproc, device)
    from ddpm_cli.core.runtime.elastic import launch  # torch's, which takes long to import

    config = launch.LaunchConfig(nproc, max_restarts=restarts, again=_MISSING, kept=kept)
    launch.launch(config, sys.argv[1:], reporter)
    return True


def refuse_several(command: str) -> None:
    """Raise UsageError where torchrun or srun started several processes of a command for one."""
    world.attach_tasks()
    if distributed.world_size() > 1:
        raise UsageError(
            f"{command} runs in one process, and {distributed.world_size()} were started: leave "
            "torchrun out, or give srun -n 1"
        )
