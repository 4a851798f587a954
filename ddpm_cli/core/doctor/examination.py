"""All checks, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ddpm_cli.core.doctor import machine, storage, trials
from ddpm_cli.core.doctor.findings import Check, Finding, carry_out

_LOOKS = (
    Check("ddpm", machine.versions),
    Check("extras", machine.extras),
    Check("variables", machine.variables),
    Check("devices", machine.gpus, 60),
    Check("cores", machine.cores),
    Check("memory", machine.memory),
    Check("runs folder", storage.runs, 60),
    Check("cache", storage.cache, 60),
    Check("FID weights", storage.weights, 60),
)
_TRIALS = (
    Check("processes", trials.processes, 3 * trials.SECONDS),
    Check("compile", trials.compiling, 2 * trials.SECONDS),
)


def examine(*, quick: bool, say: Callable[[str], None]) -> Iterator[Finding]:
    """What every check finds; `quick` leaves out those that start other processes."""
    for check in (*_LOOKS, *(() if quick else _TRIALS)):
        if check in _TRIALS:
            say(f"trying: {check.topic}, which may take {trials.SECONDS:g} s")
        yield from carry_out(check)
