"""Early stopping: whether a validation was the best so far, and whether training ends by one."""

from __future__ import annotations

from math import isnan

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.training.state import Progress
from ddpm_cli.core.training.validation import Validation


def record(progress: Progress, found: Validation | None) -> bool:
    """Record a validation; whether its loss is the lowest so far.

    found: None without held-out images: then it is the smoothed training loss that counts.
    """
    progress.loss_heldout = progress.gap = None
    loss = progress.loss_smooth
    if found is not None:
        progress.loss_heldout, _ = loss, _ = found.losses
        progress.gap = None if isnan(found.gap) else found.gap
    better = loss < progress.best
    progress.stale = 0 if better else progress.stale + 1
    progress.best = loss if better else progress.best
    return better


def reason(config: RunConfig, progress: Progress) -> str:
    """Why training ends before its budget is used up, in words; "" where it does not."""
    if 0 < config.patience <= progress.stale:
        return f"No better loss for {progress.stale} validations"
    limit = config.stop_at_gap
    if limit is not None and progress.gap is not None and progress.gap >= limit:
        return (
            f"The held-out loss is at least {100 * progress.gap:.0f} % (two standard errors below "
            "what was measured) above that of images trained on, in a quarter of the noise levels "
            f"(--stop-at-gap {limit:g}): the model begins to copy"
        )
    return ""
