"""How runs differ: in settings, in progress, losses and scores, and what can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_cli.core.config.fields import settings_of
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import to_dict
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.runs import listing, summary
from ddpm_cli.core.runs.summary import RunSummary
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, why_no_run

# What the numbers of the losses depend on, beside the network that is trained.
_LOSS = {
    "parameterisation": ("diffusion.parameterisation",),
    "schedule": ("diffusion",),
    "loss, weighting or noise levels": ("objective",),
    "variance that is learned, too": ("network.learned_variance",),
    "images": ("data.fingerprint", "network.size", "network.channels", "data.fit"),
    "condition": ("network.classes", "network.text", "data.captions", "data.given"),
}
_HELD_OUT = ("data.holdout", "holdout_data")
_LOSSES, _VALIDATION, _SCORES = "The losses", "The held-out losses", "The scores"
_MISSING = None  # the value of a setting that a run does not have


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all runs."""

    name: str  # as in config.json, with dots: optimiser.lr
    option: str  # of ddpm train; "" where there is none
    values: tuple[Any, ...]  # of the runs, in their order


@dataclass(frozen=True)
class Compared:
    """Two runs or more, and how they differ."""

    runs: tuple[RunSummary, ...]
    names: tuple[str, ...]  # as short as they are distinct
    settings: tuple[Difference, ...]
    cautions: tuple[str, ...]  # what cannot be compared, and why

    @property
    def losses_differ_in_kind(self) -> bool:
        """Whether their numbers cannot be compared."""
        return any(caution.startswith(_LOSSES) for caution in self.cautions)

    @property
    def changes(self) -> dict[str, list[float | None]]:
        """Of each run, by how much its numbers differ from the first run's.

        None where a run has no such number, or it cannot be compared.
        """
        columns: dict[str, list[float | None]] = {
            "images": [run.images for run in self.runs],
            "seconds": [run.seconds for run in self.runs],
            "loss_smooth": [run.loss for run in self.runs],
            "loss_heldout": [run.held_out for run in self.runs],
            "score": [run.best for run in self.runs],
        }
        apart = {"loss_smooth", "loss_heldout"} if self.losses_differ_in_kind else set[str]()
        if any(caution.startswith(_SCORES) for caution in self.cautions):
            apart.add("score")
        if any(caution.startswith(_VALIDATION) for caution in self.cautions):
            apart.add("loss_heldout")
        return {
            name: [None if name in apart else _minus(value, values[0]) for value in values]
            for name, values in columns.items()
        }

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        settings = [
            {"setting": one.name, "option": one.option or None, "values": list(one.values)}
            for one in self.settings
        ]
        runs = [listing.document(run) for run in self.runs]
        return {
            "runs": runs,
            "settings": settings,
            "changes": self.changes,
            "cautions": list(self.cautions),
        }


def compare(folders: Sequence[Path]) -> Compared:
    """Read and compare runs. Raises DdpmError for what is no run, UsageError for less than two."""
    if len(folders) < 2:
        raise UsageError("ddpm runs compare takes two runs or more, as ddpm runs compare A B")
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UsageError("ddpm runs compare takes different runs, and one is named twice")
    return compared([_read(folder) for folder in folders])


def compared(runs: Sequence[RunSummary]) -> Compared:
    """How runs that were read differ: in settings only where those of all can be read."""
    configs = [run.config for run in runs if run.config is not None]
    settings = differences(configs) if len(configs) == len(runs) else []
    names = short_names([run.path for run in runs])
    return Compared(tuple(runs), tuple(names), tuple(settings), tuple(_cautions(runs)))


def _read(folder: Path) -> RunSummary:
    if not folder.exists():
        find_weights(folder)  # raises, with the runs that there are
    if not summary.is_run(folder):
        raise DdpmError(why_no_run(folder, RunDirectory(folder).config.name))
    run = summary.read(folder)
    if run.config is None:
        RunDirectory(folder).read_config()  # raises what is wrong with it
    return run


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, of as many folders as make them distinct."""
    parts = [folder.absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def differences(configs: Sequence[RunConfig]) -> list[Difference]:
    """The settings that are not the same in all, in the order of config.json."""
    options = {
        setting.name: setting.option.split("/")[0]
        for setting in settings_of(RunConfig)
        if setting.info.panel is not None
    }
    flat = [_flat(to_dict(config)) for config in configs]
    names = dict.fromkeys(name for values in flat for name in values)
    found = []
    for name in names:
        values = tuple(one.get(name, _MISSING) for one in flat)
        if any(value != values[0] for value in values):
            found.append(Difference(name, options.get(name, ""), values))
    return found


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their names with dots."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _cautions(runs: Sequence[RunSummary]) -> list[str]:
    """What of the runs cannot be compared by its numbers."""
    configs = [run.config for run in runs if run.config is not None]
    differ = {one.name for one in differences(configs)}
    causes = [cause for cause, names in _LOSS.items() if any(_within(differ, n) for n in names)]
    if "parameterisation" in causes and not _schedules_differ(differ):
        causes.remove("schedule")
    cautions = []
    if causes:
        cautions.append(
            f"{_LOSSES} are of different scales, and the lower is not the better: {_and(causes)} "
            "differ"
        )
    elif any(run.held_out is not None for run in runs) and differ & set(_HELD_OUT):
        cautions.append(f"{_VALIDATION} are of different images: --holdout differs")
    scores = [run.score for run in runs if run.score is not None]
    if len({(score.label, score.protocol) for score in scores}) > 1:
        cautions.append(f"{_SCORES} cannot be compared: they are of different protocols")
    return cautions


def _minus(value: float | None, first: float | None) -> float | None:
    return None if value is None or first is None else value - first


def _within(differ: set[str], name: str) -> bool:
    return any(one == name or one.startswith(f"{name}.") for one in differ)


def _schedules_differ(differ: set[str]) -> bool:
    return any(
        one.startswith("diffusion.") and one != "diffusion.parameterisation" for one in differ
    )


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
