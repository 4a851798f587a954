"""Meeting the other processes: what is waited for is said, and a signal ends the waiting."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import TypeVar

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from ddpm_cli.core.errors import DdpmError, first_line
from ddpm_cli.core.runtime.elastic import worker
from ddpm_cli.core.runtime.elastic.variables import shown

T = TypeVar("T")

_FIRST_NOTICE = 5.0  # seconds of waiting before it is announced
_NOTICE_INTERVAL = 60.0  # seconds between two announcements
_POLL_INTERVAL = 0.1  # seconds
_CONNECT_TIMEOUT = 5.0  # seconds to wait for an answer from rank 0's machine


class Rendezvous:
    """The store of rank 0, at MASTER_ADDR and MASTER_PORT, where all processes report."""

    def __init__(self, rank: int, size: int, timeout: timedelta) -> None:
        """`timeout`: of the store's operations, when all have met."""
        self.rank, self.size = rank, size
        self._timeout = timeout
        self._host, self._port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._missing: int | None = None  # unknown before the store answers

    def meet(self) -> Store:
        """Connect to the store, and wait until all processes have."""
        store = self._connect()
        if store.add(f"ddpm/rank{self.rank}", 1) == 1:  # not where it was started again
            store.add("ddpm/processes", 1)
        while missing := self.size - store.add("ddpm/processes", 0):
            self._missing = missing
            time.sleep(_POLL_INTERVAL)
        self._missing = 0
        return store

    @property
    def waiting_for(self) -> str:
        """What is waited for: "3 more of 4 processes at host:29500"."""
        endpoint = f"{self._host}:{self._port}"
        if self._missing is None:
            return f"an answer from {endpoint}, where the process with RANK=0 should run"
        if self._missing:
            return f"{self._missing} more of {self.size} processes at {endpoint}"
        return f"connections to all {self.size} processes that met at {endpoint}"

    def announce(self) -> None:
        """Say what is waited for: rank 0 for all, others only where they do not find it."""
        if self.rank == 0 or self._missing is None:
            print(f"Waiting for {self.waiting_for}", file=sys.stderr, flush=True)

    def _connect(self) -> Store:
        of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun hosts it
        is_host = self.rank == 0 and not of_agent
        if not is_host:
            self._await_host()
        try:
            return TCPStore(
                self._host,
                self._port,
                self.size,
                is_host,
                timeout=self._timeout,
                wait_for_workers=False,
                multi_tenant=True,
            )
        except RuntimeError as error:
            if not is_host:
                raise
            in_use = "address already in use" in str(error)
            reason = "the port is in use" if in_use else first_line(error)
            raise DdpmError(
                f"{worker.rank_name()} cannot listen at {shown('MASTER_PORT')}: {reason}; "
                "give all processes another port"
            ) from error

    def _await_host(self) -> None:
        while True:
            try:
                socket.create_connection((self._host, self._port), _CONNECT_TIMEOUT).close()
                return
            except OSError:
                time.sleep(_POLL_INTERVAL)


def run_interruptibly(work: Callable[[], T], announce: Callable[[], None]) -> T:
    """Call `work` in another thread, while this one handles signals; announce it now and then."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="rendezvous", daemon=True).start()
    interval = _FIRST_NOTICE
    while not wait([outcome], interval).done:
        announce()
        interval = _NOTICE_INTERVAL
    return outcome.result()
