"""The results of one call as they come, each kept at once: of one fake, or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddpm_cli.core.errors import DdpmError, listed
from ddpm_cli.core.metrics.comparing import Comparison, Result
from ddpm_cli.core.metrics.evaluate import Outcome
from ddpm_cli.core.metrics.report import Report
from ddpm_cli.core.runtime import distributed
from ddpm_cli.core.runtime.files import finite, write_json
from ddpm_cli.core.runtime.reporting import Reporter


class Results:
    """Reports by fake, and why others have none."""

    def __init__(
        self,
        names: Sequence[str],
        provenance: Callable[[], dict[str, Any]],
        out: Path | None,
        reporter: Reporter,
    ) -> None:
        """names: of all fakes; out: a file for the document, written again after each of them."""
        self._names, self._provenance = names, provenance
        self._out, self._reporter = out, reporter
        self.reports: dict[str, Report] = {}
        self.errors: dict[str, DdpmError] = {}

    def add(self, outcome: Outcome) -> None:
        """Take the next one, and say it. Raises DdpmError where it cannot be kept."""
        report = outcome.result
        if isinstance(report, DdpmError):
            self.errors[outcome.name] = report
        else:
            self.reports[outcome.name] = report
        if self.reports and self._out is not None and distributed.is_main():
            write_json(self._out, finite(self.document()))
        if self.alone is None and not isinstance(report, DdpmError):
            scores = (score.line(report.origin.label) for score in report.scores)
            self._reporter.say(f"{outcome.name}: {'; '.join(scores)}")

    @property
    def alone(self) -> Report | None:
        """The report of a single fake; None where there are several."""
        return self.reports.get(self._names[0]) if len(self._names) == 1 else None

    @property
    def failed(self) -> dict[str, str]:
        """Why fakes have no scores, by name."""
        missing = (name for name in self._names if name not in self.reports)
        return {name: str(self.errors.get(name, "not reached")) for name in missing}

    @property
    def comparison(self) -> Comparison:
        """Those that there are, beside each other."""
        return Comparison([Result(name, r.document()) for name, r in self.reports.items()])

    def document(self) -> dict[str, Any]:
        """The document for --json: flat for a single fake."""
        origin = {"provenance": self._provenance()}
        if self.alone is not None:
            return self.alone.document() | {"name": self._names[0]} | origin
        return self.comparison.document(self.failed) | origin

    def notices(self) -> list[str]:
        """What biases the scores, each once, with the fakes that it is of where there are several.

        What is said of FAKE alone, such as its copies, differs from fake to fake.
        """
        names: dict[str, list[str]] = {}
        for name, report in self.reports.items():
            for notice in report.notices():
                names.setdefault(notice, []).append(name)
        if self.alone is not None:
            return list(names)
        return [
            notice if len(of) == len(self.reports) else f"{listed(of, 3)}: {notice}"
            for notice, of in names.items()
        ]

    def raise_if_any_failed(self) -> None:
        """Raise DdpmError that says which fakes have no scores; why was said when they failed."""
        if self.failed:
            raise DdpmError(
                f"{len(self.failed)} of {len(self._names)} fakes could not be scored: "
                f"{listed(list(self.failed))}"
            )
