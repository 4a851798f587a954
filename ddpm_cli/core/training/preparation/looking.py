"""A look at images before training: what is there, what the network will see, and advice."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from shlex import quote
from typing import Any

from ddpm_cli.core.config.fields import parse_size
from ddpm_cli.core.config.network_inputs import TextConfig
from ddpm_cli.core.config.preset_choice import choose
from ddpm_cli.core.config.presets import merged
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.config.serialisation import updated
from ddpm_cli.core.data.files import allow_pixels
from ddpm_cli.core.data.inspection.copies import Copies, find_copies, held_out_rows
from ddpm_cli.core.data.inspection.survey import Survey, survey
from ddpm_cli.core.data.shapes import Shapes
from ddpm_cli.core.data.sources import Source, open_source
from ddpm_cli.core.data.transform import Transform
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.figures import contact_sheet
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.files import new_file
from ddpm_cli.core.runtime.reporting import Reporter
from ddpm_cli.core.training.preparation import advice, beginning, planning
from ddpm_cli.core.training.preparation.advised import Advice
from ddpm_cli.core.training.preparation.facts import Facts

_IN_DRY_RUN = 10_000  # images


@dataclass(frozen=True)
class Findings:
    """What was found in images, for a run that `ddpm train` would make of them."""

    data: str  # as given
    given: dict[str, str]  # options of `ddpm train` that were given, as they are typed
    survey: Survey
    copies: Copies
    other: Survey | None  # the images of --against
    config: RunConfig
    advice: list[Advice]
    sheet: Path | None  # where the contact sheet is
    shown: int = 0  # images on it
    gpu: bool = False  # the training would be on one

    @property
    def form(self) -> str:
        """What the network sees of an image, "64x64x3"."""
        network = self.config.network
        return "x".join(map(str, (*network.size, network.channels)))

    @property
    def command(self) -> str:
        """The training that is advised."""
        options = dict(self.given)
        for each in self.advice:
            for flag in re.split(" (?=--)", each.flags[0]) if each.flags else ():
                if self.gpu or not self._is_larger(flag):
                    options.setdefault(flag.split()[0], flag)
        return " ".join([f"ddpm train --data {quote(self.data)}", *options.values()])

    def _is_larger(self, flag: str) -> bool:
        """Whether a flag asks for larger images than those of the config."""
        name, _, value = flag.partition(" ")
        return name == "--size" and prod(parse_size(value)) > prod(self.config.network.size)

    def document(self) -> dict[str, Any]:
        """The findings as JSON."""
        found, source = self.survey, self.survey.source
        counts, network = found.class_counts, self.config.network
        name, other = found.name, self.other
        return {
            "data": self.data,
            "name": source.name,
            "images": len(source),
            "looked_at": found.looked_at,
            "unreadable": list(found.unreadable),
            "classes": counts,
            "multi_label": source.labels.ndim == 2,
            "no_classes_because": source.why_no_classes or None,
            "imbalance": found.imbalance,
            "sizes": _sizes(found),
            "aspect": dict(zip(("least", "median", "most"), found.aspects, strict=True)),
            "formats": dict(found.forms),
            "traits": dict(found.traits),
            "captions": None if found.lengths is None else asdict(found.lengths),
            "no_captions_because": found.why_no_captions or None,
            "equal": [[*map(name, group)] for group in self.copies.equal],
            "similar": [[*map(name, group)] for group in self.copies.similar],
            "held_out": self.config.data.holdout,
            "held_out_similar": [[*map(name, pair)] for pair in self.copies.held_out],
            "against_similar": [
                [name(here), other.name(there)]
                for here, there in self.copies.elsewhere
                if other is not None
            ],
            "notices": list(found.notices),
            "size": list(network.size),
            "channels": network.channels,
            "sheet": None if self.sheet is None else str(self.sheet),
            "advice": [asdict(each) for each in self.advice],
            "command": self.command,
        }


def look(
    request: TrainingRequest,
    reporter: Reporter,
    *,
    count: int | None,
    seed: int,
    against: str | None,
    sheet: Path | None,
    overwrite: bool,
    numbered: bool,
) -> Findings:
    """Look at the images that a request would train on; draw them to `sheet`.

    count: images to look at, by default all of up to `survey.MOST`. against: other images, in which
    copies are sought. numbered: choose another name for the sheet where there is one, as `new_file`
    does. Raises DdpmError where no image can be read, or the sheet not be written.
    """
    allow_pixels(request.max_pixels)
    assert request.data is not None
    data = request.settings.get("data", {})
    attributes, holdout = data.get("attributes", ()), data.get("holdout", 0)
    root = request.data_root
    source = open_source(request.data, reporter, training=True, attributes=attributes, root=root)
    request = planning.with_size(request, source)
    if holdout >= len(source):
        raise UsageError(f"--holdout {holdout} leaves nothing of {len(source)} images to train on")
    elsewhere = None if against is None else open_source(against, reporter, root=root)
    if sheet is None:
        return _look(request, source, elsewhere, None, reporter, count=count, seed=seed)
    with new_file(sheet, overwrite=overwrite, numbered=numbered) as path:
        return _look(request, source, elsewhere, path, reporter, count=count, seed=seed)


def advise(
    source: Source,
    config: RunConfig,
    reporter: Reporter,
    *,
    size_given: bool = False,
    seen: int | None = None,
) -> list[Advice]:
    """Advice for a run, after a look at the images, at most _IN_DRY_RUN of them.

    seen: as `advice.advise` takes it.

    Images and captions that cannot be used are not its subject: a run that could start leaves them
    out.
    """
    if isinstance(source, Shapes):
        return []
    seed, text = config.optimiser.seed, config.network.text or TextConfig()
    found = survey(source, reporter, count=_IN_DRY_RUN, seed=seed, text_length=text.length)
    copies = find_copies(found, held_out_rows(found, config.data.holdout, seed))
    facts = replace(Facts.of_survey(found, copies), unreadable=0, broken_captions=False)
    if not config.data.captions:  # none are learned
        facts = replace(facts, sentences=(), lengths=None)
    return advice.advise(facts, config, size_given=size_given, gpu=_on_gpu(), seen=seen)


def _look(
    request: TrainingRequest,
    source: Source,
    elsewhere: Source | None,
    sheet: Path | None,
    reporter: Reporter,
    *,
    count: int | None,
    seed: int,
) -> Findings:
    found = survey(source, reporter, count=count, seed=seed)
    config = _config(request, source, captioned=found.captions is not None)
    other = None if elsewhere is None else survey(elsewhere, reporter, count=count, seed=seed)
    held_out = held_out_rows(found, config.data.holdout, seed)
    copies = find_copies(found, held_out, other)
    shown = 0 if sheet is None else contact_sheet.draw(sheet, found, Transform.of(config))
    gpu, size_given = _on_gpu(), request.size is not None
    facts = Facts.of_survey(found, copies)
    hints = advice.advise(facts, config, size_given=size_given, gpu=gpu)
    if isinstance(source, Shapes):  # made for this
        hints = []
    if copies.elsewhere and other is not None:
        both = f"images that are also in {other.source.name}: {len(copies.elsewhere):,}"
        hints.insert(0, Advice(f"{both}; scores on those say too little: remove them"))
    given = _given(request, seed)
    data = request.data or ""
    return Findings(data, given, found, copies, other, config, hints, sheet, shown, gpu)


def _on_gpu() -> bool:
    """Whether a training without --device would be on a GPU."""
    return devices.choose_device().type != "cpu"


def _given(request: TrainingRequest, seed: int) -> dict[str, str]:
    values = {
        "--size": request.size and _sides(request.size),
        "--channels": request.channels,
        "--max-pixels": request.max_pixels,
        "--seed": seed,
    }
    for name, value in request.settings.get("data", {}).items():
        values[f"--{name}"] = ",".join(value) if isinstance(value, tuple) else value
    return {name: f"{name} {quote(str(value))}" for name, value in values.items() if value}


def _config(request: TrainingRequest, source: Source, *, captioned: bool) -> RunConfig:
    """What `ddpm train` would take by default for these images."""
    images = beginning.image_set(request, source)
    choice = choose(images, devices.choose_device().type)
    network: dict[str, Any] = {"size": list(images.size), "channels": images.channels}
    if not captioned:
        network["classes"] = list(source.classes)
        network["multi_label"] = source.labels.ndim == 2
    return updated(merged(choice.config(), request.settings), {"network": network})


def _sizes(found: Survey) -> dict[str, Any]:
    sizes = found.sizes
    (usual, times), *_ = sizes.most_common(1)
    return {
        "different": len(sizes),
        "smallest": list(min(sizes, key=prod)),
        "largest": list(max(sizes, key=prod)),
        "most_common": list(usual),
        "most_common_images": times,
    }


def _sides(size: tuple[int, int]) -> str:
    """A size as --size takes it: 32 or 32x64."""
    return str(size[0]) if size[0] == size[1] else "x".join(map(str, size))
