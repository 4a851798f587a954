"""What the shells complete, asked by their own protocol; no torch is imported for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.cli.app import main
from ddpm_cli.core.config import choices
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.request import DATA_SETS
from ddpm_cli.core.data import named
from ddpm_cli.core.data.readers import imagenet
from ddpm_cli.core.diffusion.settings import SAMPLERS
from ddpm_cli.core.metrics.networks import protocols
from tests.support.cli import Result

Complete = Callable[..., list[str]]


def write_run(path: str, *classes: str, multi_label: bool = False) -> Path:
    """A run as far as completion reads it."""
    run = Path(path)
    (run / "snapshots").mkdir(parents=True)
    network = {"classes": classes, "multi_label": multi_label}
    (run / "config.json").write_text(json.dumps({"network": network}))
    for name in ("model.safetensors", "best.safetensors", "snapshots/000000050048.pt"):
        (run / name).touch()
    return run


@pytest.fixture
def complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """The words that a shell offers for the last word of a command line."""

    def call(line: str, shell: str = "bash") -> list[str]:
        words = line.split()
        last = len(words) - (not line.endswith(" "))
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(last))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("_DDPM_COMPLETE", f"complete_{shell}")
        monkeypatch.setattr(sys, "argv", ["ddpm"])
        with pytest.raises(SystemExit):
            main()
        return [word for word in capsys.readouterr().out.splitlines() if word]

    return call


def test_the_lists_are_those_of_the_program() -> None:
    assert set(DATA_SETS) == {"shapes", "celeba", *named.known(), *imagenet.NAMES}
    of_networks = protocols.PROTOCOLS.items()
    names = {network: tuple(one.name for one in known) for network, known in of_networks}
    assert names == choices.PROTOCOLS


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ddpm interp", ["interpolate"]),
        ("ddpm sample --sampler dd", ["ddim", "ddpm"]),
        ("ddpm train --preset ", list(PRESETS)),
        ("ddpm train --device ", ["auto", "cpu", "cuda", "mps"]),
        ("ddpm train --resample ", ["conv", "pool", "res"]),
        ("ddpm train --data cifar10:", ["cifar10:train", "cifar10:test"]),
        ("ddpm train --data shap", ["shapes"]),
        ("ddpm fid a b --metrics fid,k", ["fid,kid"]),
        ("ddpm fid a b --protocol ", list(choices.PROTOCOLS["inception"])),
        ("ddpm fid a b --features dinov2-l --protocol ", list(choices.PROTOCOLS["dinov2-l"])),
        ("ddpm fid a b --features ", list(choices.PROTOCOLS)),
        ("ddpm fetch-weights c", ["clip-l336"]),
        ("ddpm fid a b --weights ", []),
        ("ddpm sample --resample ", []),
        ("ddpm gif --format ", ["gif", "webp", "mp4", "png"]),
        ("ddpm nll --qu", ["--quiet"]),
    ],
)
def test_words_of_an_option(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_a_list_offers_what_is_not_in_it_yet(complete: Complete) -> None:
    others = [f"ddim,{name}" for name in SAMPLERS if name != "ddim"]
    assert complete("ddpm sample --sampler ddim,") == others


def test_runs_and_what_they_have(complete: Complete) -> None:
    assert complete("ddpm sample ") == []  # the shell offers files
    old, new = write_run("runs/pets", "cat", "great dane"), write_run("runs/faces", "a", "b")
    os.utime(old, (1, 1))
    os.utime(old / "config.json", (1, 1))
    assert complete("ddpm sample ") == ["runs/faces", "runs/pets"]  # newest first
    assert complete("ddpm train --resume ") == ["auto", "never", "runs/faces", "runs/pets"]
    assert complete("ddpm sample runs/p") == ["runs/pets"]
    assert complete("ddpm sample runs/pets --class ") == ["cat", "'great dane'", "all", "random"]
    assert complete("ddpm sample --class ") == ["a", "b", "all", "random"]
    assert complete(f"ddpm gif {old}/model.safetensors --class c") == ["cat"]
    assert complete("ddpm sample --weights ") == ["best", "model", "50048"]
    assert complete("ddpm sample --weights best,m") == ["best,model"]
    (new / "config.json").write_text("{")
    assert complete("ddpm sample --class ") == []


def test_attributes_are_joined(complete: Complete) -> None:
    write_run("runs/faces", "Smiling", "Male", multi_label=True)
    assert complete("ddpm sample --class Smiling+") == ["Smiling+Male"]


def test_runs_of_another_folder(complete: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("elsewhere/shapes-32")
    monkeypatch.setenv("DDPM_RUNS", "elsewhere")
    assert complete("ddpm sample ") == ["elsewhere/shapes-32"]


def test_every_shell(complete: Complete) -> None:
    assert complete("ddpm sample --sampler he", "fish") == ["heun"]
    assert '"heun"' in complete("ddpm sample --sampler he", "zsh")[0]
    described = complete("ddpm train --preset mni", "fish")[0]
    assert described.split("\t") == ["mnist", PRESETS["mnist"].purpose]
    write_run("runs/pets", "great dane")
    assert complete("ddpm sample --class gr", "fish") == ["great dane"]


def test_install_completion(
    ddpm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    result = ddpm("--install-completion")
    assert result.code == 0 and "bash completion installed" in result.out
    script = (tmp_path / ".bash_completions" / "ddpm.sh").read_text()
    assert "_DDPM_COMPLETE=complete_bash" in script and script.rstrip().endswith(" ddpm")
