"""The processes that work together, as a launcher's environment variables describe them.

Those of torchrun and those of SLURM count together or not at all. They are checked once, before a
command begins, and then all code may rely on them. Imports no torch.
"""

from __future__ import annotations

import os
import socket

from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime.elastic import slurm
from ddpm_cli.core.runtime.elastic.variables import number, shown, value

_RANKS = ("RANK", "LOCAL_RANK")
_TORCHRUN = (*_RANKS, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_DEBUG, _DEBUG_LEVELS = "TORCH_DISTRIBUTED_DEBUG", ("OFF", "INFO", "DETAIL")
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_ALONE = "unset it to run one process by itself"


def check_environment() -> list[str]:
    """Check the variables of launchers, and remove from the environment those that do not count.

    Returns notices of what is ignored. Raises UsageError where some are missing or wrong.
    """
    for name in (*_TORCHRUN, *_INTERFACES, _DEBUG):
        if value(name) is None:
            os.environ.pop(name, None)
    if os.environ.get(_DEBUG, "OFF").upper() not in _DEBUG_LEVELS:
        raise UsageError(f"{shown(_DEBUG)} should be one of {', '.join(_DEBUG_LEVELS)}, or unset")
    task = slurm.task()
    if "WORLD_SIZE" not in os.environ:
        notices = _ignore_ranks()
    elif "RANK" not in os.environ:
        notices = []
        _ignore_size(task)
    else:
        _check_ranks()
        return []
    if task is None and (tasks := slurm.tasks_of_shell()) > 1:
        notices.append(
            f"This is a shell in a step of {tasks} tasks of SLURM, so the command runs by itself; "
            "srun without --pty starts it as every task"
        )
    return notices


def attach_tasks() -> None:
    """Set torchrun's variables from SLURM's, where `srun` started several tasks.

    Where torchrun's are set they stay, and so do an address and port of the user's own. Raises
    UsageError where the tasks cannot meet.
    """
    task = None if "RANK" in os.environ else slurm.task()
    if task is None:
        return
    ranks = {"RANK": task.rank, "LOCAL_RANK": task.local_rank, "WORLD_SIZE": task.tasks}
    os.environ.update({name: str(number) for name, number in ranks.items()})
    if value("MASTER_ADDR") is None:
        os.environ["MASTER_ADDR"] = slurm.first_task_host()
    if value("MASTER_PORT") is None:
        os.environ["MASTER_PORT"] = str(task.port)
    _check_ranks()


def check_interfaces() -> None:
    """Raise UsageError where the network interface that the user chose is not there."""
    if not hasattr(socket, "if_nameindex"):
        return
    here = [name for _, name in socket.if_nameindex()]
    for variable in _INTERFACES:
        chosen = value(variable) or ""
        by_prefix = variable.startswith("NCCL") and not chosen.startswith("=")
        if chosen.startswith("^"):  # NCCL's: any but these
            continue
        for name in filter(None, chosen.removeprefix("=").split(",")):
            if not any(other.startswith(name) if by_prefix else other == name for other in here):
                raise UsageError(
                    f"{shown(variable)}: this machine ({socket.gethostname()}) has no network "
                    f"interface {name!r}; it has {', '.join(here)}. Name one of these, or unset it"
                )


def check_host(host: str, seen: str) -> None:
    """Raise UsageError where a host's name does not resolve; `seen`: where it was given."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no valid name"
        raise UsageError(
            f"{seen}: the host {host[:100]!r} cannot be found ({reason}); give the name or address "
            "at which the first machine can be reached from here"
        ) from error


def _ignore_ranks() -> list[str]:
    """Remove ranks without a size: a shell or a cluster left them behind."""
    ignored = [name for name in _RANKS if name in os.environ]
    if not ignored:
        return []
    notice = f"{shown(*ignored)} without WORLD_SIZE: ignored, as no launcher started this process"
    for name in ignored:
        del os.environ[name]
    return [notice]


def _ignore_size(task: slurm.Task | None) -> None:
    """Remove a size without a rank, where it agrees with what SLURM says."""
    tasks = 1 if task is None else task.tasks
    if number("WORLD_SIZE", 1) != tasks:
        srun = "" if task is None else f", and srun started {tasks} tasks"
        raise UsageError(
            f"{shown('WORLD_SIZE')}, but RANK is not set{srun}; a launcher sets both: {_ALONE}"
        )
    del os.environ["WORLD_SIZE"]


def _check_ranks() -> None:
    processes = number("WORLD_SIZE", 1)
    if processes < 1:
        raise UsageError(f"{shown('WORLD_SIZE')} should be at least 1; {_ALONE}")
    for name in _RANKS:
        if number(name, 0) >= processes:
            raise UsageError(
                f"{shown(name)} should be less than {shown('WORLD_SIZE')}, the number of "
                "processes; unset both to run one process by itself"
            )
    if processes == 1:
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if value(name) is None:
            raise UsageError(
                f"{name} is not set, but {shown('RANK', 'WORLD_SIZE')}: give the host and a free "
                "port of the process with RANK=0 to all, or unset RANK and WORLD_SIZE to run one "
                "process by itself"
            )
    if not 0 < number("MASTER_PORT", 0) < 1 << 16:
        raise UsageError(f"{shown('MASTER_PORT')} should be a port from 1 to 65535")
    check_host(os.environ["MASTER_ADDR"], shown("MASTER_ADDR"))
    check_interfaces()
