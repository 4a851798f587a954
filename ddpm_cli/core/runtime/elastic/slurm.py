"""SLURM: its environment variables, and scontrol. Imports no torch."""

from __future__ import annotations

import os
import re
import subprocess

from ddpm_cli.core.config.fields import is_whole_number
from ddpm_cli.core.errors import DdpmError, UsageError


def attach() -> None:
    """Set torchrun's variables from SLURM's, where `srun` started several tasks.

    Variables that are set already stay. A batch script itself, which has a task number too, is a
    single process.
    """
    env = os.environ
    if "RANK" in env or "SLURM_PROCID" not in env:
        return
    in_step = "SLURM_STEP_NUM_TASKS" in env
    tasks = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)
    if tasks == 1 or (env.get("ENVIRONMENT") == "BATCH" and not in_step):
        return
    nodes = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    node_list = next((env[name] for name in nodes if env.get(name)), "localhost")
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=str(tasks))
    env.setdefault("LOCAL_RANK", env.get("SLURM_LOCALID", "0"))
    env.setdefault("MASTER_ADDR", first_host(node_list))
    job, step = (int(env.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    env.setdefault("MASTER_PORT", str(20_000 + (7 * job + step) % 10_000))  # the same for all tasks


def first_host(nodes: str) -> str:
    """The first host of SLURM's list of nodes: "gpu03" of "gpu[03-05,9],login"."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
    if re.fullmatch(r"[\w.-]+", host):
        return host
    return _scontrol("show", "hostnames", nodes).split()[0]


def is_task() -> bool:
    """Whether srun itself started this process, and not a launcher under srun."""
    env = os.environ
    same_rank = "SLURM_PROCID" in env and env.get("RANK") == env["SLURM_PROCID"]
    return same_rank and "TORCHELASTIC_RUN_ID" not in env


def end_time() -> float | None:
    """When SLURM will end this job, in seconds since 1970; None if unknown."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if is_whole_number(text) else None


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
