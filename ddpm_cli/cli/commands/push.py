"""`ddpm push`: upload a run to a model hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once

_PANEL = "Repository"


@dataclass(frozen=True)
class RepositoryOptions:
    """What is made in the repository."""

    license: Annotated[
        str | None,
        typer.Option(
            help="The card's licence, as the hub names it: mit, apache-2.0, cc-by-4.0, ….",
            show_default="a comment asks for it",
            rich_help_panel=_PANEL,
        ),
    ] = None
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Create the repository as a private one; one that is there stays as it is.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    revision: Annotated[
        str | None,
        typer.Option(
            help="A branch, created if it is not there.",
            show_default="main",
            rich_help_panel=_PANEL,
        ),
    ] = None
    message: Annotated[
        str | None,
        typer.Option(
            help="Message of the commit.",
            show_default="how many images the model has seen",
            rich_help_panel=_PANEL,
        ),
    ] = None


@grouped
@stop_at_once()
def push(
    run: Annotated[Path, typer.Argument(help="A run directory, weights file or snapshot.")],
    repo: Annotated[
        str, typer.Argument(help="The repository, user/name; it is created if it is not there.")
    ],
    repository: RepositoryOptions,
    *,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Other weights of the run: best (of the lowest loss), the images seen of a "
            "snapshot, or a file.",
            show_default="the newest",
        ),
    ] = None,
    card_only: Annotated[
        bool,
        typer.Option("--card-only", help="Upload the card and its pictures alone, to renew them."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the files and show the card; upload nothing. No login is needed.",
        ),
    ] = False,
    device: common.Device = "auto",
    json: common.Json = False,
) -> None:
    """Upload a run to the Hugging Face hub: weights, a model card, samples, scores, settings.

    Where diffusers has the same network, its pipeline lies beside: DDPMPipeline.from_pretrained
    loads the repository, too. Log in first by `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names
    another hub.

    Examples:
        ddpm push runs/shapes-32 someone/shapes-32 --dry-run
        ddpm push runs/shapes-32 someone/shapes-32 --license mit --private
    """
    from ddpm_cli.core.hub.push import PushRequest, rehearse
    from ddpm_cli.core.hub.push import push as upload

    start_up.end()
    request = PushRequest(
        run,
        repo,
        weights,
        repository.private,
        repository.revision,
        repository.message,
        repository.license,
        card_only=card_only,
    )
    act = rehearse if dry_run else upload
    document = act(request, device, console.reporter())
    console.result(_summary(document, repo), document, json)


def _summary(document: dict[str, Any], repo: str) -> str:
    from ddpm_cli.core.runtime.files import in_words

    files = "\n".join(
        f"  {in_words(each['bytes']):>9}  {each['file']}" for each in document["files"]
    )
    obstacle = document["no_export_because"]
    diffusers = f"No pipeline of diffusers lies beside: {obstacle}.\n" if obstacle else ""
    if "url" not in document:
        return f"{document['card']}\nFiles for {repo}:\n{files}\n{diffusers}Nothing was uploaded."
    return f"{files}\n{diffusers}Uploaded: {document['url']}\nNext: ddpm pull {repo}"
