"""Compiling the network for sampling where that pays, and sampling without where it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from ddpm_cli.core.diffusion.denoiser import NetworkFn
from ddpm_cli.core.runtime.compiling import run_compiled
from ddpm_cli.core.runtime.reporting import Reporter

T = TypeVar("T")

_WORTH = 10 * 60  # seconds of sampling from which a gain of 1.15 pays for a minute; not measured


class Compiler:
    """Compiles networks for batches of one size; others, such as the last, go without.

    asked: None compiles on a GPU, once it is known that there is enough to sample.
    """

    def __init__(
        self,
        networks: Sequence[NetworkFn],
        asked: bool | None,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self._networks = [network for network in networks if isinstance(network, nn.Module)]
        self._reporter = reporter
        self._wanted = bool(asked)
        self._undecided = asked is None and device.type == "cuda"
        self._size: int | None = None  # of the batches that it was compiled for
        if asked:
            reporter.say("Compiling the network: this can take minutes.")

    def consider(self, seconds: float) -> None:
        """Decide to compile where sampling would take at least so many more seconds without."""
        if self._undecided and seconds >= _WORTH:
            self._undecided, self._wanted = False, True
            self._reporter.say(
                "Compiling the network, a minute or two: it should pay, as sampling would take "
                f"about {seconds / 60:,.0f} min more; --no-compile leaves it out."
            )

    def run(self, images: int, work: Callable[[], T]) -> T:
        """What the work with so many images returns, with the network compiled if it is to be.

        Where compiling fails, which is reported, the work is done again without.
        """
        if not self._wanted or not self._networks:
            return work()
        if self._size is not None:
            with torch.compiler.set_stance("default" if images == self._size else "force_eager"):
                return work()
        result, self._wanted = run_compiled(self._networks, work, self._reporter, "sampling")
        if self._wanted:
            self._size = images
        return result
