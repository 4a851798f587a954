"""Start the same command as several processes of this machine, by torch's own launcher."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime.devices import cores


def launch(processes: int, command: Sequence[str]) -> int:
    """Run `ddpm COMMAND` in `processes` workers; the first failed worker's exit code, or 0.

    torchrun's environment (RANK, WORLD_SIZE, …) tells each worker which one it is.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # port 0: the system picks a free one
        max_restarts=0,
        monitor_interval=0.1,
    )
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # torch's launcher passes SIGTERM on, not these
        signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        elastic_launch(config, sys.executable)("-m", "ddpm_cli", *command)
    except ChildFailedError as error:
        return _exit_code(error)
    except SignalException as stop:  # passed on to the workers, which had 30 s to save
        return 130 if stop.sigval == signal.SIGINT else 75
    except OSError as error:
        raise DdpmError(f"cannot start {processes} processes: {error}") from error
    return 0


def _exit_code(error: ChildFailedError) -> int:
    rank, first = min(error.failures.items(), key=lambda item: item[1].timestamp)
    if first.exitcode < 0:  # killed: the shell's way of telling, 128 + signal
        name = signal.Signals(-first.exitcode).name
        raise DdpmError(
            f"process {rank} was killed by {name}"
            + ("; is the machine out of memory? " if name == "SIGKILL" else "; ")
            + "run the same command again to go on from the last snapshot"
        ) from error
    return int(first.exitcode)
