"""Options of `ddpm fid`, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpm_cli.cli.options import common, scoring

if TYPE_CHECKING:
    from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings
    from ddpm_cli.core.metrics.requested import RequestedMetrics

SEVERAL, WORST = "Several fakes", "Worst images"  # panels


@dataclass(frozen=True)
class ScoreOptions:
    """Which scores are computed, and what is kept of REAL."""

    metrics: Annotated[
        str | None,
        typer.Option(
            help="Scores to compute from the one pass: any of fid,kid,prdc,is,sfid,infinity,mind,"
            "classes (prdc: precision, recall, density, coverage; is: the fakes' Inception Score; "
            "infinity: FID of infinitely many fakes; classes: FID and KID of each class); cmmd "
            "with clip-l336.",
            show_default="fid,kid,prdc; with clip-l336 cmmd",
        ),
    ] = None
    class_groups: Annotated[
        str | None,
        typer.Option(
            help='With classes: also FID and Inception Score of groups of them, such as "animals='
            'cat,dog;vehicles=car", by names or indices.',
            show_default="none",
        ),
    ] = None
    floor: Annotated[
        bool,
        typer.Option("--floor", help="Also FID of real images against as many other real images."),
    ] = False
    spread: Annotated[
        bool, typer.Option(help="FID's standard error, from 10 resamples of the fakes.")
    ] = True
    cache: Annotated[
        bool, typer.Option(help="Cache the features of images in files for the next call.")
    ] = True
    save_real: Annotated[
        Path | None,
        typer.Option(
            help="Write the real images' statistics to this .npz, to be REAL next time.",
            show_default="not written",
        ),
    ] = None

    def requested(self, network: str) -> RequestedMetrics:
        """Those of the features of this network. Raises UsageError."""
        from ddpm_cli.core.metrics.requested import RequestedMetrics

        settings = {"spread": self.spread, "floor": self.floor, "cache": self.cache}
        return RequestedMetrics.parse(self.metrics, self.class_groups, network=network, **settings)


@dataclass(frozen=True)
class WorstOptions:
    """Pictures of where FAKE fails."""

    worst: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Draw the N fakes least like any real image, and the N real images farthest from "
            "any fake (lost modes), each with its nearest of the other input.",
            rich_help_panel=WORST,
            show_default="not drawn",
        ),
    ] = None
    worst_out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for --worst.",
            rich_help_panel=WORST,
            show_default="worst in the run, or worst-FAKE, then with -2 and so on",
        ),
    ] = None


@dataclass(frozen=True)
class SeveralOptions:
    """What is made of several fakes."""

    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Put results of other days beside each other: the arguments are files of --json "
            "or --out. Unlike ones are refused.",
            rich_help_panel=SEVERAL,
        ),
    ] = False
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the scores to this .png: against images seen or guidance, where runs were "
            "sampled that differ in these alone, else as bars; and precision against recall.",
            rich_help_panel=SEVERAL,
            show_default="not drawn",
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the document of --json to this .json, after each fake.",
            rich_help_panel=SEVERAL,
            show_default="not written",
        ),
    ] = None


@dataclass(frozen=True)
class NetworkOptions:
    """The network whose features are compared."""

    weights: scoring.Weights = None
    protocol: scoring.Protocol = None
    features: scoring.Features = None
    batch: scoring.Batch = "auto"
    precision: scoring.Precision = "fp32"

    @property
    def extractor(self) -> ExtractorSettings:
        """Checked. Raises UsageError."""
        from ddpm_cli.core.metrics.networks.extraction import ExtractorSettings

        return ExtractorSettings(
            self.weights, self.features, self.protocol, self.at_once, self.precision
        )

    @property
    def at_once(self) -> int | None:
        """Images through a network at a time; None: as many as suit the device."""
        from ddpm_cli.core.generation.batching import parse_batch

        return parse_batch(self.batch)


@dataclass(frozen=True)
class InputOptions:
    """How images are read, and where the work is done."""

    nproc: common.Nproc = 1
    device: common.Device = "auto"
    skip_bad: common.SkipBad = False
    max_pixels: common.MaxPixels = None


@dataclass(frozen=True)
class DrawOptions:
    """Which images of runs are scored."""

    each_snapshot: Annotated[
        bool,
        typer.Option(
            "--each-snapshot",
            help="Score all weights of a run given as FAKE: those of its snapshots, the newest "
            "and the best, from the same seeds.",
            rich_help_panel=SEVERAL,
        ),
    ] = False
    count: scoring.Count = None
    given: scoring.Given = None
    seed: common.Seed = 0
