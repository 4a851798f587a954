"""What is tried in processes of its own: several processes together, and compiling."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ddpm_cli.core.doctor.findings import NOTE, OK, Finding

SECONDS = 90.0  # of a trial, at most
_PACKAGE = Path(__file__).parents[3]  # the folder that ddpm_cli lies in
_SUM = """
import sys, torch
from ddpm_cli.core.runtime import devices, distributed
device = devices.choose_device(sys.argv[1])
with distributed.process_group(device):
    total = distributed.all_reduce_sum(torch.ones(1) * (distributed.rank() + 1))
    if device.type == "cuda":
        total = distributed.maximum(total.to(device)).cpu()
    sys.exit(0 if total.item() == 3 else "a wrong sum")
"""
_COMPILE = """
import sys, torch
x = torch.linspace(0, 1, 64, device=sys.argv[1])
f = torch.compile(lambda x: (x.sin() + x.cos()).exp())
sys.exit(0 if torch.allclose(f(x), (x.sin() + x.cos()).exp()) else "a wrong result")
"""
_COMPILERS = ("c++", "g++", "clang++", "cl")


def processes() -> Sequence[Finding]:
    """Two processes that add numbers, over gloo on the CPU and NCCL on two GPUs."""
    import torch

    pairs = [("cpu", "gloo")]
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        pairs.append(("cuda", "nccl"))
    return [_two_processes(device, backend) for device, backend in pairs]


def compiling() -> Sequence[Finding]:
    """A small function compiled by torch.compile."""
    import torch

    found = [name for name in (os.environ.get("CXX"), *_COMPILERS) if name and shutil.which(name)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    without = "training and sampling go on without compiling; --no-compile leaves the try out"
    if not found and device == "cpu":
        return [Finding("compile", OK, "no C++ compiler, which the CPU needs for it", without)]
    with tempfile.TemporaryDirectory(prefix="ddpm-", ignore_cleanup_errors=True) as cache:
        failed = _run([(_COMPILE, device, {"TORCHINDUCTOR_CACHE_DIR": cache})])
    if failed:
        return [Finding("compile", NOTE, f"torch.compile fails on {device}: {failed}", without)]
    by = f" with {found[0]}" if found else ""
    return [Finding("compile", OK, f"torch.compile works on {device}{by}")]


def _two_processes(device: str, backend: str) -> Finding:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    failed = _run(
        [(_SUM, device, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    )
    if failed:
        advice = "--nproc 1 needs none of it; GLOO_SOCKET_IFNAME=lo, or a firewall, may be why"
        text = f"two processes do not meet over {backend}: {failed}"
        return Finding("processes", NOTE, text, advice)
    return Finding("processes", OK, f"two processes work together over {backend} on {device}")


def _run(programs: Sequence[tuple[str, str, Mapping[str, str]]]) -> str:
    """Run programs of Python at once, each with an argument and variables; why one failed."""
    path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, argument],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )
        for code, argument, variables in programs
    ]  # fmt: skip
    try:
        return _failure(started)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _failure(started: Sequence[subprocess.Popen[str]]) -> str:
    """Why the first that fails does, while the others may wait for it; "" if none does."""
    with ThreadPoolExecutor(len(started)) as pool:
        waiting = {pool.submit(each.communicate, timeout=SECONDS): each for each in started}
        try:
            for ended in as_completed(waiting):
                told, code = ended.result()[1], waiting[ended].returncode
                if code:
                    return (told.strip().splitlines() or [f"exit code {code}"])[-1][:300]
        except subprocess.TimeoutExpired:
            return f"no answer in {SECONDS:g} s"
        finally:
            for process in started:
                process.kill()  # else the pool would wait for it
    return ""
