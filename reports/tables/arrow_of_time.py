"""Do a run's features tell whether a clip is played forward or backwards? What `video.arrow_of_time` measured.

A linear probe of the last feature, pooled over time, so that a model that sees no order stays at 50 %. Models
that were evaluated without a run stand in the leaderboard of video models.
"""

from __future__ import annotations

import pandas as pd

from reports import compare, splits, stats, table

ORDER = 45

EVALUATION = "video.arrow_of_time"
SUBSETS = {"final": "All classes", "temporal": "Temporal classes", "static": "Static classes"}
METRICS = {
    "accuracy": table.Column("Right", better="up"),
    "ci_low": table.Column("from", better=""),
    "ci_high": table.Column("to", better=""),
}


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    return compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Arrow of time",
            caption=(
                "How often a linear probe of a run's last feature tells whether a clip of "
                f"{splits.shown(rows, EVALUATION)} is played forward or backwards; chance is 50. "
                "From and to: Wilson's interval at 95 % over the clips of one seed, then averaged as the number is. "
                f"The direction of classes that look the same either way (static) cannot be told. {table.OVER_SEEDS}"
            ),
            shown=[
                compare.Shown(
                    table.Column(column.name, group, column.better),
                    stats.Measure(EVALUATION, splits.REPORTED, "direction", subset, metric),
                )
                for subset, group in SUBSETS.items()
                for metric, column in METRICS.items()
            ],
            cells=compare.cells(rows),
            paper=None,
            sweep=lambda backbone: "ablation",
        ),
    )
