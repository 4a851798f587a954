"""Compile what the part `training` will need, all at once, into the cache that the parts share."""

from __future__ import annotations

import multiprocessing
import time

from tests.benchmarks.gpu_day.day import Day
from tests.benchmarks.gpu_day.training import VARIANTS, cases, measured


def run(day: Day) -> None:
    """Run beside the tests, which nobody times: a process for each case that compiles."""
    compiled = [case for case in cases(day) if VARIANTS[case[3]].compiles]
    fork = multiprocessing.get_context("fork")
    started = time.monotonic()
    processes = {
        " ".join(map(str, case)): fork.Process(target=compile_case, args=(day, *case))
        for case in compiled
    }
    for process in processes.values():
        process.start()
    for name, process in processes.items():
        process.join(max(1, day.left))
        note = "still compiling" if process.is_alive() else f"exit code {process.exitcode}"
        day.add(f"{name}: ready", time.monotonic() - started, "s", note)


def compile_case(day: Day, preset: str, batch: int, precision: str, name: str) -> None:
    """Take the first steps of a case."""
    measured(day, preset, batch, precision, VARIANTS[name], steps=4)
