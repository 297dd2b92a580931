"""Ablation of the losses: what each temporal objective alone, and all together, do to the baseline.

The published numbers beside it are those of table 2 of the paper; its own ablation table is not
among the sources (see `published.yaml`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports import published, stats, table
from reports.commands import not_run

ORDER = 30
SUMMARY = True  # shown in the terminal after a build

EVALUATION = "video.shuffle_gap"


@dataclass(frozen=True)
class Shown:
    """One measured column, its published neighbour and its difference to the baseline."""

    column: table.Column
    measure: stats.Measure
    summary: str
    paper: str = ""
    change: table.Column | None = None


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    paper = published.table("temporal_static")
    shown = _shown(rows)
    columns = [table.Column("Seeds")]
    for item in shown:
        columns.append(item.column)
        columns += [table.Column("paper", item.column.group)] if item.paper else []
    columns += [item.change for item in shown if item.change]
    return table.Table(
        title="Ablation of the losses",
        caption=(
            "Top-1 accuracy with each temporal objective alone added to the baseline, and with all "
            f"of them (+ TIME); Gap = Original - Shuffled. {table.OVER_SEEDS} {table.OVER_PAIRS}"
        ),
        labels=("Backbone", "Method"),
        columns=tuple(columns),
        rows=tuple(
            _row(rows, paper, shown, backbone, method)
            for backbone in _backbones(rows)
            for method in _methods(rows, backbone)
        ),
        notes=paper.notes(stats.data_sets(rows), frame["scale"]),
    )


def headline(frame: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    """(what, number, explanation) for the top of the page: baseline against + TIME."""
    rows = stats.of_evaluation(frame, EVALUATION)
    tiles = []
    for backbone in stats.labels(rows, "backbone", stats.BACKBONES):
        for item in _shown(rows):
            if item.change is None:
                continue
            base, full = (
                stats.aggregate(rows, {"backbone": backbone, "method": method}, item.measure)
                for method in ("baseline", "+ TIME")
            )
            change = table.measured(stats.difference(full, base), signed=True)
            if base.mean is None or full.mean is None or change.value is None:
                continue
            tiles.append(
                (
                    f"{backbone}: {item.summary}",
                    f"{table.percent(base.mean)} → {table.percent(full.mean)}",
                    f"baseline → + TIME: {change.text} over {change.n_seeds} paired "
                    f"seed{'s' if change.n_seeds != 1 else ''}",
                )
            )
    return tuple(tiles)


def _shown(frame: pd.DataFrame) -> tuple[Shown, ...]:
    column, measure, change = table.Column, stats.Measure, "Change to baseline"
    items = [
        Shown(
            column("Original", "val", "up"),
            measure(EVALUATION, "val", "original"),
            "top-1, val",
            "all original",
            column("Original", change, "up"),
        ),
        Shown(
            column("Shuffled", "val", "down"),
            measure(EVALUATION, "val", "shuffled"),
            "top-1 on shuffled frames, val",
            "all shuffled",
        ),
        Shown(
            column("Gap", "val", "up"),
            measure(EVALUATION, "val", "gap"),
            "gap (original - shuffled), val",
            "all gap",
            column("Gap", change, "up"),
        ),
    ]
    # Not every data set has an unbiased split; its column is kept until something is measured.
    splits = set(frame.loc[frame["evaluation"] == EVALUATION, "split"])
    if not splits or "val_unbiased" in splits:
        items.append(
            Shown(
                column("Original", "val_unbiased", "up"),
                measure(EVALUATION, "val_unbiased", "original"),
                "top-1, val_unbiased",
                change=column("Unbiased", change, "up"),
            )
        )
    return tuple(items)


def _backbones(frame: pd.DataFrame) -> tuple[str, ...]:
    """The backbones that have more than the two ends of the ablation, or else the first one."""
    ends = frame["method"].isin(("baseline", "+ TIME"))
    between = frame[frame["method"].notna() & ~ends]
    found = stats.labels(between, "backbone", stats.BACKBONES)
    return found or stats.labels(frame, "backbone", stats.BACKBONES)[:1] or stats.BACKBONES[:1]


def _methods(frame: pd.DataFrame, backbone: str) -> tuple[str, ...]:
    found = stats.labels(frame[frame["backbone"] == backbone], "method", stats.METHODS)
    return (*stats.METHODS, *(label for label in found if label not in stats.METHODS))


def _row(
    frame: pd.DataFrame,
    paper: published.Published,
    shown: tuple[Shown, ...],
    backbone: str,
    method: str,
) -> table.Row:
    cell, reference = ({"backbone": backbone, "method": name} for name in (method, "baseline"))
    numbers = [stats.aggregate(frame, cell, item.measure) for item in shown]
    hint = not_run(frame, "ablation")
    cells = [table.seed_count(numbers)]
    for item, number in zip(shown, numbers, strict=True):
        cells.append(table.measured(number, not_run=hint))
        if item.paper:
            value = paper.number(backbone, method, item.paper)
            cells.append(table.published(value, paper.source))
    for item, number in zip(shown, numbers, strict=True):
        if item.change and method == "baseline":
            cells.append(table.text("reference"))
        elif item.change:
            base = stats.aggregate(frame, reference, item.measure)
            change = stats.difference(number, base)
            cells.append(table.measured(change, not_run=hint, signed=True))
    return table.Row((backbone, method), tuple(cells))
