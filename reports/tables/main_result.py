"""Table 1 of the paper: top-1 and top-5 of every backbone, without and with + TIME."""

from __future__ import annotations

import pandas as pd

from reports import published, stats, table
from reports.commands import not_run

ORDER = 10
METHODS = ("baseline", "+ TIME")
METRICS = {"top1": "Top-1", "top5": "Top-5"}


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, "video.shuffle_gap")
    paper = published.table("main_result")
    columns = [table.Column("Seeds")]
    for name in METRICS.values():
        columns += [table.Column(name, better="up"), table.Column("paper")]
    # Every published backbone is listed, so that the page says what has not been run yet.
    found = stats.labels(rows[rows["method"].isin(METHODS)], "backbone")
    backbones = (*stats.BACKBONES, *(name for name in found if name not in stats.BACKBONES))
    return table.Table(
        title="Main result",
        caption=(
            "Accuracy on the val split, original frame order, for each backbone without and with "
            f"the temporal objectives. {table.OVER_SEEDS}"
        ),
        labels=("Backbone", "Method"),
        columns=tuple(columns),
        rows=tuple(
            _row(rows, paper, backbone, method) for backbone in backbones for method in METHODS
        ),
        notes=paper.notes(stats.data_sets(rows), frame["scale"]),
    )


def _row(frame: pd.DataFrame, paper: published.Published, backbone: str, method: str) -> table.Row:
    cell = {"backbone": backbone, "method": method}
    numbers = {
        metric: stats.aggregate(
            frame, cell, stats.Measure("video.shuffle_gap", "val", "original", metric=metric)
        )
        for metric in METRICS
    }
    hint = not_run(frame, "backbones")
    cells = [table.seed_count(tuple(numbers.values()))]
    for metric, number in numbers.items():
        cells.append(table.measured(number, not_run=hint))
        cells.append(table.published(paper.number(backbone, method, metric), paper.source))
    return table.Row((backbone, method), tuple(cells))
