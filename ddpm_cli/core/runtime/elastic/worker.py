"""What a process does that shares its work with others: it tells once, and briefly, how it ended.

Our own launcher gives each worker a file for that (torch's TORCHELASTIC_ERROR_FILE). From it the
launcher knows which worker failed first, and which ended on purpose and must not be started again.
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

from ddpm_cli.core.errors import DdpmError, DivergedError, PreemptedError, StoppedByUserError

LAUNCHER = "DDPM_LAUNCHER"  # the process id of the launcher, in its workers' environment
STARTED = "DDPM_STARTED"  # when the first command was started, in seconds since 1970
ENDING = "TORCHELASTIC_ERROR_FILE"

_SHARED = (PreemptedError, StoppedByUserError, DivergedError)  # raised in every process
_PR_SET_PDEATHSIG = 1  # prctl(2)


def is_worker() -> bool:
    """Whether our own launcher started this process."""
    return os.environ.get(LAUNCHER) == str(os.getppid())


def restarted() -> bool:
    """Whether this work was begun before and is started again by a launcher or by SLURM."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(name, "0") not in ("", "0") for name in counts)


def may_restart() -> bool:
    """Whether an outer torchrun, or SLURM, may start the same command again."""
    torchrun = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return not is_worker() and (torchrun or "SLURM_JOB_ID" in os.environ)


def begin() -> None:
    """Note when the command started; a launcher's worker takes that over, and ends with it.

    However the launcher ends. And a worker shows the stacks if native code crashes.
    """
    if not is_worker():
        os.environ[STARTED] = str(time.time())
        return
    faulthandler.enable()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if not is_worker():  # it was gone before it could be bound to
            os.kill(os.getpid(), signal.SIGKILL)


def rank_name() -> str:
    """This process among all, for messages."""
    return f"process {os.environ.get('RANK', '0')} on {socket.gethostname()}"


def report_failure(error: Exception) -> bool:
    """Tell how this process failed, unless it works alone; whether that was told.

    The launcher tells the first failure only. Without it, under torchrun or srun, the process that
    failed shows its traceback, and those that merely lost it say so in a line; what ends
    all alike is left to the first to tell.
    """
    purpose = error.exit_code if isinstance(error, DdpmError) else None
    lost = purpose is None and lost_peers(error)
    if is_worker():
        wanted = purpose is None or os.environ.get("DDPM_TRACEBACK")
        trace = "".join(traceback.format_exception(error)) if wanted else ""
        record_failure(str(error) if purpose else _line(error), purpose, trace, lost=lost)
        if os.environ.get("RANK") != "0":  # whose stderr is the terminal; the others' is their log
            print(trace or error, file=sys.stderr)
        return True
    if isinstance(error, _SHARED) and os.environ.get("RANK", "0") != "0":
        return True
    if purpose is None and "RANK" in os.environ:
        how = f"lost the others: {_line(error)}" if lost else "failed:"
        print(f"ddpm: {rank_name()} {how}", file=sys.stderr)
        return lost
    return False


def _line(error: Exception) -> str:
    """The error as Python's tracebacks end, cut to one line."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]


def lost_peers(error: BaseException) -> bool:
    """Whether an error only says that other processes are gone: the consequence, not the cause."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in kinds or (isinstance(error, RuntimeError) and "gloo" in str(error))


def exit_process(code: int | str | None) -> NoReturn:
    """End with an exit code; one of several processes ends at once, all being written.

    Python's own end would take the interpreter from under the threads of torch.distributed: one
    that frees its last tensor meanwhile aborts the process.
    """
    if "RANK" in os.environ and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def record_failure(
    message: str, purpose: int | None, trace: str = "", *, lost: bool = False
) -> None:
    """Leave word for the launcher; `purpose` is the exit code of an end on purpose."""
    file = os.environ.get(ENDING)
    if not (is_worker() and file):
        return
    about = {"py_callstack": trace, "timestamp": str(int(time.time()))}  # as torch names them
    ending = {
        "message": {"message": message, "extraInfo": about},
        "host": socket.gethostname(),
        "moment": time.time(),
        "purpose": purpose,
        "lost": lost,
    }
    with suppress(OSError):  # a full disk may be what we tell of
        partial = Path(f"{file}.part")
        partial.write_text(json.dumps(ending), encoding="utf-8")
        partial.replace(file)  # whole or not at all: torch's agent reads it
