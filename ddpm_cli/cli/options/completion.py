"""What a shell completes behind an option or in place of an argument. Imports no torch.

Where nothing is offered, the shell completes names of files. Annotations are not postponed here:
Typer evaluates those of each option's completer, which makes --help slower where they are texts.
"""

import json
import os
import shlex
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.choices import (
    ALL,
    ATTENTION_ORDERS,
    FRAME_KINDS,
    INCEPTION,
    NEEDS_IMAGES,
    PROTOCOLS,
)
from ddpm_cli.core.config.machine import DEVICES, PRECISIONS
from ddpm_cli.core.config.presets import PRESETS
from ddpm_cli.core.config.request import DATA_SETS
from ddpm_cli.core.config.run import BACKGROUNDS, FITS
from ddpm_cli.core.runs.listing import ORDERS
from ddpm_cli.core.runtime.run_directory import RunDirectory, runs_folder

Offer = str | tuple[str, str]  # a word, or a word and what it is
Completer = Callable[[Any, str], list[Offer]]  # of a context and an incomplete word


def among(words: Collection[object]) -> Completer:
    """Offer these words; in a list such as ddim,heun those that are not in it yet."""

    def complete(ctx: Any, incomplete: str) -> list[Offer]:
        before, comma, _ = incomplete.rpartition(",")
        taken = before.split(",")
        return [f"{before}{comma}{word}" for word in words if str(word) not in taken]

    return complete


def presets(ctx: Any, incomplete: str) -> list[Offer]:
    """The presets, with their purposes."""
    return [(name, preset.purpose) for name, preset in PRESETS.items()]


def data_sets(ctx: Any, incomplete: str) -> list[Offer]:
    """Data sets by name; behind the colon of one, its parts."""
    name, colon, _ = incomplete.partition(":")
    if colon and name in DATA_SETS:
        return [f"{name}:train", f"{name}:test"]
    return list(DATA_SETS)


def protocols(ctx: Any, incomplete: str) -> list[Offer]:
    """The protocols of the features that were asked for."""
    return list(PROTOCOLS.get(ctx.params.get("features") or INCEPTION, ()))


def runs(ctx: Any, incomplete: str) -> list[Offer]:
    """The runs with a configuration right below the folder of runs, newest first."""
    found = [path.parent for path in runs_folder().glob("*/config.json")]
    return _quoted(map(str, sorted(found, key=_changed, reverse=True)))


def runs_or_commands(ctx: Any, incomplete: str) -> list[Offer]:
    """What follows `ddpm runs`: its other commands, and folders."""
    above = incomplete.rpartition("/")[0]
    inner = [path for path in Path(above or ".").glob("*/") if path.name[0] != "."]
    words = [] if above else ["compare", "clean"]
    return [*words, *_quoted(sorted(map(str, inner)))]


def to_resume(ctx: Any, incomplete: str) -> list[Offer]:
    """The words of --resume, and runs."""
    return ["auto", "never", *runs(ctx, incomplete)]


def guides(ctx: Any, incomplete: str) -> list[Offer]:
    """The word of --guide, and runs."""
    return ["early", *runs(ctx, incomplete)]


def classes(ctx: Any, incomplete: str) -> list[Offer]:
    """The class names of the run named, or of the newest; behind a + another attribute."""
    before, plus, _ = incomplete.rpartition("+")
    network = _config_of(_run_named(ctx)).get("network", {})
    names = [str(name) for name in network.get("classes", ())]
    if network.get("multi_label"):
        taken = before.split("+")
        return _quoted(f"{before}{plus}{name}" for name in names if name not in taken)
    return _quoted([*names, *(["all", "random"] if names else [])])


def weights(ctx: Any, incomplete: str) -> list[Offer]:
    """The weights that the run has: model, best, snapshots by their images seen."""
    run, (before, comma, _) = _run_named(ctx), incomplete.rpartition(",")
    if run is None:
        return []
    kept = [*sorted(run.path.glob("*.safetensors")), *sorted(run.snapshots.glob("[0-9]*.pt"))]
    return _quoted(f"{before}{comma}{path.stem.lstrip('0')}" for path in kept)


_BY_NAME: dict[str, Completer] = {
    "RUN": runs,
    "RUNS": runs,
    "FOLDER": runs_or_commands,
    "--sort": among(ORDERS),
    "PLACES": runs,
    "FAKE": runs,
    "IMAGES": runs,
    "SOURCE": runs,
    "--guide": guides,
    "--init-from": runs,
    "--cascade": runs,
    "--out": runs,
    "--resume": to_resume,
    "--data": data_sets,
    "--given-data": data_sets,
    "--holdout-data": data_sets,
    "--against": data_sets,
    "--score": data_sets,
    "--preset": presets,
    "--class": classes,
    "--morph": classes,
    "--weights": weights,
    "--metrics": among(NEEDS_IMAGES),
    "--protocol": protocols,
    "--features": among(PROTOCOLS),
    "--fid-features": among(PROTOCOLS),
    "--score-features": among(PROTOCOLS),
    "NAME": among((*PROTOCOLS, ALL)),
    "--device": among(DEVICES),
    "--precision": among(PRECISIONS),
    "--background": among(BACKGROUNDS),
    "--fit": among(FITS),
    "--show": among(FRAME_KINDS),
    "--to": among(("diffusers",)),
    "--attention-order": among(ATTENTION_ORDERS),
}


def of(name: str, kind: Any = str) -> Completer | None:
    """What completes an option or argument of this name; None where nothing does."""
    if name == "--weights" and kind is not str:
        return None  # of fid: a file of the Inception network
    return _BY_NAME.get(name)


def _run_named(ctx: Any) -> RunDirectory | None:
    """The run that the arguments so far name, or else the newest; None where there is none."""
    given = [ctx.params.get(name) for name in ("run", "fake", "images", "source")]
    words = [word for word in given if word] + list(ctx.params.get("places") or ())
    for word in [*words, *ctx.args]:  # in the latter where an option still lacks its value
        path = Path(str(word)).expanduser()
        for folder in (path, path.parent, path.parent.parent):  # of a run, weights or a snapshot
            if RunDirectory(folder).config.is_file():
                return RunDirectory(folder)
    found = [] if words or ctx.args else list(runs_folder().glob("*/config.json"))
    return RunDirectory(max(found, key=_changed).parent) if found else None


def _config_of(run: RunDirectory | None) -> dict[str, Any]:
    """The run's config.json, as it is; empty where it cannot be read."""
    if run is not None:
        with suppress(OSError, ValueError):
            document = json.loads(run.config.read_text(encoding="utf-8"))
            return document if isinstance(document, dict) else {}
    return {}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _quoted(words: Iterable[str]) -> list[Offer]:
    """Words as a shell reads them: bash inserts them as they are."""
    as_they_are = not os.environ.get("_DDPM_COMPLETE", "").endswith("bash")
    return [word if as_they_are else shlex.quote(word) for word in words]
