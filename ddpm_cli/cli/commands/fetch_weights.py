"""`ddpm fetch-weights`: download the FID Inception weights, for machines without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def fetch_weights(
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the file, for --weights on another machine.",
            show_default="the cache, where fid finds it",
        ),
    ] = None,
    json: common.Json = False,
) -> None:
    """Download the FID Inception weights, verified by sha256; on a cluster, from the login node.

    Examples:
        ddpm fetch-weights
        ddpm fetch-weights --to shared/
    """
    from ddpm_cli.core.metrics.networks.inception import PUBLISHED
    from ddpm_cli.core.runtime.downloads import fetch

    start_up.end()
    path = fetch(PUBLISHED, console.reporter(), folder=to)
    document = {"path": str(path), "sha256": PUBLISHED.sha256, "bytes": PUBLISHED.size}
    text = f"{path}  ({PUBLISHED.size:,} bytes, sha256 {PUBLISHED.sha256})"
    console.result(text, document, json)
