"""The first things to know of a run, as short texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ddpm_cli.core.config.choices import score_name
from ddpm_cli.core.errors import DdpmError
from ddpm_cli.core.generation import default_sampling
from ddpm_cli.core.metrics.scores.score import digits
from ddpm_cli.core.report.records import Document, Record
from ddpm_cli.core.report.settings import written
from ddpm_cli.core.runtime import quantities
from ddpm_cli.core.runtime.files import in_words

_STATES = {
    "running": "running since",
    "stopped": "stopped",
    "finished": "finished",
    "diverged": "diverged",
    "new": "not begun",
}
_SCORE_NAMES = {  # of JSON documents of fid, inception-score and nll
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
    "mean": "Inception Score",
    "total": "bits/dim",
}


@dataclass(frozen=True)
class Figure:
    """A number with its name."""

    label: str
    value: str
    detail: str = ""
    share: float | None = None  # of the budget, from 0 to 1


@dataclass(frozen=True)
class Score:
    """A score with what it can be compared with."""

    label: str
    value: str
    where: str  # the images seen, or the file
    protocol: str
    best: bool = False


def state(record: Record) -> str:
    """As "finished, 30 November 2026, 02:41 UTC"."""
    words, since = _STATES[record.summary.state], record.summary.since
    if since is None:
        return words
    comma = "" if words.endswith("since") else ","
    return f"{words}{comma} {moment(since)}"


def moment(time: datetime) -> str:
    """A time in words."""
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def about(record: Record) -> str:
    """What the run learns, in a line."""
    config, summary = record.config, record.summary
    if config is None:
        return summary.data
    network = config.network
    kind = quantities.colours(network.channels)
    words = [config.data.source, f"{network.size[0]}×{network.size[1]} {kind}"]
    if network.classes:
        words.append(f"{len(network.classes):,} classes")
    if network.text is not None:
        words.append("captions")
    if config.data.given or config.data.given_data:
        words.append(f"given {config.data.given or 'images'}")
    if summary.preset:
        words.append(f"preset {summary.preset}")
    return " · ".join(words)


def figures(record: Record) -> list[Figure]:
    """The numbers at the top of the page."""
    return list(_figures(record))


def _figures(record: Record) -> Iterator[Figure]:
    summary = record.summary
    yield Figure("images seen", f"{summary.images:,}", _budget(record), summary.used)
    if summary.loss is not None:
        held_out = summary.held_out
        also = "" if held_out is None else f"held out {held_out:.4g}"
        yield Figure("loss, smoothed", f"{summary.loss:.4g}", also)
    if summary.score is not None:
        score = summary.score
        yield Figure(f"best {score.label}", digits(score.value), f"at {score.images:,} images")
    if summary.seconds is not None:
        steps = "" if summary.steps is None else f"{summary.steps:,} steps"
        yield Figure("training time", quantities.duration(summary.seconds), steps)
    speed = record.column("images_per_second")
    speed = speed[np.isfinite(speed)]
    if len(speed):
        yield Figure("speed", f"{np.median(speed):,.4g}", "images/s")
    memory = record.column("peak_memory")
    if np.isfinite(memory).any():
        yield Figure("peak memory", in_words(float(np.nanmax(memory))), "of a process")
    if record.parameters is not None:
        yield Figure(
            "network", quantities.count(record.parameters), f"{record.parameters:,} parameters"
        )
    yield Figure("on the disk", in_words(summary.bytes))


def _budget(record: Record) -> str:
    """Of what, as "of 57,600 images (28 %)"."""
    summary = record.summary
    limits = quantities.limits(summary.budget)
    share = "" if summary.used is None else f" ({100 * summary.used:.0f}\u00a0%)"
    return f"of {limits}{share}" if limits else ""


def scores(record: Record) -> list[Score]:
    """Those of the training, then those of documents in the run directory, and of a sweep."""
    return [*_of_training(record), *_of_documents(record), *_of_sweep(record)]


def _of_training(record: Record) -> Iterator[Score]:
    best: dict[Any, float] = {}
    for row in record.scores:
        kind = _kind(row)
        best[kind] = min(best.get(kind, math.inf), float(row["value"]))
    for row in record.scores:
        value, steps = float(row["value"]), row.get("steps")
        sampled = f", {steps} steps" if steps else ""
        yield Score(
            str(row.get("label", "score")),
            digits(value),
            f"{int(row['images']):,} images seen{sampled}",
            str(row.get("protocol", "")),
            value == best[_kind(row)],
        )


def _kind(row: Document) -> tuple[str, str]:
    return str(row.get("label")), str(row.get("weights_sha256"))


def _of_documents(record: Record) -> Iterator[Score]:
    for name, document in record.documents:
        features = str(document.get("features") or "")
        protocol = str(document.get("line") or document.get("protocol") or "")
        for key, label in _SCORE_NAMES.items():
            value = document.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                written = digits(value) if key == "fid" else f"{value:.6g}"
                own = label if key == "total" else score_name(label, features)
                yield Score(own, written, name, protocol)


def _of_sweep(record: Record) -> Iterator[Score]:
    """That of the settings by which the run is sampled by default."""
    try:
        default = default_sampling.of_run(record.run.path)
    except DdpmError:  # which is said where it is sampled
        return
    value = default.measured.get("value")
    if isinstance(value, int | float):
        settings = default_sampling.in_words(default.sampling) or "the usual settings"
        label, protocol = (str(default.measured.get(name, "")) for name in ("score", "features"))
        yield Score(label, digits(value), f"best of a sweep: {settings}", protocol)


@dataclass(frozen=True)
class Start:
    """A start of the run."""

    date: str
    command: str
    machine: str
    versions: str


def starts(record: Record) -> list[Start]:
    """Those of the run, the first one first."""
    return [
        Start(
            _date(row.get("date")),
            str(row.get("command") or ""),
            ", ".join(str(row[name]) for name in ("device", "host") if row.get(name)),
            ", ".join(f"{name} {row[name]}" for name in ("ddpm", "torch") if row.get(name)),
        )
        for row in record.starts
    ]


def _date(text: Any) -> str:
    try:
        return moment(datetime.fromisoformat(str(text)))
    except ValueError:
        return str(text or "")


def divergence(record: Record) -> list[str]:
    """Why training diverged, in sentences; none where it did not."""
    told = record.post_mortem
    if told is None:
        return []
    what = str(told.get("what") or "the reason is not recorded")
    steps, images = (written(told.get(name)) for name in ("steps", "images"))
    sentences = [f"{what[:1].upper()}{what[1:]}, up to step {steps} ({images} images seen)."]
    good, remedies = told.get("last_good_step"), told.get("try")
    if isinstance(good, dict):
        step, lr, norm = (written(good.get(name)) for name in ("steps", "lr", "grad_norm"))
        sentences.append(
            f"The last good step was {step}: learning rate {lr}, gradient norm {norm}."
        )
    if isinstance(remedies, list) and remedies:
        sentences.append(f"What usually helps: {'; '.join(map(str, remedies))}.")
    return sentences
