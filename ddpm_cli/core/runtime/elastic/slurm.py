"""SLURM: its environment variables, and scontrol. Imports no torch."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ddpm_cli.core.config.fields import is_whole_number
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runtime.elastic.variables import number, shown, value
from ddpm_cli.core.runtime.reporting import Reporter, Warned

_CGROUP = Path("/proc/self/cgroup")
_INTERACTIVE_STEP = str(0xFFFFFFFA)  # the step of salloc's shell, SLURM_INTERACTIVE_STEP
_SHELLS = ("interactive", "bash", "zsh", "sh")  # names of jobs that are shells


@dataclass(frozen=True)
class Task:
    """One of several tasks of `srun`."""

    rank: int
    local_rank: int
    tasks: int
    port: int  # at which they meet, the same for all of a step


def task() -> Task | None:
    """Which task of `srun` this process is; None where srun did not start several.

    A batch script itself, which has a task number too, is a single process, and so is what is
    typed in a shell that srun started in a terminal. Raises UsageError for numbers that are none.
    """
    tasks = _tasks()
    if tasks == 1 or _is_typed_in_a_shell():
        return None
    rank = number("SLURM_PROCID", 0)
    if rank >= tasks:
        raise UsageError(
            f"{shown('SLURM_PROCID')}, but srun started {tasks} tasks ({shown(_tasks_variable())})"
        )
    job, step = number("SLURM_JOB_ID", 0), number("SLURM_STEP_ID", 0)
    return Task(rank, number("SLURM_LOCALID", 0), tasks, 20_000 + (7 * job + step) % 10_000)


def tasks_of_shell() -> int:
    """The number of tasks of the step in whose shell this command was typed; 1 elsewhere."""
    return _tasks() if _is_typed_in_a_shell() else 1


def first_task_host() -> str:
    """The host of task 0. Raises UsageError where SLURM's variables do not say."""
    nodes = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    known = next((name for name in nodes if value(name)), None)
    if known is None:
        raise UsageError(
            f"{shown('SLURM_PROCID', _tasks_variable())}, but SLURM_JOB_NODELIST is not set; unset "
            "SLURM_PROCID to run one process by itself"
        )
    try:
        return first_host(os.environ[known])
    except DdpmError as error:
        raise UsageError(f"{shown(known)}: {error}; MASTER_ADDR may name the host") from error


def _tasks_variable() -> str:
    return "SLURM_STEP_NUM_TASKS" if value("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"


def _tasks() -> int:
    """The number of tasks that were started together with this process."""
    variable = _tasks_variable()
    in_script = value("ENVIRONMENT") == "BATCH" and variable == "SLURM_NTASKS"
    if value("SLURM_PROCID") is None or in_script:
        return 1
    return max(1, number(variable, 1))


def _is_typed_in_a_shell() -> bool:
    """Whether this is a command in a shell of `srun --pty` or salloc, and not a task itself."""
    if value("SLURM_TASK_PID") == str(os.getpid()):
        return False
    if value("SLURM_STEP_ID") == _INTERACTIVE_STEP or value("SLURM_PTY_PORT"):
        return True
    return value("SLURM_STEP_NUM_TASKS") is None and value("SLURM_JOB_NAME") in _SHELLS


def first_host(nodes: str) -> str:
    """The first host of SLURM's list of nodes: "gpu03" of "gpu[03-05,9],login"."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
    if re.fullmatch(r"[\w.-]+", host):
        return host
    hosts = _scontrol("show", "hostnames", nodes).split()
    if not hosts:
        raise DdpmError("scontrol show hostnames names none")
    return hosts[0]


def is_task() -> bool:
    """Whether srun itself started this process, and not a launcher under srun."""
    env = os.environ
    same_rank = "SLURM_PROCID" in env and env.get("RANK") == env["SLURM_PROCID"]
    return same_rank and "TORCHELASTIC_RUN_ID" not in env


def end_time(started: float, reporter: Reporter) -> float | None:
    """When SLURM will end this job, in seconds since 1970; None if unknown.

    A time that was past when the command `started`, or that belongs to no job of this process, was
    left behind by another job: it is ignored, with a notice.
    """
    name = "SLURM_JOB_END_TIME"
    text = value(name)
    if text is None:
        return None
    end = float(text) if is_whole_number(text) else None
    if end is None:
        problem = "is no time"
    elif value("SLURM_JOB_ID") is None:
        problem = "is of another job: SLURM_JOB_ID is not set"
    elif end <= max(started, _start_time()):
        problem = "is past, so it is of another job or that job was extended"
    elif (job := _job_of_process()) not in (None, value("SLURM_JOB_ID")):
        problem = f"is of job {value('SLURM_JOB_ID')}, and this process belongs to job {job}"
    else:
        return end
    reporter.say(Warned(f"{shown(name)} is ignored, as it {problem}; --time-limit sets one"))
    return None


def _start_time() -> float:
    text = value("SLURM_JOB_START_TIME") or ""
    return float(text) if is_whole_number(text) else 0.0


def _job_of_process() -> str | None:
    """The job whose control group the kernel has this process in; None where that is unknown."""
    with suppress(OSError):
        found = re.search(r"slurm.*/job_(\d+)", _CGROUP.read_text(encoding="utf-8"))
        return found[1] if found else None
    return None


def check_requeue() -> None:
    """Raise UsageError for --requeue outside a SLURM job."""
    if not os.environ.get("SLURM_JOB_ID"):
        raise UsageError("--requeue is for jobs of SLURM, and SLURM_JOB_ID is not set")


def requeue() -> None:
    """Requeue this job, which ends it. Raises DdpmError where scontrol fails."""
    _scontrol("requeue", os.environ["SLURM_JOB_ID"])


def _scontrol(*command: str) -> str:
    try:
        completed = subprocess.run(
            ["scontrol", *command], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise DdpmError(f"scontrol {' '.join(command)} failed: {reason}") from error
    return completed.stdout
