"""What a look at the machine finds: a verdict a line, and what to do. Each look ends in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ddpm_cli.core.errors import first_line

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, what was seen, and what to do."""

    topic: str
    verdict: str  # ok; note: slower or less than there could be; problem: it stops work
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """A look at a part of the machine, which may take some seconds."""

    topic: str
    look: Callable[[], Sequence[Finding]]
    seconds: float = 20.0  # after which it is left behind


def carry_out(check: Check) -> Sequence[Finding]:
    """What a check finds; where it fails or does not end in time, a line says so."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.extend(check.look())
        except Exception as error:
            text = f"could not be looked at: {type(error).__name__}: {first_line(error)}"
            found.append(Finding(check.topic, NOTE, text))

    thread = threading.Thread(target=look, daemon=True)  # one that hangs does not stop the exit
    thread.start()
    thread.join(check.seconds)
    if thread.is_alive():
        text = f"no answer in {check.seconds:g} s"
        return [Finding(check.topic, NOTE, text, "a disk or a device that hangs; try again")]
    return found


def lines(findings: Sequence[Finding]) -> str:
    """The findings as plain text, with what to do below a line."""
    width = max(len(finding.topic) for finding in findings) + 2
    told = []
    for finding in findings:
        told.append(f"{finding.verdict:9}{finding.topic:{width}}{finding.text}")
        if finding.advice:
            told.append(f"{'':{9 + width}}-> {finding.advice}")
    problems = sum(finding.verdict == PROBLEM for finding in findings)
    notes = sum(finding.verdict == NOTE for finding in findings)
    told.append(
        f"{problems} {'problem' if problems == 1 else 'problems'}, "
        f"{notes} {'note' if notes == 1 else 'notes'}"
    )
    return "\n".join(told)
