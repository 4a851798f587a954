"""Mistakes on the command line are one line that says how to write it; `~` is the home folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ddpm_cli.cli.app import app
from ddpm_cli.core.config import paths
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import cache, downloads
from tests.support.cli import Result

COMMANDS = sorted(
    str(command.name or command.callback.__name__).replace("_", "-")
    for command in app.registered_commands
    if command.callback is not None
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sample --steps 10 --steps 20", "--steps is given 2 times; it takes one value"),
        ("train --data a --data b", "--data is given 2 times"),
        ("fid a b --weights x --weights y", "--weights is given 2 times"),
        ("train --flip --no-flip", "--flip or its opposite is given twice"),
        ("sample --seed=", "--seed is empty"),
        ("train --out=", "--out is empty"),
        ("sample --out --json", "--out needs a value, and the option --json follows it"),
        ("gif --guidance 1,2", "--guidance takes one value, a number, not '1,2'"),
        ("train --images 1e6", "--images takes a whole number, such as 1000000, not '1e6'"),
        ("train --lr nan", "--lr takes a number, not 'nan'"),
        ("train-classifier --lr inf", "--lr"),
        ("gif --seconds inf", "--seconds must be at least 0.1 and finite, not inf"),
        ("gif --hold=-1", "--hold must be at least 0"),
        ("nll -n 0", "-n must be at least 1, not 0"),
        ("train --size 32x", "--size '32x' should be pixels"),
        ("train photos/", "images are given by --data photos/"),
        ("nll run photos/", "images are given by --data photos/"),
        ("train --data a.png b.png c.png", "'b.png' and 1 more: --data takes one folder"),
        ("train --schedule cosin", "did you mean cosine?"),
        ("inspect-schedule --schedule linear,cosin", "did you mean cosine?"),
        ("train --preset cifar-10", "did you mean cifar10 or "),
        ("train --device cdua", "did you mean cuda?"),
        ("train --blocks ress", "did you mean res?"),
        ("sample --sampler Heun", "did you mean heun?"),
        ("sample --spacing karas", "did you mean karras?"),
        ("fid a b --protocol cleanfid", "did you mean clean-fid?"),
        ("gif run film.gif", "unexpected argument 'film.gif'; ddpm gif takes RUN"),
        ("fid real", "Missing argument"),
        ("sampel", "did you mean sample?"),
        ("sample --stepz 3", "--steps"),
        ("--versoin", "--version"),
    ],
)
def test_mistakes_are_one_line(ddpm: Callable[..., Result], arguments: str, message: str) -> None:
    result = ddpm(*arguments.split())
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_commands_that_are_suggested_are_quoted_for_the_shell(
    ddpm: Callable[..., Result], tiny: Path, photos: Path
) -> None:
    result = ddpm("train", "my photos/")
    assert result.err.endswith("images are given by --data 'my photos/'\n")
    run = "runs of mine/it's $HOME"
    result = ddpm("train", "--data", photos, "--config", tiny, "--images", 8, "--out", run)
    line = next(line for line in result.out.splitlines() if line.startswith("Next: "))
    assert shlex.split(line) == ["Next:", "ddpm", "sample", run, "--guidance", "2"]
    changed = ddpm("train", "--data", photos, "--config", tiny, "--lr", 1, "--out", run)
    assert f"--out {shlex.quote(run)}; a new run takes --resume never" in changed.err


def test_a_message_is_one_line_whatever_the_names_in_it(ddpm: Callable[..., Result]) -> None:
    result = ddpm("sample", "a\nb")
    assert (result.code, result.err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("option", "file"), [("--fid-weights", "w.pth"), ("--fid-features", "c.safetensors")]
)
def test_scores_of_a_training_name_its_own_options(
    ddpm: Callable[..., Result], tiny: Path, photos: Path, option: str, file: str
) -> None:
    given = ("--data", photos, "--config", tiny, "--fid-every", 8, option, file)
    result = ddpm("train", "--dry-run", *given)
    assert (result.code, f"{option} {file}: no such file" in result.err) == (1, True)


def test_without_a_network_the_option_for_the_weights_is_named(
    monkeypatch: pytest.MonkeyPatch,
    ddpm: Callable[..., Result],
    tiny: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    def offline(url: str) -> NoReturn:
        raise OSError("no network")

    monkeypatch.setattr(downloads, "_https", offline)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    result = ddpm("train", "--dry-run", "--data", photos, "--config", tiny, "--fid-every", 8)
    assert (result.code, "or pass --fid-weights FILE" in result.err) == (1, True)


def test_options_that_may_repeat_still_may(ddpm: Callable[..., Result]) -> None:
    result = ddpm("sample", "nowhere", "--class", "0", "--class", "1", "--json", "--json")
    assert (result.code, result.err) == (1, "ddpm: nowhere: no such run or weights file\n")


@pytest.mark.parametrize(
    "arguments",
    ["train --out ~nosuchuser/x", "train --resume ~nosuchuser/x", "train --data ~nosuchuser/x",
     "sample ~nosuchuser/x", "fid ~nosuchuser/x b", "inception-score ~nosuchuser/x",
     "gif --out=~nosuchuser/x.gif", "inspect-schedule --plot ~nosuchuser/x.png",
     "convert a --out ~nosuchuser/x", "fetch-weights --to ~nosuchuser/x"],
)  # fmt: skip
def test_the_home_of_nobody_is_an_error(ddpm: Callable[..., Result], arguments: str) -> None:
    result = ddpm(*arguments.split())
    assert result.code == 2
    assert "~nosuchuser/x" in result.err and "no user 'nosuchuser'" in result.err
    assert list(Path().iterdir()) == []


def test_a_path_of_every_option_may_begin_with_the_home(
    ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ddpm("inspect-schedule", "--plot=~/a/plot.png", "--timesteps", 10).code == 0
    assert (tmp_path / "home" / "a" / "plot.png").is_file()
    assert list(Path().iterdir()) == []
    result = ddpm("train", "--resume=~/x.pt", "--out=~/run", "--config=~/c.json")
    assert (result.code, result.out) == (1, "")
    assert f"{tmp_path}/home" in result.err


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DDPM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert paths.home() is None
    with pytest.raises(UsageError, match="HOME is not set"):
        paths.expanded("~/x")
    root = cache.cache_root()
    assert root.parent == tmp_path and root.stat().st_mode & 0o777 == 0o700
    assert str(root) in (cache.notice() or "")


def test_a_cache_that_is_configured_needs_no_notice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache.notice() is None
    monkeypatch.delenv("DDPM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (cache.cache_root(), cache.notice()) == (tmp_path / "ddpm", None)


def test_help_of_many_options_has_panels(
    ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        panels = [panel.splitlines() for panel in ddpm(command, "--help").out.split("╭─ ")[1:]]
        sizes = {
            panel[0].split(" ─")[0]: sum(line.startswith(("│ --", "│    --")) for line in panel)
            for panel in panels
        }
        assert sizes["Options"] <= 10, command
        assert sum(sizes.values()) <= 10 or len(sizes) > 2, command


@pytest.mark.parametrize("width", [66, 80])
def test_help_cuts_no_option_short(
    ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """A cut name ends in an ellipsis."""
    monkeypatch.setenv("COLUMNS", str(width))
    for command in COMMANDS:
        result = ddpm(command, "--help")
        assert result.code == 0
        for line in result.out.splitlines():
            assert len(line) <= width
            words = line.strip("│ ").split()
            assert not any(word.startswith("-") and word.endswith("…") for word in words), line
            assert "range>" not in line


def test_completion_is_quick_and_knows_the_options() -> None:
    top = str(Path(__file__).parents[2])
    code = "import sys; sys.argv = ['ddpm']; from ddpm_cli.__main__ import main\n" + (
        "try: main()\nfinally: assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    words = {"COMP_WORDS": "ddpm sample --st", "COMP_CWORD": "2"}
    for instruction, expected in (("source_bash", "complete"), ("complete_bash", "--steps")):
        variables = {"PYTHONPATH": top, "_DDPM_COMPLETE": instruction, **words}
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert expected in result.stdout and result.stderr == ""


@pytest.mark.parametrize("value", ["a" * 5000, "a\nb", "a\u2028b"])
def test_messages_of_odd_values_are_one_short_line(ddpm: Callable[..., Result], value: str) -> None:
    for arguments in (("gif", "--device", value), ("train", "--data", value)):
        result = ddpm(*arguments)
        assert result.code in (1, 2)
        assert len(result.err.splitlines()) == 1
        assert result.err.startswith("ddpm: ") and 20 < len(result.err) < 1400
