"""`ddpm data`: what is in a set of images, before a model is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console, survey_text
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import SettingOptions, grouped
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import IMAGE_FILES, RunConfig
from ddpm_cli.core.errors import UsageError
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


class ImageOptions(
    SettingOptions,
    of=TrainingRequest,
    only=("size", "resize_to_power", "channels", "max_pixels", "data_root"),
):
    """What the network sees of the images."""


class RunOptions(
    SettingOptions,
    of=RunConfig,
    only=("data.attributes", "data.fit", "data.background", "data.holdout"),
):
    """How they are prepared, and which are held out."""


@grouped
@stop_at_once()
def data(
    data: Annotated[
        str | None,
        typer.Argument(help=f"As --data of train: {IMAGE_FILES}, shapes, or a data set's name."),
    ] = None,
    *,
    images: ImageOptions,
    settings: RunOptions,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            help="Look at this many images, chosen by --seed.",
            show_default="all, of more than 100,000 that many",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="As that of train: it chooses the images of --holdout, and of -n."
        ),
    ] = 0,
    against: Annotated[
        str | None,
        typer.Option(help="Other images, such as those of a test: say which are in both."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The contact sheet, a PNG: images as the network will see them.",
            show_default="data.png, or data-2.png and so on",
        ),
    ] = None,
    sheet: Annotated[bool, typer.Option("--sheet/--no-sheet", help="Draw it.")] = True,
    overwrite: common.OverwriteFile = False,
    clear_cache: Annotated[
        bool,
        typer.Option(
            "--clear-cache",
            help="Without DATA: delete decoded images, and features of scored ones, in the cache.",
        ),
    ] = False,
    json: common.Json = False,
) -> None:
    """Look at images before training on them: classes, sizes, copies, damage, captions, advice.

    Examples:
        ddpm data photos/
        ddpm data photos/ --size 64 --against test-photos/
    """
    if clear_cache or data is None:
        if clear_cache and data is None:
            _clear_cache(as_json=json)
            return
        raise UsageError(
            f"DATA is missing: {IMAGE_FILES}, shapes, or a data set's name"
            if data is None
            else "--clear-cache deletes what is decoded of all images, and takes no DATA"
        )
    from ddpm_cli.core.training.preparation import looking

    start_up.end()
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} should end in .png")
    request = TrainingRequest(data, settings=settings.nested(), **images.nested())
    found = looking.look(
        request,
        console.reporter(),
        count=count,
        seed=seed,
        against=against,
        sheet=(out or Path("data.png")) if sheet else None,
        overwrite=overwrite,
        numbered=out is None and not overwrite,
    )
    console.result(survey_text.describe(found), found.document(), json)


def _clear_cache(*, as_json: bool) -> None:
    from ddpm_cli.core.data import cache
    from ddpm_cli.core.metrics import feature_cache
    from ddpm_cli.core.runtime.files import in_words

    reporter, found = console.reporter(), cache.entries()
    total = sum(entry.bytes for entry in found)
    if found:
        reporter.say(f"Sets of decoded images in the cache: {len(found):,}, {in_words(total)}")
    for entry in found:
        state = "" if entry.is_complete else ", incomplete"
        used = ", in use: kept" if entry.in_use else ""
        reporter.say(f"  {entry.name}: {in_words(entry.bytes)}{state}{used}")
    deleted, kept = cache.clear()
    inputs, of_features = feature_cache.clear()
    freed = sum(entry.bytes for entry in deleted)
    text = f"Sets of decoded images deleted: {len(deleted):,}, {in_words(freed)}"
    document = {
        "deleted": [{"name": entry.name, "bytes": entry.bytes} for entry in deleted],
        "kept": [{"name": entry.name, "bytes": entry.bytes} for entry in kept],
        "bytes": freed,
        "features": {"inputs": inputs, "bytes": of_features},
    }
    text = text if found else "There are no decoded images in the cache"
    if inputs:
        text += f"\nFeatures of scored images deleted: {inputs:,} inputs, {in_words(of_features)}"
    console.result(text, document, as_json)
