"""Whether few images are seen so often that a model will copy them, and what to do about it."""

from __future__ import annotations

from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.training.preparation.advised import Advice, rounded, rounded_down

# Fewer images than this are copied where each is seen often (Kadkhodaie et al. 2024 measured that
# ten thousand faces of 80x80 are about enough; Karras et al. 2020 augment below some thousands).
_FEW = 5_000
# Epochs, as measured in docs/training.md, "Few images: copies".
_OVERFITTED = 150  # the loss on images held out rises
_SOME_COPIED = 250  # the first samples are copies
_MOST_COPIED = 400
_AUGMENTED = 2  # times as many with --augment
_TOO_SELDOM = 50  # between validations, for the one before the first copies to be far enough away
_WISE = 20  # between validations


def advise(images: int, budget: int, config: RunConfig) -> Advice | None:
    """What to know where `images` are trained on for a budget that is counted in images.

    None where they are many, seen seldom, or a validation will end the training in time.
    """
    epochs = budget / max(1, images)
    passed = epochs / (_AUGMENTED if config.data.augment else 1)
    if images >= _FEW or passed <= _OVERFITTED:
        return None
    flags = _flags(images, budget, config)
    between = config.validate_every / max(1, images)
    if _ends_by_itself(config):
        if between <= _TOO_SELDOM or passed < _SOME_COPIED:
            return None
        return Advice(
            f"{images:,} images are validated every {config.validate_every:,} ({between:,.0f} "
            "epochs), too seldom to stop before they are copied",
            flags[-1:],
        )
    seen = f"{images:,} images for {budget:,} ({epochs:,.0f} epochs)"
    if passed < _SOME_COPIED:
        return Advice(f"{seen} may be overfitted", flags, warning=False)
    held_out = config.data.holdout or config.holdout_data
    others = "" if held_out else " (without --holdout it needs --held-out images)"
    copied = "will be copied, not learned" if passed >= _MOST_COPIED else "begin to be copied"
    return Advice(
        f"{seen} {copied}; more images help most, and ddpm memorisation says "
        f"afterwards how many samples are copies{others}",
        flags,
    )


def _ends_by_itself(config: RunConfig) -> bool:
    """Whether training stops where the loss on held-out images rises."""
    held_out = config.data.holdout or config.holdout_data
    return bool(held_out and (config.patience or config.stop_at_gap))


def _flags(images: int, budget: int, config: RunConfig) -> tuple[str, ...]:
    """What helps, each alone; last what ends the training in time."""
    wise, augmented = images * _OVERFITTED, images * _OVERFITTED * _AUGMENTED
    smaller = f"--images {rounded_down(augmented if config.data.augment else wise)}"
    if config.data.augment:
        flags = [smaller]
    elif budget <= augmented:
        flags = ["--augment 0.12", smaller]
    else:
        flags = [f"--augment 0.12 --images {rounded_down(augmented)}"]
    stopping = []
    if not (config.data.holdout or config.holdout_data):
        some = max(images / 10, min(5, images / 5))
        stopping.append(f"--holdout {rounded(some)}")
    if not (config.patience or config.stop_at_gap):
        stopping.append("--patience 3")
    if config.validate_every > _WISE * images:
        stopping.append(f"--validate-every {rounded(images * _WISE)}")
    return (*flags, " ".join(stopping)) if stopping else tuple(flags)
