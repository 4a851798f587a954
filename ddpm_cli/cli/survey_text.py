"""The findings of `ddpm data` in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from ddpm_cli.cli import console
from ddpm_cli.core.errors import listed

if TYPE_CHECKING:
    from ddpm_cli.core.data.inspection.survey import Survey
    from ddpm_cli.core.training.preparation.looking import Findings

_BARS = 20  # classes shown
_GROUPS, _FILES = 5, 10  # groups of copies, unreadable files that are named


def describe(found: Findings) -> str:
    """All that is printed, a fact a line."""
    seen = found.survey
    lines = [
        *_images(seen),
        *_classes(seen),
        *_captions(seen),
        *_copies(found),
    ]
    if found.sheet is not None:
        lines.append(f"Contact sheet: {found.sheet}, {found.shown} images as {found.form}")
    for title, warning in (("Warnings:", True), ("Proposals:", False)):
        said = [f"  {each.line}" for each in found.advice if each.warning == warning]
        lines += [title, *said] if said else []
    return "\n".join(map(_printable, [*lines, f"Next: {found.command}"]))


def _images(seen: Survey) -> Iterator[str]:
    total = len(seen.source)
    part = "" if seen.looked_at == total else f", {seen.looked_at:,} of them looked at"
    yield f"{seen.source.name}: {total:,} images{part}"
    yield from seen.notices
    sizes, (low, median, high) = seen.sizes, seen.aspects
    (usual, times), *_ = sizes.most_common(1)
    if len(sizes) == 1:
        yield f"Sizes: all {_shape(usual)} (height x width)"
    else:
        smallest, largest = (_shape(choose(sizes, key=prod)) for choose in (min, max))
        common = f", most often {_shape(usual)} ({times:,})" if 10 * times >= sizes.total() else ""
        yield (
            f"Sizes: {smallest} to {largest} (height x width){common}; width over height {low:.3g} "
            f"to {high:.3g}, median {median:.3g}"
        )
    if seen.forms:
        yield f"Formats: {_counted(seen.forms)}"
    if seen.traits:
        yield f"Of these {_counted(seen.traits)}"
    if seen.unreadable:
        yield f"Unreadable: {len(seen.unreadable):,}"
        yield from _indented(seen.unreadable, _FILES)


def _classes(seen: Survey) -> Iterator[str]:
    counts = seen.class_counts
    if not counts:
        yield f"No classes{': ' * bool(seen.source.why_no_classes)}{seen.source.why_no_classes}"
        return
    uneven = seen.imbalance is not None and seen.imbalance > 1
    ratio = f", the largest {seen.imbalance:.3g} times the smallest" if uneven else ""
    several = seen.source.labels.ndim == 2
    kind = "attributes, of which an image has any number" if several else "classes"
    yield f"{len(counts):,} {kind}{ratio}:"
    shown = dict(sorted(counts.items(), key=lambda item: -item[1])[:_BARS])
    if len(counts) <= _BARS:
        shown = counts
    yield from (f"  {line}" for line in console.bars(shown))
    if len(counts) > len(shown):
        rest = sorted(counts.values(), reverse=True)[_BARS:]
        yield f"  … {len(rest):,} more, of {rest[-1]:,} to {rest[0]:,} images"


def _captions(seen: Survey) -> Iterator[str]:
    if seen.why_no_captions:
        yield f"Captions cannot be used: {seen.why_no_captions}"
    if seen.lengths is None or seen.captions is None:
        return
    lengths = seen.lengths
    few, many = lengths.an_image
    each = f"{few}" if few == many else f"{few} to {many}"
    yield f"{lengths.sentences:,} different captions ({seen.captions.origin}), {each} an image"
    words, sizes = ("/".join(map(str, three)) for three in (lengths.words, lengths.bytes))
    yield f"  words {words}, bytes {sizes} (shortest/median/longest)"
    yield from (f"  {sentence!r}" for sentence in seen.captions.examples(3)[0])


def _copies(found: Findings) -> Iterator[str]:
    copies, name, other = found.copies, found.survey.name, found.other
    if copies.similar:
        equal = sum(len(group) - 1 for group in copies.equal)
        same = f", of these the same file: {equal:,}"
        yield f"Images that look like others: {copies.needless:,}{same}"
        yield from _indented([_group([*map(name, group)]) for group in copies.similar], _GROUPS)
    else:
        yield "No two images look the same"
    if found.config.data.holdout:
        pairs = [f"{name(held)} = {name(trained)}" for held, trained in copies.held_out]
        count = found.config.data.holdout
        yield f"Of {count:,} images held out, those that look like ones trained on: {len(pairs):,}"
        yield from _indented(pairs, _GROUPS)
    if other is not None:
        pairs = [f"{name(here)} = {other.name(there)}" for here, there in copies.elsewhere]
        yield f"Images that look like ones of {other.source.name}: {len(pairs):,}"
        yield from _indented(pairs, _GROUPS)


def _group(names: Sequence[str]) -> str:
    return listed(names, 4, " = ")


def _indented(lines: Sequence[str], most: int) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:most])
    if len(lines) > most:
        yield f"  … {len(lines) - most:,} more"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


def _shape(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _printable(line: str) -> str:
    """On one line, and without bytes that are no UTF-8, which names of files may hold."""
    return " ".join(line.encode("utf-8", "backslashreplace").decode().splitlines())
