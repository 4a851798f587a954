"""The shell scripts of examples/: every `ddpm` in them is a command that could run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from ddpm_cli.cli.app import app
from tests.support.cli import Result

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.sh"))

TOOLS = {  # stand-ins for the commands that the scripts call
    "ddpm": 'printf "%s\\t" "$@" >> {log}; echo >> {log}',
    "srun": 'test "$1" = --cpus-per-task=16 && shift && exec "$@"',  # tasks may not inherit it
    "scontrol": "echo node07; seq 8 99999",  # more than a pipe's buffer: `head -1` breaks it
}
NODES = "--nnodes 2 --node-rank 1 --rdzv-endpoint"
ON_CLUSTERS = {
    "slurm_one_gpu": "--requeue",
    "slurm_one_node": "--nproc 4 --requeue",
    "slurm_nodes": f"--requeue --nproc 4 {NODES} node07:29500",
    "kubernetes": f"--nproc 4 {NODES} head:29500",
}


@pytest.fixture
def commands(tmp_path: Path, photos: Path) -> Callable[[Path], list[list[str]]]:
    """Run a script on a simulated cluster: the arguments of each `ddpm` that it calls."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for name, body in TOOLS.items():
        (tools / name).write_text("#!/bin/sh\n" + body.format(log=log))
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        **{"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_NAME": "cats"},
        **{"SLURM_JOB_NODELIST": "node[07-08]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"},
        **{
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "16",
            "MASTER_ADDR": "head",
            "MASTER_PORT": "29500",
        },
        **{"WORLD_SIZE": "2", "RANK": "1", "DATA": str(photos), "OUT": "runs/cats", "GPUS": "4"},
    }

    def call(script: Path) -> list[list[str]]:
        arguments = [photos] if script.stem in ON_CLUSTERS else []
        done = subprocess.run(
            [script, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]

    return call


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_commands_and_options_exist(
    script: Path, commands: Callable[[Path], list[list[str]]]
) -> None:
    called = commands(script)
    assert called
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, *arguments in called:
        known[name].make_context(name, arguments)  # raises where they cannot be parsed


@pytest.mark.usefixtures("planned_only")
@pytest.mark.parametrize("name", ON_CLUSTERS)
def test_cluster_scripts_start_a_training_run(
    name: str,
    commands: Callable[[Path], list[list[str]]],
    photos: Path,
    ddpm: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (script,) = (path for path in EXAMPLES if path.stem == name)
    (arguments,) = commands(script)
    assert " ".join(arguments) == f"train --data {photos} --out runs/cats {ON_CLUSTERS[name]}"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    result = ddpm(*arguments, "--device", "cpu", "--dry-run")
    assert (result.code, "everything is in order" in result.out) == (0, True), result.err
