"""Worker processes: their environment and the error file in which each reports its failure.

Our own launcher gives each worker such a file (torch's TORCHELASTIC_ERROR_FILE). From it the
launcher knows which worker failed first, and which ended on purpose and must not be restarted.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ddpm_cli.core.config import environment
from ddpm_cli.core.errors import DdpmError, DivergedError, PreemptedError, StoppedByUserError

LAUNCHER = "DDPM_LAUNCHER"  # the process id of the launcher, in its workers' environment
STARTED = "DDPM_STARTED"  # when the first command was started, in seconds since 1970
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

_RAISED_ON_ALL_RANKS = (PreemptedError, StoppedByUserError, DivergedError)
_PR_SET_PDEATHSIG = 1  # prctl(2)


_met_others = False  # whether this process has joined the others


def met_others() -> None:
    """Note that the others have been met, so that rank 0 reports what is raised on all ranks."""
    global _met_others
    _met_others = True


def is_worker() -> bool:
    """Whether our own launcher started this process."""
    return os.environ.get(LAUNCHER) == str(os.getppid())


def restarted() -> bool:
    """Whether a launcher or SLURM has restarted this process."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(name, "0") not in ("", "0") for name in counts)


def may_restart() -> bool:
    """Whether an outer torchrun or SLURM may restart this process."""
    torchrun = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return not is_worker() and (torchrun or "SLURM_JOB_ID" in os.environ)


def start() -> None:
    """Record when the command started; bind a worker to its launcher.

    A worker keeps the start time of its launcher, is killed when that ends (on Linux), and prints
    its stacks if native code crashes.
    """
    if not is_worker():
        os.environ[STARTED] = str(time.time())
        return
    faulthandler.enable()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if not is_worker():  # the launcher ended before prctl
            os.kill(os.getpid(), signal.SIGKILL)


def rank_name() -> str:
    """This process's rank and host, for messages."""
    return f"process {os.environ.get('RANK', '0')} on {socket.gethostname()}"


def report_failure(error: Exception) -> bool:
    """Report how this process failed, if it is one of several; whether that was done.

    The launcher prints only the first failure. Without it, under torchrun or srun, the process
    that failed prints its traceback, and those that lost it as a peer one line; errors raised on
    all ranks are left to rank 0.
    """
    intended_exit_code = error.exit_code if isinstance(error, DdpmError) else None
    lost_peers = intended_exit_code is None and _is_lost_peer_error(error)
    if is_worker():
        with_traceback = intended_exit_code is None or environment.is_on(environment.TRACEBACK)
        trace = "".join(traceback.format_exception(error)) if with_traceback else ""
        message = str(error) if intended_exit_code else _last_line(error)
        record_failure(message, intended_exit_code, trace, lost_peers=lost_peers)
        if os.environ.get("RANK") != "0":  # rank 0 prints to the terminal, the others to a log
            print(trace or error, file=sys.stderr)
        return True
    on_all_ranks = _met_others and isinstance(error, _RAISED_ON_ALL_RANKS)
    if on_all_ranks and os.environ.get("RANK", "0") != "0":
        return True
    if intended_exit_code is None and "RANK" in os.environ:
        outcome = (
            f"lost its connection to the others: {_last_line(error)}" if lost_peers else "failed:"
        )
        print(f"ddpm: {rank_name()} {outcome}", file=sys.stderr)
        return lost_peers
    return False


def _last_line(error: Exception) -> str:
    """The line with which Python's traceback of the error ends, without its continuation."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]


def _is_lost_peer_error(error: BaseException) -> bool:
    """Whether an error is the consequence of other processes' end, not a cause."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "gloo" in str(error))


def exit_process(code: int | str | None) -> NoReturn:
    """Exit; one of several processes exits immediately, after flushing its output.

    Python's own shutdown would destroy the interpreter under the threads of torch.distributed: one
    that frees its last tensor meanwhile aborts the process.
    """
    if "RANK" in os.environ and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def record_failure(
    message: str, intended_exit_code: int | None, trace: str = "", *, lost_peers: bool = False
) -> None:
    """Write a worker's error file for the launcher.

    Args:
        message: The failure in a line.
        intended_exit_code: The exit code of a worker that ends on purpose, else None.
        trace: The traceback, if it is to be printed.
        lost_peers: Whether it failed only because other workers were gone.
    """
    path = os.environ.get(ERROR_FILE)
    if not (is_worker() and path):
        return
    extra = {"py_callstack": trace, "timestamp": str(int(time.time()))}  # torch's keys
    document = {
        "message": {"message": message, "extraInfo": extra},
        "host": socket.gethostname(),
        "timestamp": time.time(),
        "intended_exit_code": intended_exit_code,
        "lost_peers": lost_peers,
    }
    with suppress(OSError):  # a full disk may be the failure to report
        partial = Path(f"{path}.part")
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)  # torch's agent must not read a part of it
