"""`ddpm fetch-weights`: download weights of feature networks, for machines without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.config.choices import ALL, INCEPTION
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def fetch_weights(
    name: Annotated[
        str,
        typer.Argument(
            help="The network, as --features of fid takes it: inception (96 MB), dinov2-l (1.2 GB),"
            " clip-l336 (1.7 GB), or all."
        ),
    ] = INCEPTION,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the file, for --weights on another machine.",
            show_default="the cache, where fid finds it",
        ),
    ] = None,
    json: common.Json = False,
) -> None:
    """Download a feature network's weights, verified by sha256; on a cluster, from the login node.

    Examples:
        ddpm fetch-weights
        ddpm fetch-weights dinov2-l --to shared/
    """
    from ddpm_cli.core.config.fields import one_of
    from ddpm_cli.core.metrics.networks.named import NETWORKS
    from ddpm_cli.core.runtime.downloads import fetch

    start_up.end()
    one_of("NAME", name, (*NETWORKS, ALL))
    lines, files = [], []
    for network in NETWORKS if name == ALL else (name,):
        remote = NETWORKS[network].published
        path = fetch(remote, console.reporter(), folder=to)
        lines.append(f"{path}  ({remote.size:,} bytes, sha256 {remote.sha256})")
        file = {"path": str(path), "sha256": remote.sha256, "bytes": remote.size}
        files.append({"features": network, **file})
    console.result("\n".join(lines), {"files": files} | (files[0] if len(files) == 1 else {}), json)
