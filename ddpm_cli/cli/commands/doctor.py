"""`ddpm doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ddpm_cli.cli import console
from ddpm_cli.cli.options import common
from ddpm_cli.cli.options.groups import grouped
from ddpm_cli.core.runtime import start_up
from ddpm_cli.core.runtime.elastic.stopping import stop_at_once


@grouped
@stop_at_once()
def doctor(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out what starts other processes: two that work together, and torch.compile "
            "(some seconds, 90 s each at most).",
        ),
    ] = False,
    json: common.Json = False,
) -> None:
    """Look at this machine: devices, memory, disks, caches, versions; a verdict a line.

    The lines can be pasted into a question. ok: as it should be; note: slower, or less, than there
    could be; problem: it stops work, and the exit code is 1.

    Examples:
        ddpm doctor
        ddpm doctor --quick --json
    """
    from ddpm_cli.core.doctor.examination import examine
    from ddpm_cli.core.doctor.findings import PROBLEM, lines

    start_up.end()
    findings = list(examine(quick=quick, say=console.reporter().say))
    problems = sum(finding.verdict == PROBLEM for finding in findings)
    document = {"findings": [asdict(finding) for finding in findings], "problems": problems}
    console.result(lines(findings), document, json)
    if problems:
        raise typer.Exit(1)
