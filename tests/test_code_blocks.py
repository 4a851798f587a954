"""Every block of code in README and docs: parsed by what reads it, the quick ones run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_cli.core.errors import UsageError
from tests.support import blocks
from tests.support.blocks import Block
from tests.support.cli import Result
from tests.support.pages import commands
from tests.support.pages.text import TOP

BLOCKS = list(blocks.blocks())
OUTPUT = {"text"}  # is read by people alone
READ = {"sh", "console", "python", "toml", "json"}
OTHERS = (  # programs with options of their own
    r"#SBATCH|mlflow|pip|pytest|python|ruff|scancel|sbatch|srun|tensorboard|tests/|torchrun|trackio"
)
# of srun and of benchmarks, in sentences on them
FOREIGN = {"--pty", "--works", "--memory", "--classifier", "--draws"}


def of(*labels: str) -> list[Block]:
    return [block for block in BLOCKS if block.label in labels]


def test_every_block_says_what_it_is() -> None:
    unknown = [block.place for block in BLOCKS if block.label not in OUTPUT | READ]
    assert unknown == []


def test_no_block_is_only_indented() -> None:
    for page in blocks.PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^\s*\n    (ddpm|python|\$) ", text, flags=re.MULTILINE), page


def test_every_command_line_is_one_that_ddpm_takes() -> None:
    found = [(block, words) for block in of("sh", "console") for words in block.commands]
    assert len(found) > 100
    for block, words in found:
        try:
            blocks.parse(words)
        except UsageError as error:
            pytest.fail(f"{block.place}: ddpm {' '.join(words)}: {error}")


def test_every_example_of_the_help_is_one_that_ddpm_takes() -> None:
    for entry in commands.everything():
        if not entry.inner:
            assert entry.examples, f"ddpm {entry.name} shows no examples"
        for line in entry.examples:
            (words,) = blocks.ddpm_calls(line)
            blocks.parse(words)
            assert len(line) <= 78, f"{line}: is cut in a terminal of 80 columns"


@pytest.mark.parametrize(
    "line",
    [
        "ddpm train --imagse 5",
        "ddpm train --lr high",
        "ddpm train --lr -1",
        "ddpm sample --sampler nonesuch",
        "ddpm sampel",
        "ddpm",
        "ddpm inception-score",
        "ddpm sample --steps 10,0",
        "srun ddpm train && ddpm gif --steps",
    ],
)
def test_a_command_line_that_ddpm_refuses_is_found(line: str) -> None:
    with pytest.raises(UsageError):
        for words in blocks.ddpm_calls(line):
            blocks.parse(words)


def test_calls_are_found_in_a_line() -> None:
    line = "DDPM_CACHE=/x/ddpm .venv/bin/ddpm train --size 8 > log && srun ddpm gif  # ddpm fid"
    assert list(blocks.ddpm_calls(line)) == [["train", "--size", "8"], ["gif"]]
    line = "torchrun --nproc-per-node 2 -m ddpm_cli sample --prompt 'a #1 cat'; ls"
    assert list(blocks.ddpm_calls(line)) == [["sample", "--prompt", "a #1 cat"]]


def test_options_named_in_the_text_exist() -> None:
    known = blocks.options() | FOREIGN
    for page in blocks.PAGES:
        for code in re.findall(r"`([^`\n]+)`", page.read_text()):
            named = re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)
            for option in named if not re.match(OTHERS, code) else ():
                assert option in known, f"{page.name}: {option} in {code!r}"


def test_scripts_named_in_blocks_exist() -> None:
    for block in of("sh", "console"):
        for name in re.findall(r"\b(?:examples|tests|docs)/[\w/]+\.(?:py|sh)\b", block.text):
            assert (TOP / name).exists(), (block.place, name)


def test_shell_reads_the_blocks() -> None:
    for block in of("sh", "console"):
        text = "\n".join(block.lines) if block.label == "console" else block.text
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, (block.place, done.stderr)


def test_python_reads_the_blocks() -> None:
    for block in of("python"):
        compile(block.text, block.place, "exec")


def test_settings_files_are_read() -> None:
    for block in of("toml"):
        tomllib.loads(block.text)
    for block in of("json"):
        json.loads(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.quick], ids=lambda block: block.place)
def test_quick_blocks_run(
    block: Block, ddpm: Callable[..., Result], tiny_run: Callable[..., Path], photos: Path
) -> None:
    """In a folder that has `photos/` and a run trained on them."""
    tiny_run("runs/photos-8")
    shutil.copytree(photos, "photos")
    assert block.commands
    for words in block.commands:
        result = ddpm(*words)
        assert result.code == 0, (block.place, words, result.err)
