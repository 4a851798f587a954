"""Versions, variables, cores, memory, devices and precision."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence

from ddpm_cli.core.config import environment
from ddpm_cli.core.doctor.findings import NOTE, OK, PROBLEM, Finding
from ddpm_cli.core.runtime import threads
from ddpm_cli.core.runtime.files import in_words

_LIBRARIES = ("torchvision", "numpy", "scipy", "pillow", "safetensors", "typer", "rich")
EXTRAS = {  # packages, their extra, and what it is for
    ("transformers", "sentencepiece"): ("text", "frozen text encoders"),
    ("pyarrow",): ("parquet", "data sets in Parquet files"),
    ("av",): ("video", "films as .mp4"),
    ("tensorboard", "wandb", "trackio", "mlflow-skinny"): ("log", "experiment trackers"),
    ("huggingface_hub",): ("hub", "ddpm push and pull"),
}
_LITTLE = 2_000_000_000  # bytes of free memory


def versions() -> Sequence[Finding]:
    """Of ddpm, Python and the libraries."""
    ours = sys.modules["ddpm_cli"].__version__
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    libraries = ", ".join(f"{name} {_version(name) or 'missing'}" for name in _LIBRARIES)
    missing = [name for name in _LIBRARIES if _version(name) is None]
    advice = f"pip install {' '.join(missing)}" if missing else ""
    return [
        Finding("ddpm", OK, f"{ours}; {system}"),
        Finding("libraries", PROBLEM if missing else OK, libraries, advice),
    ]


def extras() -> Sequence[Finding]:
    """The optional packages: which are there, and what the others would be for."""
    present: list[tuple[str, str, list[str]]] = []
    missing: list[tuple[str, str, list[str]]] = []
    for packages, (extra, purpose) in EXTRAS.items():
        found = [f"{name} {version}" for name in packages if (version := _version(name))]
        (present if found else missing).append((extra, purpose, found))
    here = "; ".join(f"{extra}: {', '.join(found)}" for extra, _, found in present)
    findings = [Finding("extras", OK, here or "none installed")]
    if missing:
        absent = "; ".join(f"{extra}: {purpose}" for extra, purpose, _ in missing)
        names = ",".join(extra for extra, _, _ in missing)
        advice = f'where you need them: pip install "ddpm-cli[{names}]"'
        findings.append(Finding("extras", OK, f"not installed: {absent}", advice))
    return findings


def variables() -> Sequence[Finding]:
    """The environment variables of ours that are set, and those that may be meant to be."""
    given = [f"{v.name}={environment.value(v.name)}" for v in environment.VARIABLES
             if environment.value(v.name)]  # fmt: skip
    findings = [Finding("variables", OK, ", ".join(given) or "no DDPM_* variable is set")]
    findings += [Finding("variables", NOTE, text) for text in environment.mistyped(os.environ)]
    return findings


def cores() -> Sequence[Finding]:
    """Those of the machine, and those that this process may use."""
    there, usable = os.cpu_count() or 1, threads.cores()
    text = f"{usable} of {there} cores, by affinity and control group"
    given = [f"{name}={os.environ[name]}" for name in threads.COUNTING if os.environ.get(name)]
    if given:
        text += f"; {', '.join(given)}"
    others = threads.used_by_others()
    if others >= 0.5:
        fewer, already = max(1, round(usable - others)), os.environ.get("OMP_NUM_THREADS", "")
        done = already.isdecimal() and 0 < int(already) <= fewer
        advice = "" if done else f"OMP_NUM_THREADS={fewer} as long as that lasts"
        busy = f"{text}; other processes use about {others:.1f} of them"
        return [Finding("cores", NOTE if advice else OK, busy, advice)]
    return [Finding("cores", OK, text)]


def memory() -> Sequence[Finding]:
    """Main memory: what there is, within the limit of a container, and what is free."""
    import torch

    from ddpm_cli.core.runtime import devices

    total, free = devices.total_memory(torch.device("cpu")), devices.free_memory()
    if total is None or free is None:
        return [Finding("memory", OK, "this system does not say how much there is")]
    text = f"{in_words(free)} free of {in_words(total)}"
    if free < _LITTLE:
        return [Finding("memory", NOTE, text, "smaller --microbatch, or end other programs")]
    return [Finding("memory", OK, text)]


def gpus() -> Sequence[Finding]:
    """The devices that torch sees, their memory, and the precision that they have."""
    import torch

    built = f"torch {torch.__version__}, " + (
        f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    )
    if torch.cuda.is_available():
        driver = _driver()
        findings = [Finding("devices", OK, built + (f", driver {driver}" if driver else ""))]
        return findings + [_gpu(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [Finding("devices", OK, f"{built}; a Metal GPU (--device mps; auto takes the CPU)")]
    if driver := _driver():
        advice = "install a torch built for CUDA (pytorch.org), or unset CUDA_VISIBLE_DEVICES"
        text = f"{built}; there is a GPU (driver {driver}) that torch does not see"
        return [Finding("devices", NOTE, text, advice)]
    advice = "enough for the presets shapes, mnist and small; a larger one needs a GPU"
    return [Finding("devices", OK, f"{built}; no GPU: the CPU, in fp32", advice)]


def _gpu(index: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    native = (properties.major, properties.minor) >= (8, 0)
    text = (
        f"{properties.name}, {in_words(free)} free of {in_words(total)}, compute capability "
        f"{properties.major}.{properties.minor}, bf16 {'native' if native else 'not native'}"
    )
    if not native:
        return Finding(f"cuda:{index}", NOTE, text, "--precision auto takes fp32 here")
    if free < total / 2:
        return Finding(f"cuda:{index}", NOTE, text, "another program uses it (nvidia-smi)")
    return Finding(f"cuda:{index}", OK, text)


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
