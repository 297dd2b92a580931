"""Table 2 of the paper: is a shuffled clip still recognised, by kind of class?

Gap = accuracy on the original minus accuracy on shuffled frames. The paper does not say whether a subset is
scored over all classes or over its own: both are here, the published numbers beside the first.
"""

from __future__ import annotations

from itertools import product

import pandas as pd

from reports import compare, published, splits, stats, table

ORDER = 20

EVALUATION = "video.shuffle_gap"
SUBSETS = {"all": "All classes", "temporal": "Temporal classes", "static": "Static classes"}
VIEWS = {
    "original": table.Column("Original", better="up"),
    "shuffled": table.Column("Shuffled"),
    "gap": table.Column("Gap", better="up"),
}


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    paper = published.table("temporal_static")
    found = stats.labels(rows[rows["method"].isin(compare.ENDS)], "backbone")
    backbones = [name for name in stats.BACKBONES if name in paper.values or name in found]
    backbones += [name for name in found if name not in stats.BACKBONES]
    return compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Temporal and static classes",
            caption=(
                f"Top-1 accuracy on {splits.shown(rows, EVALUATION)} with the frames in their "
                "original order and randomly shuffled; Gap = Original - Shuffled. A model "
                "that uses the order of the frames has a large gap, above all on the temporal "
                "classes. The paper does not say over which classes its subsets are scored: a clip is "
                "right where its class is first of all classes, or, restricted, first of the classes of "
                f"its subset; the published numbers stand beside the former. {table.NO_RANK} {table.OVER_SEEDS}"
            ),
            shown=[
                compare.Shown(
                    table.Column(column.name, group, column.better),
                    stats.Measure(EVALUATION, splits.REPORTED, view, subset),
                    paper=f"{subset} {view}",
                )
                for subset, group in SUBSETS.items()
                for view, column in VIEWS.items()
            ]
            + _restricted(),
            cells=product(backbones, compare.ends(rows)),
            paper=paper,
            sweep=lambda backbone: "backbones" if backbone in stats.BACKBONES[1:] else "ablation",
        ),
    )


def _restricted() -> list[compare.Shown]:
    """The subsets, scored over their own classes."""
    return [
        compare.Shown(
            table.Column(column.name, f"{SUBSETS[subset]}, restricted", column.better),
            stats.Measure(EVALUATION, splits.REPORTED, view, subset, "top1_restricted"),
        )
        for subset in ("temporal", "static")
        for view, column in VIEWS.items()
    ]
