"""Every option and every environment variable with values that no one meant.

A command either does its work or ends with one line and a nonzero code: no traceback, no hang, no
success without a result. The whole runs with `pytest -m fuzz`; the default suite takes a sample.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from ddpm_cli.cli.app import app
from tests.support import cli
from tests.support.cli import Result

SECONDS = 120  # of one call: a limit against hangs on a busy machine, not a measure of speed
IN_DEFAULT_SUITE = 2  # values per command

WHOLE_NUMBERS = ["-1", "0", "1e3", "1" + "0" * 20, str(2**63 - 1), "0x10", "٣", "1_0"]
NUMBERS = ["-1", "0", "nan", "inf", "-inf", "1e400", "1e308", "1e-308", "1e20", "1,2", "½"]
TEXTS = ["", " ", "é", "a" * 5000, "%s{}", "1e999", "-", "--json", "\udcff", "a\nb", "[red]", "1:2"]
FILES = ["", " ", "none/at/all", "/dev/null", "/dev/full", "/dev/zero", ".", "~nobody-at-all/x"]
FILES += ["/proc/self/mem", "a" * 5000, "page.safetensors", "list.json", "\udcff", "a\nb"]

OF_LAUNCHERS = [
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "GROUP_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_MAX_RESTARTS", "DDPM_LAUNCHER",
    "TORCH_DISTRIBUTED_DEBUG", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
    "SLURM_JOB_ID", "SLURM_JOB_END_TIME", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID",
    "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_NODELIST",
]  # fmt: skip
OF_MACHINES = [
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "COLUMNS", "LINES", "TERM",
    "NO_COLOR", "FORCE_COLOR", "LANG", "LC_ALL", "TZ", "USER", "TORCH_CPP_LOG_LEVEL",
    "MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC",
]  # fmt: skip
OF_FOLDERS = ["HOME", "TMPDIR", "DDPM_CACHE", "XDG_CACHE_HOME", "PYTHONPATH"]
VALUES = ["", " ", "nonsense", "-1", "99999999999999999999", "\udcff"]
FOLDERS = ["", "none/at/all", "/dev/null", "/proc/none", "~nobody-at-all", "a" * 5000, "\udcff"]


class Case(NamedTuple):
    """One option with one value."""

    command: str
    option: str
    value: str


def _values(metavar: str) -> list[str]:
    if metavar == "PATH":
        return FILES
    return {"INT": WHOLE_NUMBERS + TEXTS[:2], "FLOAT": NUMBERS + TEXTS[:2]}.get(metavar, TEXTS)


def _cases() -> dict[str, list[Case]]:
    """All cases of each command, in an order that is random and always the same."""
    group: Any = typer.main.get_command(app)
    cases = {}
    for name, command in group.commands.items():
        if name in ("fetch-weights", "pull"):  # need the network; tests/hub has a hub's stand-in
            continue
        cases[name] = [
            Case(name, param.opts[0], value)
            for param in command.params
            if param.opts[0].startswith("-") and not getattr(param, "is_flag", False)
            for value in _values(str(param.metavar))
        ]
        random.Random(zlib.crc32(name.encode())).shuffle(cases[name])
    return cases


CASES = _cases()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, written_photos: Path) -> Path:
    """A trained run of the tiny network."""
    folder = tmp_path_factory.mktemp("trained")
    network = {**cli.TINY["network"], "patch": 1, "resample": "conv", "groups": 4}
    (folder / "tiny.json").write_text(json.dumps(cli.TINY | {"network": network}))
    cli.stdout_of(
        cli.start("train", "--data", written_photos, "--config", folder / "tiny.json",
                  "--images", 16, "--ema-every", 8, "--out", folder / "run", "--device", "cpu")
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def calls(run: Path, photos: Path, tiny: Path, trained: Path, tmp_path: Path) -> dict[str, list]:
    """A call of each command that succeeds within a second or two."""
    Path("page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    Path("list.json").write_text("[" * 100_000)
    out = tmp_path / "written"
    few = ["-n", 2, "--steps", 2, "--device", "cpu"]
    return {
        "doctor": ["doctor", "--quick"],
        "data": ["data", photos, "--out", out.with_suffix(".png")],
        "train": ["train", "--data", photos, "--config", tiny, "--images", 16, "--out", out,
                  "--preview", 0],
        "distill": ["distill", run, "--data", photos, "--images", 16, "--out", tmp_path / "student",
                    "--preview", 0],
        "sample": ["sample", run, "--out", tmp_path / "samples", *few],
        "sweep": ["sweep", run, "--steps", "1,2", "-n", 4, "--features", trained],
        "gif": ["gif", run, "--out", out.with_suffix(".gif"), *few, "--seconds", 1],
        "fid": ["fid", photos, run, "--features", trained, "-n", 4, "--steps", 2],
        "memorisation": ["memorisation", run, "--features", trained, "--train", photos / "dark",
                         "--held-out", photos / "light", "-n", 4, "--steps", 2],
        "inception-score": ["inception-score", photos, "--features", trained, "--splits", 2],
        "train-classifier": ["train-classifier", "--data", photos, "--out", out.with_suffix(
            ".safetensors"), "--epochs", 1, "--batch", 8],
        "nll": ["nll", run, "--data", photos, "-n", 2],
        "convert": ["convert", run, "--to", "diffusers", "--out", tmp_path / "pipeline"],
        "push": ["push", run, "someone/photos", "--dry-run"],
        "invert": ["invert", run, photos / "dark", "--steps", 2, "--out", tmp_path / "inverted"],
        "interpolate": ["interpolate", run, 1, 2, "-n", 3, "--steps", 2, "--out",
                        tmp_path / "between"],
        "ema": ["ema", run, "--sigma-rel", 0.08, "--out", tmp_path / "averages"],
        "report": ["report", run, "--out", out.with_suffix(".html")],
        "inspect-schedule": ["inspect-schedule", "--timesteps", 50],
        "inspect": ["inspect", run],
        "runs": ["runs", run],
        "runs compare": ["runs", "compare", run, shutil.copytree(run, tmp_path / "other"),
                         "-n", 1, "--steps", 2, "--out", tmp_path / "compared"],
        "runs clean": ["runs", "clean", tmp_path / "other"],
    }  # fmt: skip


@contextmanager
def _limit(case: object) -> Iterator[None]:
    """Fail where a call takes longer than any should."""

    def expire(*_: object) -> None:
        pytest.fail(f"{case} hangs")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _with(call: list, case: Case) -> list[object]:
    """The call with the option set, in place of what it had."""
    words = list(call)
    if case.option in words:
        place = words.index(case.option)
        del words[place : place + 2]
    joined = f"{case.option}={case.value}" if case.option.startswith("--") else None
    return [*words, joined] if joined else [*words, case.option, case.value]


def _check(case: object, result: Result) -> None:
    text = result.out + result.err
    assert "Traceback" not in text, (case, text)
    if result.code:
        last = result.err.strip().splitlines()[-1]
        assert last.startswith("ddpm: "), (case, result)
        assert len(last) < 1200, (case, result)
    else:
        assert result.out.strip(), (case, result)


@pytest.mark.parametrize("command", sorted(CASES))
def test_options(ddpm: Callable[..., Result], calls: dict[str, list], command: str) -> None:
    for case in CASES[command][:IN_DEFAULT_SUITE]:
        with _limit(case):
            _check(case, ddpm(*_with(calls[command], case)))


def test_the_calls_succeed(ddpm: Callable[..., Result], calls: dict[str, list]) -> None:
    for words in calls.values():
        result = ddpm(*words)
        assert result.code == 0, (words, result.err)


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "case", [case for cases in CASES.values() for case in cases], ids=lambda case: case.option
)
def test_every_option(ddpm: Callable[..., Result], calls: dict[str, list], case: Case) -> None:
    with _limit(case):
        _check(case, ddpm(*_with(calls[case.command], case)))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", OF_LAUNCHERS + OF_MACHINES + OF_FOLDERS)
def test_every_environment_variable(calls: dict[str, list], name: str) -> None:
    commands = ["sample"] if name in OF_MACHINES else ["sample", "train"]
    for number, value in enumerate(FOLDERS if name in OF_FOLDERS else VALUES):
        for command in commands:
            words = _with(calls[command], Case(command, "--out", f"{command}-{number}"))
            process = cli.start(*words, **{name: value})
            out, err = process.communicate(timeout=SECONDS)
            _check((name, value), Result(process.returncode, out, err))
