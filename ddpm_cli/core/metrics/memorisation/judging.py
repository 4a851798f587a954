"""Images -> what share of them are copies of training images, with the comparison it is of."""

from __future__ import annotations

from ddpm_cli.core.metrics.inputs.images import ImageSet
from ddpm_cli.core.metrics.memorisation.compare import Comparison, compare
from ddpm_cli.core.metrics.memorisation.report import MemorisationReport
from ddpm_cli.core.metrics.networks.extraction import Extractor
from ddpm_cli.core.runtime.reporting import Reporter, Warned


def judge(
    fake: ImageSet,
    train: ImageSet,
    held_out: ImageSet,
    extractor: Extractor,
    reporter: Reporter,
    *,
    cache: bool = True,
) -> tuple[MemorisationReport, Comparison]:
    """Compare fakes with training images, and say what to know of the result.

    Raises DdpmError as `compare`.
    """
    found = compare(fake, train, held_out, extractor, reporter, cache=cache)
    report = MemorisationReport.of(found, extractor.origin, fake, train, held_out)
    for notice in report.notices():
        reporter.say(Warned(notice))
    return report, found
