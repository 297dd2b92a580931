"""Table 1 of the paper: top-1 and top-5 of every backbone, without and with + TIME."""

from __future__ import annotations

from itertools import product

import pandas as pd

from reports import compare, published, splits, stats, table

ORDER = 10

EVALUATION = "video.shuffle_gap"
METRICS = {"top1": "Top-1", "top5": "Top-5"}


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    # Every published backbone is listed, so that the page says what has not been run yet.
    found = stats.labels(rows[rows["method"].isin(compare.ENDS)], "backbone")
    backbones = (*stats.BACKBONES, *(name for name in found if name not in stats.BACKBONES))
    return compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Main result",
            caption=(
                f"Accuracy on {splits.shown(rows, EVALUATION)}, in original frame order, for each backbone "
                f"without and with the temporal objectives. {table.OVER_SEEDS}"
            ),
            shown=[
                compare.Shown(
                    table.Column(name, better="up"),
                    stats.Measure(EVALUATION, splits.REPORTED, "original", metric=metric),
                    paper=metric,
                )
                for metric, name in METRICS.items()
            ],
            cells=product(backbones, compare.ends(rows)),
            paper=published.table("main_result"),
            sweep=lambda backbone: "backbones",
        ),
    )
