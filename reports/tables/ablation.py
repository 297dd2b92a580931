"""Ablation of the losses: what each temporal objective alone, and all together, do to the baseline.

The published numbers beside it are those of table 2 of the paper; its own ablation table is not
among the sources (see `published.yaml`).
"""

from __future__ import annotations

import pandas as pd

from reports import compare, learned, published, splits, stats, table

ORDER = 30
SUMMARY = True  # shown in the terminal after a build

EVALUATION = "video.shuffle_gap"
CHANGE = "Change to baseline"


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    built = compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Ablation of the losses",
            caption=(
                "Top-1 accuracy with each temporal objective alone added to the baseline, and with all "
                f"of them (+ TIME); Gap = Original - Shuffled. {table.NO_RANK} {table.OVER_SEEDS} {table.OVER_PAIRS}"
            ),
            shown=_shown(rows),
            cells=[
                (backbone, method)
                for backbone in _backbones(rows)
                for method in _methods(rows, backbone)
            ],
            paper=published.table("temporal_static"),
            sweep=lambda backbone: "ablation",
        ),
    )
    return learned.beside(built, rows)


def headline(frame: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    """(what, number, explanation) for the top of the page: baseline against + TIME."""
    rows = stats.of_evaluation(frame, EVALUATION)
    return compare.tiles(rows, _shown(rows), stats.BACKBONES)


def _shown(frame: pd.DataFrame) -> tuple[compare.Shown, ...]:
    split, unbiased = (
        splits.shown(frame, EVALUATION, name) for name in (splits.REPORTED, splits.UNBIASED)
    )
    items = [
        compare.Shown(
            table.Column("Original", split, "up"),
            stats.Measure(EVALUATION, splits.REPORTED, "original"),
            "all original",
            table.Column("Original", CHANGE, "up"),
            f"top-1, {split}",
        ),
        compare.Shown(
            table.Column("Shuffled", split),
            stats.Measure(EVALUATION, splits.REPORTED, "shuffled"),
            "all shuffled",
        ),
        compare.Shown(
            table.Column("Gap", split, "up"),
            stats.Measure(EVALUATION, splits.REPORTED, "gap"),
            "all gap",
            table.Column("Gap", CHANGE, "up"),
            f"gap (original - shuffled), {split}",
        ),
    ]
    # Not every data set has an unbiased split; its column is kept until something is measured.
    measured = set(frame.loc[frame["evaluation"] == EVALUATION, "split"])
    if not measured or measured & set(splits.STANDS_FOR[splits.UNBIASED]):
        items.append(
            compare.Shown(
                table.Column("Original", unbiased, "up"),
                stats.Measure(EVALUATION, splits.UNBIASED, "original"),
                change=table.Column("Unbiased", CHANGE, "up"),
                tile=f"top-1, {unbiased}",
            )
        )
    return tuple(items)


def _backbones(frame: pd.DataFrame) -> tuple[str, ...]:
    """The backbones that have more than the two ends of the ablation, or else the first one."""
    ends = frame["method"].isin(compare.ENDS)
    between = frame[frame["method"].notna() & ~ends]
    found = stats.labels(between, "backbone", stats.BACKBONES)
    return found or stats.labels(frame, "backbone", stats.BACKBONES)[:1] or stats.BACKBONES[:1]


def _methods(frame: pd.DataFrame, backbone: str) -> tuple[str, ...]:
    found = stats.labels(frame[frame["backbone"] == backbone], "method", stats.IN_ORDER)
    known = [name for name in stats.IN_ORDER if name in (*stats.METHODS, *found)]
    return (*known, *(label for label in found if label not in known))
