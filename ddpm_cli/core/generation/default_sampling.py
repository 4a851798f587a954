"""A run's default sampling, RUN/default-sampling.json: what `ddpm sweep` found; options replace it.

It holds for a run's directory alone: who names weights, a file or a snapshot has chosen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ddpm_cli.core.checkpoints import tensors, weights
from ddpm_cli.core.config import paths
from ddpm_cli.core.config.serialisation import checked
from ddpm_cli.core.diffusion.settings import Sampling
from ddpm_cli.core.errors import DdpmError, UsageError
from ddpm_cli.core.generation.guides import EARLY, with_guide
from ddpm_cli.core.generation.model import Model, own_settings
from ddpm_cli.core.runtime.files import finite, read_json, write_json
from ddpm_cli.core.runtime.run_directory import RunDirectory, find_weights, newest_run

_CHOOSING = ("timesteps", "sigmas", "sections")  # the steps, one by one
_CHURN = ("s_churn", "s_min", "s_max", "s_noise")
_OF_SAMPLER = ("eta", "spacing", "steps", *_CHOOSING, "variance", "unclipped_eps", *_CHURN)
_ONLY_OF = {  # the samplers that take them: for others a call without --sampler means the usual one
    "eta": ("ddim",),
    "variance": ("ddim", "ddpm"),
    "unclipped_eps": ("ddim",),
    "s_churn": ("heun",),
}
_GUIDING = ("guidance_interval", "guidance_rescale")
_BELONGING = {  # what an option replaces beside its own setting
    "steps": _CHOOSING,
    "spacing": _CHOOSING,
    **dict.fromkeys(_CHOOSING, ("steps", "spacing", *_CHOOSING)),
    "s_churn": _CHURN,
    "guidance": _GUIDING,
    "guide": ("guidance", "class_guidance", *_GUIDING),
}

_FIX = "delete that file, which ddpm sweep writes, or name weights: RUN/model.safetensors"


@dataclass(frozen=True)
class DefaultSampling:
    """The settings of Sampling that a run's sampling starts from; none of most runs."""

    sampling: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None  # their name, as --weights takes it; None: the newest
    measured: dict[str, Any] = field(default_factory=dict)  # the score, and of what
    guide_sha256: str | None = None  # of the guide's weights; None: without, or an early state
    path: Path | None = None  # where it was read

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a call that are not the usual ones: options given win, with what is theirs."""
        return self._kept(given) | dict(given)

    def with_options(self, given: Mapping[str, Any]) -> Sampling:
        """The settings of a call. Raises UsageError where they contradict each other."""
        kept = self._kept(given)
        try:
            return Sampling(**self.settings(given))
        except UsageError as error:
            if not kept:
                raise
            raise UsageError(f"{error} (by default this run has {in_words(kept)})") from error

    def varying(self, names: Collection[str]) -> DefaultSampling:
        """That of calls that vary these settings: the same for each of their values.

        What was found for one sampler would else be that of one of those compared.
        """
        gone = {*names, *(("sampler", *_OF_SAMPLER) if "sampler" in names else ())}
        kept = {name: value for name, value in self.sampling.items() if name not in gone}
        return replace(self, sampling=kept)

    def told(self, given: Mapping[str, Any], varied: Collection[str] = ()) -> str | None:
        """What a call takes from it, in a line; None where that is nothing.

        varied: settings of which it compares several values.
        """
        if self.path is None:
            return None
        asked = {**dict.fromkeys(varied), **given}
        kept, left = self.varying(varied)._kept(asked), dict[str, Any]()
        if asked.pop("sampler", given) is None:
            left = {k: v for k, v in self._kept(asked).items() if k not in (*kept, "sampler")}
        of_file = [in_words(kept)] if kept else []
        of_file += [self.weights] if self.weights is not None else []
        without = f"without {in_words(left)}, as --sampler varies" if left else ""
        if not of_file and not left:
            return None
        where = f"{self.path}; options replace it{_trained_since(self.path.parent, self.measured)}"
        found = ", ".join(filter(None, (*of_file, without)))
        return f"sampling by the best of a sweep: {found} ({where})"

    @property
    def described(self) -> str:
        """What it is and how well it scored, in words."""
        words = [in_words(self.sampling) or "the usual settings"]
        words += [self.weights] if self.weights is not None else []
        told, measured = ", ".join(words), self.measured
        value, score = measured.get("value"), measured.get("score")
        if not isinstance(value, int | float) or not isinstance(score, str):
            return told
        return f"{told}: {score} {value:.4g} of {measured.get('n')} images, by ddpm sweep"

    def find_weights(self, run: Path | None, name: str | None = None) -> Path:
        """The weights of the run, or others of it that an option names. Raises DdpmError."""
        if name is not None or self.weights is None:
            return find_weights(run, name)
        try:
            return find_weights(run, self.weights)
        except DdpmError as error:
            raise DdpmError(f"{error}: {self.path} names them; {_FIX}") from error

    def guided(self, model: Model, guide: str | None) -> Model:
        """The model with the guide of a call's settings, which may be the one here.

        Raises DdpmError where there is no such guide, or this one is no more what it was.
        """
        if guide is None or guide != self.sampling.get("guide"):
            return self._guided_as_asked(model, guide)
        named = f"{self.path} names it: give another --guide, or {_FIX}"
        try:
            found = with_guide(model, guide)
        except DdpmError as error:
            raise DdpmError(f"{error}; {named}") from error
        assert found.guide is not None, "it has one"
        if self.guide_sha256 not in (None, found.guide.sha256):
            raise DdpmError(f"--guide {guide} has changed since the sweep; {named}")
        return found

    def _guided_as_asked(self, model: Model, guide: str | None) -> Model:
        """With a guide that an option names; of weights that are named here, this is said."""
        try:
            return with_guide(model, guide)
        except DdpmError as error:
            if self.weights is None or model.path.name != self.weights:
                raise
            raise DdpmError(f"{error} ({self.path} chose {self.weights})") from error

    def with_guide_of(self, model: Model) -> DefaultSampling:
        """With the guide of a model by its absolute path and its hash; early is of each run."""
        if model.guide is None or self.sampling.get("guide") == EARLY:
            return self
        path = str(model.guide.path.resolve())
        return replace(
            self, sampling=self.sampling | {"guide": path}, guide_sha256=model.guide.sha256
        )

    def write(self, run: RunDirectory) -> None:
        """Write it into a run, in place of an earlier one. Raises DdpmError where it cannot be."""
        document = asdict(self)
        del document["path"]
        write_json(run.sampling, finite(document))

    def _kept(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of the settings options leave as it is."""
        gone = {*given}.union(*(_BELONGING.get(name, ()) for name in given))
        sampler = self.sampling.get("sampler", Sampling.sampler)
        other = given.get("sampler", sampler) != sampler
        fits = all(sampler in _ONLY_OF[name] for name in given if name in _ONLY_OF)
        if other or not fits:
            gone |= {"sampler", *_OF_SAMPLER}
        return {name: value for name, value in self.sampling.items() if name not in gone}


def of_run(run: Path | None) -> DefaultSampling:
    """The default sampling of a run; empty without one, and of files. None: the newest run.

    A consistency model's, also of a file, is its own sampler's. Raises DdpmError where the run's
    file is damaged or another program's.
    """
    path = path_of(run)
    return of_weights(run) if path is None else read(path)


def of_weights(run: Path | None, name: str | None = None) -> DefaultSampling:
    """That of a file, or of a run's weights of this name, which may be its teacher's: their own."""
    with suppress(DdpmError):  # which is said when the weights are wanted
        return DefaultSampling(own_settings(weights.describe(find_weights(run, name))))
    return DefaultSampling()


def path_of(run: Path | None) -> Path | None:
    """A run's default-sampling.json; None where it has none."""
    if run is None:
        with suppress(DdpmError):  # that there is no run is said when its weights are wanted
            run = newest_run()
    path = None if run is None else RunDirectory(paths.expanded(run)).sampling
    return path if path is not None and path.is_file() else None


def read(path: Path) -> DefaultSampling:
    """Read a run's default-sampling.json. Raises DdpmError where it is damaged or another file."""
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise DdpmError(f"{path} cannot be read: {error}; {_FIX}") from error
    if not _is_ours(document):
        raise DdpmError(f"{path} is no file of ddpm sweep: {_FIX}")
    name = document.get("weights")
    if name is not None and Path(name).name != name:
        raise DdpmError(f"{path}: weights {name!r} should be a name in the run; {_FIX}")
    try:
        settings = checked(Sampling, _infinite(document["sampling"]), "sampling")
        Sampling(**settings)
    except DdpmError as error:
        raise DdpmError(f"{path}: {error}; {_FIX}") from error
    found = DefaultSampling(settings, name, document.get("measured", {}))
    return replace(found, guide_sha256=document.get("guide_sha256"), path=path)


def _is_ours(document: Any) -> bool:
    """Whether these are the fields of a DefaultSampling."""
    name = str | None
    kinds: dict[str, Any] = {"sampling": dict, "measured": dict}
    kinds |= {"weights": name, "guide_sha256": name}
    return (
        isinstance(document, dict)
        and "sampling" in document
        and all(name in kinds and isinstance(v, kinds[name]) for name, v in document.items())
    )


def _infinite(settings: dict[str, Any]) -> dict[str, Any]:
    """With infinity, which is null in JSON."""
    infinite = {name: math.inf for name, value in settings.items() if value is None}
    lists = {
        name: [math.inf if item is None else item for item in value]
        for name, value in settings.items()
        if isinstance(value, list)
    }
    return settings | infinite | lists


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings in words: "guidance 1.6, 25 steps"."""
    words = []
    for name, value in settings.items():
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, tuple):
            shown = ",".join(f"{item:g}" for item in value)
        titled = {"steps": f"{shown} step" + "s" * (value != 1), "sampler": shown}
        words.append(titled.get(name, f"{name.replace('_', ' ')} {shown}"))
    return ", ".join(words)


def _trained_since(run: Path, measured: Mapping[str, Any]) -> str:
    """That a run was trained on after it was measured, where it was."""
    seen, path = measured.get("images_seen"), RunDirectory(run).weights
    try:
        now = weights.read_description(path, tensors.describe(path)).images
    except (DdpmError, OSError):
        return ""
    if not isinstance(seen, int) or seen == now:
        return ""
    return f"; measured at {seen:,} images seen, and the run has seen {now:,}: sweep again"
