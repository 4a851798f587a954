"""`ddpm fid`: distance between sets of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import class_tables, console, scores_text
from ddpm_cli.cli.options import common, conditioning, scoring
from ddpm_cli.cli.options import fid as options
from ddpm_cli.cli.options.groups import grouped, names_given
from ddpm_cli.core.config.run import IMAGE_FILES
from ddpm_cli.core.errors import UsageError, listed
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import NO_SCORE, stop_at_once
from ddpm_cli.core.runtime.files import new_file
from ddpm_cli.core.runtime.reporting import Warned

if TYPE_CHECKING:
    from ddpm_cli.core.metrics.comparing import Comparison
    from ddpm_cli.core.metrics.results import Results

_COMPARE = "ddpm fid --compare monday.json tuesday.json"
INPUTS = f"{IMAGE_FILES}, statistics .npz (mu, sigma) or a data set's name (cifar10:train)"


@grouped
@stop_at_once(NO_SCORE)
def fid(
    real: Annotated[
        str | None,
        typer.Argument(metavar="REAL", help=f"The real images: {INPUTS}.", show_default=False),
    ] = None,
    fake: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FAKE...",
            help="The images to score: any of the same, or a run (or snapshot) to sample from; "
            "several are put in a table, best first.",
            show_default=False,
        ),
    ] = None,
    *,
    scores: options.ScoreOptions,
    failures: options.WorstOptions,
    network: options.NetworkOptions,
    draw: options.DrawOptions,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    several: options.SeveralOptions,
    inputs: options.InputOptions,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the files, and the folder's of --worst, if they are there."
        ),
    ] = False,
    json: common.Json = False,
) -> None:
    """Frechet Inception distance and related scores of sets of images against real ones.

    FID and KID: lower is better. Precision falls when fakes resemble no real image, recall when
    they miss some kinds of real images.

    Examples:
        ddpm fid photos/ fake/
        ddpm fid cifar10:train runs/cifar10-32 -n 10000 --metrics fid,kid,prdc
        ddpm fid photos/ runs/photos-64 --each-snapshot --plot snapshots.png
        ddpm fid photos/ fake/ --worst 64
        ddpm fid --compare monday.json tuesday.json
    """
    files = {"--save-real": scores.save_real, "--plot": several.plot, "--out": several.out}
    for (option, path), suffix in zip(files.items(), (".npz", ".png", ".json"), strict=True):
        if path is not None and path.suffix != suffix:
            raise UsageError(f"{option} {path} should end in {suffix}")
    claimed = partial(_claimed, files, overwrite=overwrite)
    if several.compare:
        groups = (scores, failures, network, draw, conditions, sampling, inputs)
        if real is None:
            raise UsageError(f"--compare needs files of --json or --out, such as: {_COMPARE}")
        _compare([real, *(fake or [])], groups, several, claimed, as_json=json)
        return
    if real is None or not fake:
        missing, example = "FAKE" if real else "REAL", "ddpm fid photos/ fake/; see ddpm fid --help"
        raise UsageError(f"Missing argument '{missing}'; such as: {example}")
    from ddpm_cli.core.data.files import allow_pixels
    from ddpm_cli.core.generation.fakes import named, opened_later
    from ddpm_cli.core.metrics.evaluate import Evaluation
    from ddpm_cli.core.metrics.inputs.opening import open_input
    from ddpm_cli.core.metrics.results import Results
    from ddpm_cli.core.metrics.worst.pictures import requested_worst
    from ddpm_cli.core.runtime import devices, distributed, processes, provenance
    from ddpm_cli.core.runtime.run_directory import is_run_or_weights

    start_up.end()
    allow_pixels(inputs.max_pixels)
    reporter, settings = console.reporter(), network.extractor
    requested = scores.requested(settings.network)
    if is_run_or_weights(real):
        swap = "" if is_run_or_weights(fake[0]) else f"; swap them: ddpm fid {fake[0]} {real}"
        raise UsageError(f"REAL {real} is a run; only FAKE can be one{swap}")
    names = named(fake, reporter, each_snapshot=draw.each_snapshot)
    sampled = scoring.sampled_runs(
        names, draw.count, draw.seed, conditions, sampling, network.precision, draw.given
    )
    if failures.worst is not None and len(names) > 1:
        raise UsageError(f"--worst is of one FAKE, and there are {len(names)}; give one")
    beside = scoring.results_beside(names[0], "worst")
    real_input = open_input(real, inputs.skip_bad, reporter)
    if processes.launch_if_needed(inputs.nproc, inputs.device, reporter, NO_SCORE):
        return
    chosen = devices.choose_device(inputs.device)
    with (
        distributed.process_group(chosen),
        claimed(distributed.broadcast_from_rank0),
        requested_worst(
            failures.worst, failures.worst_out, beside, reporter, overwrite=overwrite
        ) as worst,
    ):
        requested = replace(requested, worst=worst)
        opened = opened_later(names, sampled, inputs.skip_bad, network.at_once, chosen)
        evaluation = Evaluation(real_input, opened, requested, reporter)
        extractor = evaluation.load(settings, chosen)
        results = Results(names, partial(provenance.gather, chosen), several.out, reporter)
        try:
            statistics = evaluation.collect_real(extractor)
            if scores.save_real is not None and statistics is not None:
                statistics.write(scores.save_real)
                reporter.say(f"the statistics of REAL are in {scores.save_real}")
            for outcome in evaluation.outcomes():
                results.add(outcome)
        finally:  # also of what was scored before a failure, or a signal
            _show_results(results, several.plot, as_json=json)
        results.raise_if_any_failed()


def _compare(
    names: Sequence[str],
    others: Sequence[Any],
    several: options.SeveralOptions,
    claimed: Callable[[], AbstractContextManager[None]],
    *,
    as_json: bool,
) -> None:
    """The table of results of other days. Raises UsageError for options that compute some."""
    from ddpm_cli.core.metrics import saved_results
    from ddpm_cli.core.runtime.files import finite, write_json

    if given := set[str]().union(*map(names_given, others)):
        raise UsageError(f"--compare computes nothing: {listed(sorted(given))} has no meaning")
    comparison = saved_results.compare(list(map(Path, names)), console.reporter())
    document = finite(comparison.document({}))
    with claimed():
        if several.out is not None:
            write_json(several.out, document)
            console.reporter().say(f"the results are in {several.out}")
        _draw(comparison, several.plot)
        console.result(scores_text.text(comparison), document, as_json)


def _show_results(results: Results, plot: Path | None, *, as_json: bool) -> None:
    """Notices, then the table; of a single fake a line for each score."""
    from ddpm_cli.core.runtime import distributed

    if not results.reports:
        return
    reporter = console.reporter()
    for notice in results.notices():
        reporter.say(Warned(notice))
    document = results.document()
    if results.alone:
        text = "\n".join(filter(None, (results.alone.lines(), class_tables.text(document))))
    else:
        text = scores_text.text(results.comparison)
    console.result(text, document, as_json)
    if distributed.is_main():
        _draw(results.comparison, plot)


def _draw(comparison: Comparison, plot: Path | None) -> None:
    if plot is not None:
        from ddpm_cli.core.metrics.drawing import draw

        files = draw(plot, comparison)
        console.reporter().say(f"the scores are drawn in {listed(list(map(str, files)), 3)}")


@contextmanager
def _claimed(
    files: Mapping[str, Path | None],
    on_rank0: Callable[[Callable[[], Path]], Path] = lambda work: work(),
    *,
    overwrite: bool,
) -> Iterator[None]:
    """Take the names of files, by option, for the block to write. Raises DdpmError."""
    with ExitStack() as stack:
        for option, path in files.items():
            if path is not None:
                claim = new_file(path, option, overwrite=overwrite)
                on_rank0(partial(stack.enter_context, claim))
        yield
