"""Compiling networks by the work they are for, which is done without where compiling fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime import devices
from ddpm_cli.core.runtime.reporting import Reporter, Warned

T = TypeVar("T")


def run_compiled(
    networks: Sequence[nn.Module],
    work: Callable[[], T],
    reporter: Reporter,
    what: str,
    *,
    whole: bool = False,
) -> tuple[T, bool]:
    """Compile networks, in place, each at its first call within the work.

    Returns what the work does, and whether they are compiled: where that fails it is
    reported, and the work is done again without. what: goes on then, as "training", for the
    message. whole: as one graph, or not at all. Errors of memory and of ddpm are the work's own.
    """
    for network in networks:
        network.compile(fullgraph=whole, dynamic=False)  # a graph for each shape
    try:
        return work(), True
    except DdpmError:
        raise
    except Exception as error:  # of many types: a missing compiler, missing headers, an old GPU
        if devices.is_out_of_memory(error):
            raise
        reason = first_line(getattr(error, "inner_exception", error))  # of what torch wrapped
    for network in networks:
        network._compiled_call_impl = None
    reporter.say(
        Warned(f"Compiling the network does not work here, so {what} continues without: {reason}")
    )
    return work(), False
