"""What to type to get a run again, as command lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from shlex import quote

from ddpm_cli.core.config.fields import settings_of
from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import OF_A_RUN, TrainingRequest
from ddpm_cli.core.report.records import Record

_OF_A_PLACE = {"out", "resume"}  # options that the commands have themselves
_OF_IMAGES = ("--skip-bad", "--max-pixels")  # those about the data's files, which fid takes, too
_OF_A_RUN = ("sample", "gif")  # commands that take the newest run where none is


def again(record: Record) -> list[tuple[str, str]]:
    """What to type to get it again: what it does, and the command."""
    place, config = quote(record.place), record.config
    starts = [] if record.public else record.starts  # values may be paths of this machine
    called = _of_the_call(str(starts[-1].get("command"))) if starts else {}
    options = "".join(called.values())
    found = []
    if config is not None:
        file = quote(str(Path(record.place, record.run.config.name)))
        command = f"ddpm train --config {file} --out {quote(f'{record.name}-again')}{options}"
        found.append(("Train as this run did, with its settings, budget and seed", command))
    given = config is not None and bool(config.network.given_channels)
    guided = config is not None and config.guidable and not record.run.sampling.is_file()
    extra = " --guidance 2" if guided else ""
    extra += " --given FILE" if given else ""
    found.append(("Sample from its newest weights", f"ddpm sample {place} -n 36 --seed 0{extra}"))
    if config is not None:
        files = "".join(called.get(option, "") for option in _OF_IMAGES)
        command = f"ddpm fid {quote(config.data.source)} {place}{files}"
        found.append(("Score it against its data", command))
    more = f"ddpm train --resume {place}{options}"
    found.append(("Go on, up to its budget or a larger one", more))
    return found


def naming(command: str, run: Path) -> str:
    """The command that drew a picture of the run, with the run where it took the newest one."""
    words = _split(command)
    if words[:1] != ["ddpm"] or len(words) < 2 or words[1] not in _OF_A_RUN:
        return command
    name = run.resolve().name
    named = any(name in Path(word).parts for word in words[2:])
    if named or (len(words) > 2 and not words[2].startswith("-")):
        return command
    return shlex.join([*words[:2], str(run), *words[2:]])


def _of_the_call(command: str) -> dict[str, str]:
    """The options of a training's command that are no settings of the run, as they are written."""
    settings = [
        setting
        for options in (TrainingRequest, MachineConfig)
        for setting in settings_of(options)
        if setting.path[0] not in OF_A_RUN | _OF_A_PLACE
    ]
    switches = {
        name: setting.kind is bool for setting in settings for name in setting.option.split("/")
    }
    return dict(_options(_split(command), switches))


def _options(words: list[str], switches: dict[str, bool]) -> Iterator[tuple[str, str]]:
    for word, following in pairwise([*words, ""]):
        name, equals, _ = word.partition("=")
        if name in switches:
            alone = switches[name] or bool(equals)
            yield name, f" {quote(word)}" if alone else f" {word} {quote(following)}"


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # no command line
        return []
