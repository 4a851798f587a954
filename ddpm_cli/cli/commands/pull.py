"""`ddpm pull`: download a model from a model hub."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def pull(
    repo: Annotated[
        str, typer.Argument(help="The repository, user/name: of ddpm push, or of diffusers.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to make; one that is there is left as it is.", show_default="runs/name"
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit.", show_default="main")
    ] = None,
    json: common.Json = False,
) -> None:
    """Download a model from the Hugging Face hub into a folder that ddpm sample takes.

    Only safetensors, text and pictures are taken, by their names, and compared with the hub's
    hashes; no code in them is run. A pipeline of diffusers is converted, as ddpm convert does.

    Examples:
        ddpm pull someone/shapes-32
        ddpm pull someone/shapes-32 --revision longer --out runs/longer
    """
    from ddpm_cli.core.hub.pull import PullRequest
    from ddpm_cli.core.hub.pull import pull as download

    start_up.end()
    document = download(PullRequest(repo, out, revision), console.reporter())
    place = document["run"]
    commit, following = document["commit"][:12], f"ddpm sample {quote(place)}"
    console.result(f"{repo} (commit {commit}) is in {place}\nNext: {following}", document, json)
