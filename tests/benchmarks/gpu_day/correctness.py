"""The tests that are marked `gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.gpu_day.day import Day


class Outcomes:
    """A pytest plugin that counts outcomes, and adds a row for each test that failed."""

    def __init__(self, day: Day) -> None:
        self._day, self.counts = day, dict.fromkeys(("passed", "skipped", "failed"), 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        if report.failed:
            message = str(getattr(report.longrepr, "reprcrash", report.longrepr)).splitlines()
            name = report.nodeid.rpartition("/")[2]
            self._day.add(f"failed: {name}", None, note=message[0][-200:])


def run(day: Day) -> None:
    outcomes = Outcomes(day)
    options = ["-m", "gpu", "-n", "0", "-p", "no:cacheprovider", "-q", "--no-header"]
    code = pytest.main([*options, *map(str, marked())], plugins=[outcomes])
    note = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.counts.items())
    day.add("tests marked gpu", outcomes.counts["passed"], "passed", f"{note}; exit code {code:d}")


def marked() -> list[Path]:
    """The files with such tests: importing all others would take longer than running these."""
    tests = Path(__file__).parents[2]
    files = sorted(tests.rglob("test_*.py"))
    return [path for path in files if "pytest.mark.gpu" in path.read_text()]
