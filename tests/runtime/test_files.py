"""JSON files and the lock of downloads."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.runtime import files, locks
from ddpm_cli.core.runtime.locks import lock_writing


def test_json_is_written_whole_and_finite(tmp_path: Path) -> None:
    path, document = tmp_path / "a" / "b.json", {"x": [1.5, None], "y": "é"}
    files.write_json(path, document)
    assert files.read_json(path) == document
    assert path.read_text() == json.dumps(document, indent=2) + "\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"x": math.nan})
    assert files.read_json(path) == document
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


def test_files_that_never_end_or_nest_without_end_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than"):
        files.read_bytes(Path("/dev/zero"), 100)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_json(tmp_path / "deep.json")
    (tmp_path / "marked.json").write_bytes("\ufeff[1]".encode())
    assert files.read_json(tmp_path / "marked.json") == [1]


def test_finite_replaces_nan_and_infinities_at_any_depth() -> None:
    value = {"a": (math.nan, 1.0), "b": [{"c": -math.inf}], "d": "nan", "e": 2, "f": True}
    assert files.finite(value) == {
        "a": [None, 1.0],
        "b": [{"c": None}],
        "d": "nan",
        "e": 2,
        "f": True,
    }
    assert files.dumps(files.finite(value), indent=None).count("null") == 2


HOLD = """
import sys
from pathlib import Path
from ddpm_cli.core.runtime.locks import lock_writing
with lock_writing(Path(sys.argv[1]), print):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_download_waits_for_another_process_and_says_so(tmp_path: Path) -> None:
    path, pipe, messages = tmp_path / "cifar10", subprocess.PIPE, []
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"

        def say(message: str) -> None:
            messages.append(message)
            other.kill()  # which frees its lock

        with lock_writing(path, say):
            assert messages == ["another process is downloading or opening cifar10; waiting for it"]
    with lock_writing(path, messages.append):
        assert len(messages) == 1


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("flock"), OSError(errno.ENOSYS, "no"), OSError(errno.ENOLCK, "no")],
)
def test_a_download_does_not_wait_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def unsupported(*args: Any, **kwargs: Any) -> bool:
        raise error

    monkeypatch.setattr("filelock.lock_descriptor", unsupported)
    with lock_writing(tmp_path / "file", pytest.fail):
        pass


def test_a_lock_file_that_cannot_be_created_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "cifar10"
    with pytest.raises(DdpmError, match=r"cannot write .*cifar10.lock: .*; set DDPM_CACHE"):  # noqa: SIM117
        with lock_writing(path, pytest.fail):
            pass


def test_a_lock_that_is_soon_free_is_not_worth_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of another rank, which opens the same data set at the same time."""
    answers = iter([False, False, True])
    monkeypatch.setattr(locks, "_acquire", lambda *args, **kwargs: next(answers))
    monkeypatch.setattr(locks, "_POLL", 0, raising=False)
    with lock_writing(tmp_path / "cifar10", pytest.fail):
        assert next(answers, None) is None
