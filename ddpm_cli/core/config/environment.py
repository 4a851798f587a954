"""The environment variables that are read: ours, declared once, and those of others we follow.

An option's value is that of the command line, else of its variable, else of the --config file, else
of the preset. No variable changes what is trained or drawn but for rounding: a setting of that kind
that a shell has forgotten would be found in no command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ddpm_cli.core.config.fields import did_you_mean, near_names

RUNS, CACHE, DATA = "DDPM_RUNS", "DDPM_CACHE", "DDPM_DATA"
QUIET, TRACEBACK = "DDPM_QUIET", "DDPM_TRACEBACK"

_PREFIX = "DDPM_"
_ON, _OFF = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
SWITCH = (*_ON, *_OFF)  # the values of a variable that is a switch


@dataclass(frozen=True)
class Variable:
    """An environment variable that users set."""

    name: str
    meaning: str
    default: str
    option: str | None = None  # that it sets, in all commands which have it


VARIABLES = (
    Variable(
        RUNS,
        "The folder to which runs are written, and in which commands look for the newest one.",
        "`runs` in the working folder",
    ),
    Variable(
        CACHE,
        "The folder of what can be computed or downloaded again: decoded images, weights.",
        "`~/.cache/ddpm`",
    ),
    Variable(
        DATA,
        "The folder in which data sets by name are looked for, and to which they are downloaded.",
        "`datasets` in the cache",
        "--data-root",
    ),
    Variable("DDPM_DEVICE", "The device: auto, cpu, cuda or mps.", "`auto`", "--device"),
    Variable(
        "DDPM_PRECISION",
        "Arithmetic of the network that is trained or sampled: auto, fp32 or bf16. Networks that "
        "score images take --precision alone, as scores of another precision do not compare.",
        "`auto`",
        "--precision",
    ),
    Variable("DDPM_NPROC", "Processes on this machine.", "1", "--nproc"),
    Variable(
        "DDPM_COMPILE",
        "Compile the network with torch.compile (1), or do not (0).",
        "where it pays",
        "--compile",
    ),
    Variable(
        "DDPM_TIME_LIMIT",
        "Save and stop before this time ends: 4h, 90m or seconds.",
        "that of the SLURM job",
        "--time-limit",
    ),
    Variable(
        "DDPM_LOG",
        "Experiment trackers that follow a training, by commas.",
        "none",
        "--log",
    ),
    Variable(QUIET, "Warnings, errors and the result only (1).", "0", "--quiet"),
    Variable(TRACEBACK, "Where an error arose in our code (1).", "0", "--traceback"),
)

OF_OTHERS = {
    "XDG_CACHE_HOME": "The folder of the user's caches; ours is `ddpm` in it.",
    "TMPDIR": "Temporary files; the cache, too, where there is no home folder.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that there are, for this program.",
    "OMP_NUM_THREADS": "Threads of arithmetic on a CPU, of each process.",
    "OMP_WAIT_POLICY": "How these threads wait, as GOMP_SPINCOUNT and KMP_BLOCKTIME.",
    "RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT": "Set by torchrun and its like: the "
    "processes that train together, and where they meet.",
    "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODELIST, …": "The same, where srun started "
    "several tasks.",
    "SLURM_JOB_END_TIME": "When the job ends: training saves and stops before.",
    "GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME": "The network interface by which processes meet.",
    "HF_TOKEN, HF_HOME, HF_HUB_OFFLINE": "Of the Hugging Face hub: the account, its cache, and no "
    "network.",
    "HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE": "The way to the network, for downloads.",
    "NO_COLOR, FORCE_COLOR, TERM, COLUMNS": "Colours, and the terminal: TERM=dumb has plain lines.",
    "MPLBACKEND, MPLCONFIGDIR": "Not followed: plots look the same everywhere.",
}
"""Variables of other programs that have an effect here, and which."""

_BY_OPTION = {variable.option: variable.name for variable in VARIABLES if variable.option}
_NAMES = [variable.name for variable in VARIABLES]
_OURS_ALONE = ("DDPM_LAUNCHER", "DDPM_STARTED")  # between our processes


def variable_of(option: str, default: object) -> str | None:
    """The variable that sets an option of this default; None without one.

    Scores have a precision of their own, and keep it.
    """
    if option == "--precision" and default not in (None, "auto"):
        return None
    return _BY_OPTION.get(option)


def value(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """A variable's value; None where it is not set or empty, which shells hardly distinguish."""
    return environment.get(name, "").strip() or None


def is_on(name: str) -> bool:
    """Whether a variable that is a switch is set, and to something else than 0."""
    return (value(name) or "0").lower() not in _OFF


def mistyped(environment: Mapping[str, str]) -> list[str]:
    """A notice of each variable whose name is nearly one of ours."""
    notices = []
    for name in environment:
        stem = name.upper().removeprefix(_PREFIX)
        if stem == name.upper() or name in _NAMES or name in _OURS_ALONE:
            continue
        if near := near_names(stem, [known.removeprefix(_PREFIX) for known in _NAMES]):
            told = did_you_mean(_PREFIX + stem, [_PREFIX + other for other in near])
            notices.append(f"the environment variable {name} is not one of ddpm's{told}")
    return notices
