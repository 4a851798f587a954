"""`ddpm ema`: averages of the weights of any length, rebuilt after a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm_cli.cli import console, sweep_text, tables
from ddpm_cli.cli.options import common, conditioning
from ddpm_cli.cli.options import ema as options
from ddpm_cli.cli.options.fid import NetworkOptions
from ddpm_cli.cli.options.groups import grouped, names_given
from ddpm_cli.cli.tables import Column
from ddpm_cli.core.config import paths
from ddpm_cli.core.config.fields import parse_numbers
from ddpm_cli.core.errors import DdpmError, UsageError, listed
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once
from ddpm_cli.core.runtime.files import in_words, new_file
from ddpm_cli.core.runtime.reporting import Warned

if TYPE_CHECKING:
    from ddpm_cli.core.runtime.run_directory import RunDirectory
    from ddpm_cli.core.sweep.sweep import Sweep


@grouped
@stop_at_once("the files written are whole; the same command goes on with the others")
def ema(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run trained with --ema-every. Default: the newest run under runs/."),
    ] = None,
    *,
    sigma_rel: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Lengths of the averages, relative to the images seen: 0.10 or several, as "
            "0.05,0.10,0.15.",
            show_default="list what is stored, and what can be rebuilt",
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            metavar="IMAGES",
            min=1,
            help="The averages as they were after this many images.",
            show_default="all that were stored",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the files.", show_default="the run"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files if they are there.")
    ] = False,
    scoring: options.SweepOptions,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    network: NetworkOptions,
    json: common.Json = False,
) -> None:
    """Rebuild averages of the weights of any length, of those that a training stored.

    A training with --ema-every stores two averages now and then, of which others are linear
    combinations, nearly (post-hoc EMA, Karras et al. 2024). A file is written for each, as
    ema-0.100.safetensors, which ddpm sample, gif and others take as --weights ema-0.100.

    Examples:
        ddpm ema
        ddpm ema runs/photos-64 --sigma-rel 0.05,0.10,0.15
        ddpm sample runs/photos-64 --weights ema-0.150
        ddpm ema --sigma-rel 0.03,0.07,0.15,0.2 --sweep -n 2000 --steps 25
    """
    from ddpm_cli.core.runtime.run_directory import RunDirectory, newest_run, why_no_run

    lengths = None if sigma_rel is None else _lengths(sigma_rel)
    if lengths is None and (at, out, overwrite) != (None, None, False):
        raise UsageError("--at, --out and --overwrite are of averages to rebuild: give --sigma-rel")
    given = set[str]().union(*map(names_given, (scoring, conditions, sampling, network)))
    if given and not scoring.sweep:
        raise UsageError(f"{listed(sorted(given))}: of scores; add --sweep")
    if scoring.sweep and (lengths is None or len(lengths) < 2):
        raise UsageError("--sweep compares lengths: give several, as --sigma-rel 0.05,0.10,0.15")
    start_up.end()
    folder = newest_run() if run is None else paths.expanded(run)
    if not (folder / "config.json").is_file():
        raise DdpmError(why_no_run(folder, "config.json"))
    directory = RunDirectory(folder)
    if lengths is None:
        _list(directory, as_json=json)
        return
    target = folder if out is None else paths.expanded(out)
    scored = None
    if scoring.sweep:
        scored = _prepared(directory, lengths, at, scoring, conditions, sampling, network)
    rows = _rebuild(directory, lengths, at, target, overwrite=overwrite)
    if scored is not None:
        plot = folder / "ema-sweep.png" if scoring.plot is None else paths.expanded(scoring.plot)
        _score(scored, rows, plot, overwrite, as_json=json)
        return
    first = quote(Path(rows[0]["file"]).stem if out is None else rows[0]["file"])
    lines = [_table(rows), f"Next: ddpm sample {quote(str(folder))} --weights {first}"]
    console.result("\n\n".join(lines), {"run": str(folder), "averages": rows}, json)


def _prepared(
    run: RunDirectory,
    lengths: Sequence[float],
    at: int | None,
    scoring: options.SweepOptions,
    conditions: conditioning.ConditionOptions,
    sampling: common.SamplingOptions,
    network: NetworkOptions,
) -> Sweep:
    """A sweep of these lengths alone, as ddpm sweep --sigma-rel has it."""
    from ddpm_cli.core.config.choices import METRICS
    from ddpm_cli.core.generation.run_images import RunImages
    from ddpm_cli.core.runtime import devices
    from ddpm_cli.core.sweep.axes import Axis
    from ddpm_cli.core.sweep.sweep import SweepRequest

    settings = network.extractor
    images = RunImages(
        run.path,
        scoring.count,
        scoring.seed,
        conditions.request,
        sampling.nested(),
        network.precision,
    )
    asked = SweepRequest(
        axes=[Axis("sigma_rel", tuple(lengths))],
        refine=0,
        images=images,
        real=scoring.real,
        score=METRICS[settings.network][0],
        extractor=settings,
        batch=network.at_once,
        at=at,
    )
    return asked.prepare(devices.choose_device(scoring.device), console.reporter())


def _score(
    search: Sweep, rows: Sequence[dict[str, Any]], plot: Path, overwrite: bool, *, as_json: bool
) -> None:
    """Score them; the table, best first, and the curve."""
    from ddpm_cli.core.runtime import provenance
    from ddpm_cli.core.sweep.results import Results

    cost = search.cost()
    console.reporter().say(cost.told())
    search.run(cost)
    results = Results(search)
    with new_file(plot, "--plot", overwrite=overwrite, numbered=not overwrite) as path:
        results.draw(path)
    document = {
        "run": str(search.images.run),
        "averages": list(rows),
        "plot": str(path),
        "forecast": cost.document(),
        **results.document(),
        "provenance": provenance.gather(search.swept.model.device),
    }
    console.result(sweep_text.text(results, cost, path, None), document, as_json)


def _lengths(text: str) -> list[float]:
    """The lengths of --sigma-rel. Raises UsageError."""
    from ddpm_cli.core.checkpoints import profiles

    if ":" in text:
        raise UsageError(
            f"--sigma-rel {text}: ranges are for ddpm sweep; give lengths, such as 0.05,0.10"
        )
    found = parse_numbers(float, "--sigma-rel", "lengths such as 0.05,0.10")(text)
    for length in found:
        profiles.gamma(length)  # raises
    return list(dict.fromkeys(found))


def _rebuild(
    run: RunDirectory, lengths: Sequence[float], at: int | None, folder: Path, *, overwrite: bool
) -> list[dict[str, Any]]:
    """Write a file for each length; what was written, as JSON values."""
    from ddpm_cli.core.checkpoints import post_hoc
    from ddpm_cli.core.runtime.downloads import sha256_of

    reporter, rows = console.reporter(), []
    fits = [post_hoc.best_fit(run, length, at) for length in lengths]  # raise before any is read
    newest = post_hoc.stored(run)[-1].profile.images
    paths = [folder / post_hoc.name_of(profile, newest) for _, profile, _ in fits]
    for path, length, (_, profile, fit) in zip(paths, lengths, fits, strict=True):
        post_hoc.replaced(path, run, profile, overwrite=overwrite)  # raises before any is read
        if fit.error > post_hoc.GOOD:
            reporter.say(Warned(post_hoc.poorly(length, fit.error)))
    rebuilt = post_hoc.all_rebuilt(run, lengths, at, reporter)
    for path, found in zip(paths, rebuilt, strict=True):
        post_hoc.is_there(path, run, found, overwrite=overwrite)  # raises before any is written
    for path, length, found in zip(paths, lengths, rebuilt, strict=True):
        if told := post_hoc.write(path, run, found, overwrite=overwrite):
            reporter.say(f"{path} {told}")
        rows.append(
            {
                "file": str(path),
                "sigma_rel": length,
                "images": found.profile.images,
                "error": found.error,
                "stored": found.files,
                "sha256": sha256_of(path),
            }
        )
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return tables.table(
        [
            Column("SIGMA REL", [f"{row['sigma_rel']:g}" for row in rows], right=True),
            Column("IMAGES", [f"{row['images']:,}" for row in rows], right=True),
            Column("ERROR OF THE PROFILE", [f"{row['error']:.2%}" for row in rows], right=True),
            Column("STORED", [str(row["stored"]) for row in rows], right=True, needed=1),
            Column("FILE", [row["file"] for row in rows]),
        ]
    )


def _list(run: RunDirectory, *, as_json: bool) -> None:
    """What is stored, and how well the usual lengths can be rebuilt."""
    from ddpm_cli.core.checkpoints import post_hoc, profiles

    there = post_hoc.some_stored(run)
    sizes = [one.path.stat().st_size for one in there]
    newest = there[-1].profile.images
    known = [one.profile for one in there]
    errors = {x: profiles.fit(known, profiles.Profile(newest, x)).error for x in post_hoc.USUAL}
    marks = [
        "no" if error > post_hoc.USELESS else "poorly" if error > post_hoc.GOOD else "well"
        for error in errors.values()
    ]
    text = "\n\n".join(
        [
            f"{run.power_averages}: {len(there)} averages, of {known[0].images:,} to {newest:,} "
            f"images seen, {in_words(sum(sizes))}",
            tables.table(
                [
                    Column("SIGMA REL", [f"{length:g}" for length in errors], right=True),
                    Column(
                        "ERROR OF THE PROFILE",
                        [f"{error:.2%}" for error in errors.values()],
                        right=True,
                    ),
                    Column("REBUILT", marks),
                ]
            ),
            f"The error is that of the weight each step has in the average: well is up to "
            f"{post_hoc.GOOD:.0%}, no above {post_hoc.USELESS:.0%}; a smaller --ema-every in "
            "training stores more averages, of which others are made better.",
            f"Next: ddpm ema {quote(str(run.path))} --sigma-rel 0.05,0.10,0.15",
        ]
    )
    stored = [
        {"file": str(path), "images": profile.images, "sigma_rel": profile.sigma_rel, "bytes": size}
        for (path, profile), size in zip(there, sizes, strict=True)
    ]
    lengths = [{"sigma_rel": length, "error": error} for length, error in errors.items()]
    console.result(text, {"run": str(run.path), "stored": stored, "lengths": lengths}, as_json)
