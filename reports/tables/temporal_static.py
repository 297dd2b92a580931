"""Table 2 of the paper: is a shuffled clip still recognised, by kind of class?

Gap = accuracy on the original minus accuracy on shuffled frames.
"""

from __future__ import annotations

import pandas as pd

from reports import published, stats, table
from reports.commands import not_run

ORDER = 20
METHODS = ("baseline", "+ TIME")
SUBSETS = {"all": "All classes", "temporal": "Temporal classes", "static": "Static classes"}
VIEWS = {
    "original": table.Column("Original", better="up"),
    "shuffled": table.Column("Shuffled", better="down"),
    "gap": table.Column("Gap", better="up"),
}


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, "video.shuffle_gap")
    paper = published.table("temporal_static")
    columns = [table.Column("Seeds")]
    for group in SUBSETS.values():
        for view in VIEWS.values():
            columns += [
                table.Column(view.name, group, view.better),
                table.Column("paper", group),
            ]
    found = stats.labels(rows[rows["method"].isin(METHODS)], "backbone")
    backbones = [name for name in stats.BACKBONES if name in paper.values or name in found]
    backbones += [name for name in found if name not in stats.BACKBONES]
    return table.Table(
        title="Temporal and static classes",
        caption=(
            "Top-1 accuracy on the val split with the frames in their original order and randomly "
            "shuffled; Gap = Original - Shuffled. A model that uses the order of the frames has a "
            f"large gap, above all on the temporal classes. {table.OVER_SEEDS}"
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
        (subset, view): stats.aggregate(
            frame, cell, stats.Measure("video.shuffle_gap", "val", view, subset)
        )
        for subset in SUBSETS
        for view in VIEWS
    }
    sweep = "ablation" if backbone == stats.BACKBONES[0] else "backbones"
    hint = not_run(frame, sweep)
    cells = [table.seed_count(tuple(numbers.values()))]
    for (subset, view), number in numbers.items():
        cells.append(table.measured(number, not_run=hint))
        value = paper.number(backbone, method, f"{subset} {view}")
        cells.append(table.published(value, paper.source))
    return table.Row((backbone, method), tuple(cells))
