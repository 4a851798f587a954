"""The page itself: templates filled with what a run says, written as one file."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.report import commands, curves, drawing, headline, pictures, settings
from ddpm_cli.core.report.public import shortened
from ddpm_cli.core.report.records import Record
from ddpm_cli.core.runs import differences, summary
from ddpm_cli.core.runtime.files import dumps, finite, write_text
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.runtime.run_directory import RunDirectory, existing_runs, why_no_run

_MARK = '<meta name="generator" content="ddpm report'
_HEAD = 2000  # bytes within which a page of ours has that
_LOG_LINES = 300


@dataclass(frozen=True)
class Written:
    """A page that was written."""

    path: Path
    bytes: int
    left_out: tuple[str, ...]  # what did not fit into the page, in words


def open_run(path: Path, *, public: bool = False) -> Record:
    """Read a run, for others or not. Raises DdpmError where the folder is none."""
    if not path.is_dir():
        raise DdpmError(f"{path}: no such run directory{existing_runs(path)}")
    if not summary.is_run(path):
        raise DdpmError(why_no_run(path, RunDirectory(path).config.name))
    return Record.read(path, public=public)


def check(path: Path, *, overwrite: bool) -> None:
    """Raise DdpmError rather than replace a file that is no page of ours."""
    if path.is_dir():
        raise DdpmError(f"--out {path} is a folder; give a file, such as {path / 'report.html'}")
    if path.exists() and not overwrite and not _is_ours(path):
        raise DdpmError(
            f"{path} is there, and ddpm report did not write it; choose another --out, or add "
            "--overwrite"
        )


def write(
    record: Record, out: Path, reporter: Reporter, sample_on: torch.device | None = None
) -> Written:
    """Write the page of a run. sample_on: draw samples on this device, for the page alone."""
    drawn = [] if sample_on is None else drawing.draw(record, sample_on, reporter)
    previews = pictures.previews(record, pictures.PREVIEWS, reporter)
    found, left_out = pictures.found(record, drawn)
    config, preset = record.config, record.summary.preset
    groups = [] if config is None else settings.groups(config, preset)
    words = [previews.left_out, *left_out]
    text = _filled(
        "report.html",
        public=record.public,
        title=record.name,
        run=_described(record),
        previews=previews,
        frames=[_frames(record.name, previews)],
        charts=curves.draw([record]),
        pictures=[*drawn, *found],
        scores=headline.scores(record),
        groups=groups,
        differing=settings.differing(groups),
        config=_config_text(record),
        starts=headline.starts(record),
        commands=commands.again(record),
        log=record.log[-_LOG_LINES:],
        divergence=headline.divergence(record),
        left_out=[text for text in words if text],
    )
    return _written(out, text, words)


def write_comparison(
    records: Sequence[Record],
    out: Path,
    reporter: Reporter,
    sample_on: torch.device | None = None,
) -> Written:
    """Write a page of two runs beside each other. sample_on: as for `write`."""
    compared = differences.compared([replace(r.summary, config=r.config) for r in records])
    records = [replace(r, called=name) for r, name in zip(records, compared.names, strict=True)]
    drawn = None if sample_on is None else drawing.draw_beside(compared, sample_on, reporter)
    space = pictures.PREVIEWS // len(records)
    previews = [pictures.previews(record, space, reporter) for record in records]
    words = [f"{record.name}: {each.left_out}" for record, each in
             zip(records, previews, strict=True) if each.left_out]  # fmt: skip
    text = _filled(
        "comparison.html",
        public=records[0].public,
        title=" and ".join(compared.names),
        runs=[_described(record) for record in records],
        names=compared.names,
        cautions=compared.cautions,
        samples=drawn,
        frames=[_frames(r.name, each) for r, each in zip(records, previews, strict=True)],
        charts=curves.draw(records),
        scores=[(record.name, headline.scores(record)) for record in records],
        differing=settings.rows(compared.settings),
        compared=all(record.config is not None for record in records),
        left_out=words,
    )
    return _written(out, text, words)


def _described(record: Record) -> dict[str, Any]:
    """The head of a run."""
    return {
        "name": record.name,
        "path": record.place,
        "about": headline.about(record),
        "state": record.summary.state,
        "state_text": headline.state(record),
        "figures": headline.figures(record),
        "problem": record.summary.problem,
        "preset": record.summary.preset,
        "public": record.public,
    }


def _frames(name: str, previews: pictures.Previews) -> dict[str, Any]:
    frames = [{"images": frame.images, "source": frame.source} for frame in previews.frames]
    return {"name": name, "frames": frames}


def _config_text(record: Record) -> str:
    return "" if record.config is None else dumps(finite(to_dict(record.config)))


def _written(out: Path, text: str, left_out: Sequence[str]) -> Written:
    write_text(out, text, durable=False)
    return Written(out, len(text.encode()), tuple(words for words in left_out if words))


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return _MARK.encode() in file.read(_HEAD)


def _filled(template: str, *, public: bool, **values: Any) -> str:
    """A template with values, all of which are escaped; only this script may run in the page.

    public: of all paths in texts the last parts alone.
    """
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment(public).get_template(template).render(
        style=Markup(_source("page.css")),
        script=Markup(script),
        script_hash=Markup(digest),
        version=sys.modules["ddpm_cli"].__version__,
        made=headline.moment(datetime.now(UTC)),
        **values,
    )  # fmt: skip
    return page.encode("utf-8", "replace").decode()  # names of files may be no UTF-8


@cache
def _environment(public: bool) -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shortened if public else None,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = _data
    environment.filters["json"] = json.dumps
    environment.filters["svg"] = Markup
    return environment


def _data(value: Any) -> Markup:
    """A value as JSON within a script element, which no text in it can end."""
    text = json.dumps(value)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
