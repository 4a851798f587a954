"""Numbers in words: the same number is written in the same way wherever it is told."""

from __future__ import annotations

from ddpm_cli.core.config.run import Budget

_COLOURS = {1: "grey", 3: "colour", 4: "colour with alpha"}


def count(number: int) -> str:
    """A number to three digits, as 640, 56.5 k, 35.7 M or 12.4 G."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:  # which has more than three digits of the unit below
            return f"{number / size:.3g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """A time that was measured, as "23 s", "1 min 05 s", "3 h 05 min" or "2 d 04 h"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def roughly(seconds: float) -> str:
    """A time that is estimated, as "45 s", "12 min", or from two hours on "2.3 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def limits(budget: Budget) -> str:
    """The limits of a budget, as "57,600 images or 90 minutes"; "" without any."""
    units = {
        "images": budget.images,
        "steps": budget.steps,
        "epochs": budget.epochs,
        "minutes": budget.minutes,
    }
    found = [(limit, unit) for unit, limit in units.items() if limit is not None]
    return " or ".join(
        f"{limit:,.10g} {unit}" if isinstance(limit, float) else f"{limit:,} {unit}"
        for limit, unit in found
    )


def colours(channels: int) -> str:
    """What images of so many channels show."""
    return _COLOURS.get(channels, f"{channels} channels")
