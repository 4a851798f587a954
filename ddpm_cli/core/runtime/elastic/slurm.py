"""What SLURM tells a process in its environment, and what can be asked of it. Without torch."""

from __future__ import annotations

import os
import re
import subprocess

from ddpm_cli.core.config.serialisation import is_number
from ddpm_cli.core.errors import DdpmError, UsageError


def attach() -> None:
    """Where `srun` started several of us, take torchrun's variables from SLURM's.

    Variables that are set already stay. A batch script itself, which SLURM gives a task number
    too, works alone.
    """
    env = os.environ
    if "RANK" in env or "SLURM_PROCID" not in env:
        return
    in_step = "SLURM_STEP_NUM_TASKS" in env
    tasks = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)
    if tasks == 1 or (env.get("ENVIRONMENT") == "BATCH" and not in_step):
        return
    nodes = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    found = next((env[name] for name in nodes if env.get(name)), "localhost")
    env.update(RANK=env["SLURM_PROCID"], WORLD_SIZE=str(tasks))
    env.setdefault("LOCAL_RANK", env.get("SLURM_LOCALID", "0"))
    env.setdefault("MASTER_ADDR", first_host(found))
    job, step = (int(env.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    env.setdefault("MASTER_PORT", str(20_000 + (7 * job + step) % 10_000))  # the same everywhere


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes, such as "gpu[03-05,9],login": "gpu03"."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
    if re.fullmatch(r"[\w.-]+", host):
        return host
    return _scontrol("show", "hostnames", nodes).split()[0]


def is_task() -> bool:
    """Whether srun itself started this process as one of several, and no launcher below it."""
    env = os.environ
    ours = "SLURM_PROCID" in env and env.get("RANK") == env["SLURM_PROCID"]
    return ours and "TORCHELASTIC_RUN_ID" not in env


def end_time() -> float | None:
    """When SLURM will end this job, in seconds since 1970; None where it does not say."""
    given = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(given) if is_number(given) else None


def check_requeue() -> None:
    """Refuse --requeue where there is no job to be put back."""
    if not os.environ.get("SLURM_JOB_ID"):
        raise UsageError("--requeue is for jobs of SLURM, and SLURM_JOB_ID is not set")


def requeue() -> None:
    """Put this job back into SLURM's queue, which ends it."""
    _scontrol("requeue", os.environ["SLURM_JOB_ID"])


def _scontrol(*command: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *command], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise DdpmError(f"scontrol {' '.join(command)} failed: {said}") from error
    return done.stdout
