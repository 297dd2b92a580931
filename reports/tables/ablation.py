"""Ablation of the losses: what each temporal objective alone, and all together, do to the baseline.

The published numbers beside it are those of table 2 of the paper; its own ablation table is not
among the sources (see `published.yaml`).
"""

from __future__ import annotations

import pandas as pd

from reports import compare, learned, published, stats, table

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
                f"of them (+ TIME); Gap = Original - Shuffled. {table.OVER_SEEDS} {table.OVER_PAIRS}"
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
    items = [
        compare.Shown(
            table.Column("Original", "val", "up"),
            stats.Measure(EVALUATION, "val", "original"),
            "all original",
            table.Column("Original", CHANGE, "up"),
            "top-1, val",
        ),
        compare.Shown(
            table.Column("Shuffled", "val", "down"),
            stats.Measure(EVALUATION, "val", "shuffled"),
            "all shuffled",
        ),
        compare.Shown(
            table.Column("Gap", "val", "up"),
            stats.Measure(EVALUATION, "val", "gap"),
            "all gap",
            table.Column("Gap", CHANGE, "up"),
            "gap (original - shuffled), val",
        ),
    ]
    # Not every data set has an unbiased split; its column is kept until something is measured.
    splits = set(frame.loc[frame["evaluation"] == EVALUATION, "split"])
    if not splits or "val_unbiased" in splits:
        items.append(
            compare.Shown(
                table.Column("Original", "val_unbiased", "up"),
                stats.Measure(EVALUATION, "val_unbiased", "original"),
                change=table.Column("Unbiased", CHANGE, "up"),
                tile="top-1, val_unbiased",
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
