"""Commands other than train that are stopped by a signal: one line, an exit code, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ddpm_cli.core.conversion import importing
from ddpm_cli.core.errors import DdpmError, PreemptedError, StoppedByUserError, WorkersFailedError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.runtime import devices, run_directory
from ddpm_cli.core.runtime.elastic import launch, stopping
from ddpm_cli.core.runtime.reporting import Silent
from tests.support import faults, ranks
from tests.support.cli import Result

Run = Callable[..., Result]

KEPT = "the images written stay; the same command without --overwrite draws the others"
NOTHING = "nothing was written, and the same command starts again"
NO_SCORE = "what was not scored yet is by the same command, with what is cached"

SIGNAL_LAUNCHER = """
import os, signal, threading
if os.environ.get("DDPM_LAUNCHER") == str(os.getppid()):
    from ddpm_cli.core.runtime import distributed

    def shard(count):
        if os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.{name})
        threading.Event().wait()

    distributed.shard = shard
"""
SIGNAL_ITSELF = """
import os, signal
from ddpm_cli.core.data import files
write_png = files.write_png

def write_and_signal(path, image, text=None):
    write_png(path, image, text)
    os.kill(os.getpid(), signal.SIGTERM)

files.write_png = write_and_signal
"""


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (("sample", "run"), KEPT),
        (("gif", "run"), NOTHING),
        (("nll", "run"), NO_SCORE),
        (("fid", "photos", "photos"), NO_SCORE),
        (("inception-score", "photos"), NO_SCORE),
        (("train-classifier", "--data", "shapes"), NOTHING),
        (("convert", "model.pt", "--out", "model.safetensors"), NOTHING),
    ],
)
def test_ctrl_c_is_one_line(
    ddpm: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], kept: str
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    for module, name in (
        (devices, "choose_device"),
        (importing, "convert"),
        (run_directory, "find_weights"),
        (default_sampling, "find_weights"),
    ):
        monkeypatch.setattr(module, name, interrupt)
    handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
    code, out, err = ddpm(*(photos if word == "photos" else word for word in command))
    assert (code, out, err) == (130, "", f"ddpm: stopped by SIGINT; {kept}\n")
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == handlers


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_leaves_images_that_the_same_command_completes(
    tiny_run: Callable[..., Path], ddpm: Run, processes: int
) -> None:
    tiny_run("run")
    command = ("sample", "run", "-n", 4, "--batch", 1, "--steps", 1, "--out", "images")
    ended = ranks.run(processes, SIGNAL_ITSELF, *command)
    assert [process.code for process in ended] == [75] * processes
    assert [process.err.count("ddpm: ") for process in ended] == [1, 0][:processes]
    assert f"ddpm: stopped by SIGTERM; {KEPT}\n" in ended[0].err
    assert not any("Traceback" in process.err for process in ended)
    assert len([*Path("images").glob("*.png")]) == processes
    assert ddpm(*command).code == 0
    assert len([*Path("images").glob("0*.png")]) == 4


@pytest.mark.parametrize(
    ("name", "command", "code", "kept"),
    [
        ("SIGINT", ("sample", "run", "-n", 2, "--steps", 1), 130, KEPT),
        pytest.param("SIGTERM", ("nll", "run", "-n", 2), 75, NO_SCORE, marks=pytest.mark.chaos),
    ],
)
def test_the_launcher_reports_a_stop_of_its_processes_once(
    tiny_run: Callable[..., Path],
    tmp_path: Path,
    name: str,
    command: tuple[object, ...],
    code: int,
    kept: str,
) -> None:
    tiny_run("run")
    injector = faults.FaultInjector(tmp_path / "site")
    (injector.folder / "sitecustomize.py").write_text(SIGNAL_LAUNCHER.format(name=name))
    started = faults.start((*command, "--nproc", 2), injector.environment())
    ended, out, err = faults.wait(started)
    assert (ended, out) == (code, ""), err
    assert err.endswith(f"\nddpm: stopped by {name}; {kept}\n"), err
    assert (err.count("ddpm: "), "Traceback" in err, "ignored" in err) == (1, False, False), err


@pytest.mark.parametrize(("killed_by", "stopped_by"), [(signal.SIGKILL, 0), (0, signal.SIGHUP)])
def test_what_is_kept_after_a_failure_of_workers(
    monkeypatch: pytest.MonkeyPatch, killed_by: int, stopped_by: int
) -> None:
    def run(agent: launch._Agent) -> Any:
        if stopped_by:
            agent.forward_signal(stopped_by)
        failures = {1: ProcessFailure(1, 1, -killed_by, "none")}
        return SimpleNamespace(is_failed=lambda: True, failures=failures)

    monkeypatch.setattr(launch._Agent, "run", run)
    with pytest.raises(WorkersFailedError) as raised:
        launch.launch(launch.LaunchConfig(2, kept=KEPT), [], Silent())
    assert str(raised.value).endswith(KEPT)
    assert raised.value.exit_code == (75 if stopped_by else 1)


class SignalsItsProcess:
    """Sends a signal to its process when it is destroyed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, StoppedByUserError), (signal.SIGTERM, PreemptedError)],
)
def test_a_signal_in_a_destructor_is_not_lost(
    capfd: pytest.CaptureFixture[str], number: int, error: type[DdpmError]
) -> None:
    """Python ignores what is raised there, with a traceback."""
    with stopping.catch_signals() as stop, pytest.raises(error), stop.raise_at_once():
        SignalsItsProcess(number)
        signal.sigtimedwait([], 60)
        pytest.fail("it continued")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("caught", [Exception, DdpmError])
def test_no_handler_of_errors_continues_after_a_signal(caught: type[Exception]) -> None:
    with stopping.catch_signals() as stop, pytest.raises(PreemptedError), stop.raise_at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except caught:
            pytest.fail("it continued")


def test_an_error_that_follows_a_signal_is_not_reported() -> None:
    """Such as the loss of another rank, which the signal ended before this one."""
    with stopping.catch_signals() as stop, pytest.raises(PreemptedError), stop.raise_at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError("gloo: connection closed by peer")


def test_ctrl_c_while_the_command_line_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *args):\n"
        "        if name == 'ddpm_cli.cli.app': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", "ddpm_cli", "--version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(("rank", "said"), [("0", 1), ("1", 0)])
def test_a_stop_between_steps_is_announced_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: str, said: int
) -> None:
    monkeypatch.setenv("RANK", rank)
    with stopping.catch_signals() as stop:
        stop.saves = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        err = capfd.readouterr().err
    assert err.count("Stopping: the current step is finished and a snapshot saved") == said
    assert err.count("Ctrl-C again ends at once, without saving") == said


def test_a_stop_before_the_first_step_promises_no_snapshot(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It comes while torch is imported, say; the message after it says the same."""
    with stopping.catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StoppedByUserError) as stopped, stop.raise_at_once():
            pytest.fail("it continued")
    err = capfd.readouterr().err
    assert "Stopping before the first step: there is nothing new to save; Ctrl-C again" in err
    assert "snapshot saved" not in err
    assert str(stopped.value) == (
        "stopped by SIGINT before the first step: nothing new was saved; the same command starts "
        "again, from the newest snapshot if there is one"
    )
