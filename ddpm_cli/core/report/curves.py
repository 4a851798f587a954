"""The charts of a report: one run's curves, or those of two over each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ddpm_cli.core.figures import charts, plots
from ddpm_cli.core.figures.charts import Chart, Curve
from ddpm_cli.core.report.records import Column, Record

_LEVELS = (
    ("loss_q0", "lowest quarter of the noise levels"),
    ("loss_q1", "second quarter"),
    ("loss_q2", "third quarter"),
    ("loss_q3", "highest quarter"),
)
_FIRST_LEVEL = 2  # the colour of the lowest noise levels


@dataclass(frozen=True)
class Shown:
    """A chart of the page."""

    chart: Chart
    drawing: charts.Drawing
    note: str = ""


def draw(records: Sequence[Record]) -> list[Shown]:
    """The charts for which there are numbers, of one run or of several."""
    found = [_loss(records), *_gaps(records), *_levels(records), _rate(records), _norm(records)]
    found += [_speed(records), *_scores(records)]
    return [
        Shown(chart, charts.draw(chart), note)
        for chart, note in found
        if any(charts.is_drawn(curve.y) for curve in chart.curves)
    ]


def _curve(
    record: Record, column: str, label: str, colour: int, *, mean: bool = False, **style: bool
) -> Iterator[Curve]:
    """A column as a curve. mean: of stretches of it, where there are many rows."""
    values = record.column(column)
    if not len(values):
        return
    images = record.images
    if style.get("points"):  # the others are rows without a measurement
        images, values = images[np.isfinite(values)], values[np.isfinite(values)]
    x, y = charts.averaged(images, values) if mean else charts.thinned(images, values)
    yield Curve(label, x, y, colour, **style)


def _loss(records: Sequence[Record]) -> tuple[Chart, str]:
    curves: list[Curve] = []
    alone = len(records) == 1
    for number, record in enumerate(records):
        name = "" if alone else f"{record.name}: "
        if alone:
            curves += _curve(record, "loss", "raw", 0, faint=True)
        curves += _curve(record, "loss_smooth", f"{name}smoothed", number)
        held_out = 1 if alone else number
        curves += _curve(
            record, "loss_holdout", f"{name}held out", held_out, points=True, dashed=True
        )
        if alone:
            curves += _curve(record, "loss_trained", "trained on, averaged", 3, points=True)
    label = plots.common_loss_label([r.config for r in records if r.config is not None])
    return Chart("loss", "Loss", label, tuple(curves), log=True), ""


def _gaps(records: Sequence[Record]) -> Iterator[tuple[Chart, str]]:
    """How far the losses on images held out and trained on are apart, a chart for each run."""
    for number, record in enumerate(records):
        curves: list[Curve] = []
        for colour, (column, label) in enumerate(_LEVELS, _FIRST_LEVEL):
            quarter = column.removeprefix("loss_")
            held_out = record.column(f"loss_holdout_{quarter}")
            trained = record.column(f"loss_trained_{quarter}")
            if len(held_out) and len(trained):
                known = np.isfinite(held_out) & (trained > 0)
                ratio = held_out[known] / trained[known]
                curves.append(Curve(label, record.images[known], ratio, colour, points=True))
        of = "" if len(records) == 1 else f", {record.name}"
        title = f"Loss held out / loss trained on{of}"
        note = "1 is no gap; a loss that is twice as high on images held out is that of copying."
        yield Chart(f"gap{number}", title, "ratio", tuple(curves), log=True), note


def _levels(records: Sequence[Record]) -> Iterator[tuple[Chart, str]]:
    """The loss by noise level, a chart for each run."""
    for number, record in enumerate(records):
        curves: list[Curve] = []
        for colour, (column, label) in enumerate(_LEVELS, _FIRST_LEVEL):
            curves += _curve(record, column, label, colour, mean=True)
        of = "" if len(records) == 1 else f", {record.name}"
        title = f"Loss by noise level{of}"
        yield Chart(f"levels{number}", title, "loss", tuple(curves), log=True), ""


def _rate(records: Sequence[Record]) -> tuple[Chart, str]:
    chart = _plain(records, "lr", "rate", "Learning rate", "learning rate")
    return chart, ""


def _norm(records: Sequence[Record]) -> tuple[Chart, str]:
    chart = _plain(
        records, "grad_norm", "norm", "Gradient norm", "norm, before clipping", noisy=True, log=True
    )
    clips = {r.config.optimiser.clip for r in records if r.config is not None}
    (clip,) = clips if len(clips) == 1 else (None,)
    return chart, "" if clip is None else f"Gradients of a larger norm than {clip:g} are clipped."


def _speed(records: Sequence[Record]) -> tuple[Chart, str]:
    chart = _plain(
        records, "images_per_second", "speed", "Speed", "images/s", noisy=True, from_zero=True
    )
    waits = [_mean(record.column("data_wait")) for record in records]
    (wait,) = waits if len(waits) == 1 else (None,)
    if wait is None or wait < 0.01:
        return chart, ""
    return chart, f"{100 * wait:.0f} % of the steps' time was spent waiting for images."


def _plain(
    records: Sequence[Record],
    column: str,
    key: str,
    title: str,
    y_label: str,
    *,
    noisy: bool = False,
    log: bool = False,
    from_zero: bool = False,
) -> Chart:
    """A chart of one column, a curve for each run; of a noisy one the mean, and faintly itself."""
    curves: list[Curve] = []
    alone = len(records) == 1
    for number, record in enumerate(records):
        if noisy and alone:
            curves += _curve(record, column, "raw", number, faint=True)
        label = ("mean" if noisy else title) if alone else record.name
        curves += _curve(record, column, label, number, mean=noisy)
    return Chart(key, title, y_label, tuple(curves), log=log, from_zero=from_zero)


def _scores(records: Sequence[Record]) -> Iterator[tuple[Chart, str]]:
    """The scores of training, a chart for each label and feature network."""
    kinds: dict[tuple[str, str], list[Curve]] = {}
    for number, record in enumerate(records):
        by_kind: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in record.scores:
            kind = str(row.get("label", "score")), str(row.get("weights_sha256", ""))
            by_kind.setdefault(kind, []).append((float(row["images"]), float(row["value"])))
        for kind, points in by_kind.items():
            x, y = np.array(points).T
            label = record.name if len(records) > 1 else kind[0]
            kinds.setdefault(kind, []).append(Curve(label, x, y, number, points=True))
    for number, ((label, _), curves) in enumerate(kinds.items()):
        chart = Chart(f"score{number}", f"Score: {label}", label, tuple(curves), from_zero=True)
        yield chart, "Lower is better."


def _mean(values: Column) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
