"""Right within a pair: are two classes that are each other's reversal told apart? And the normalised gap.

Of a pair the frames are the same and only their order differs, so nothing but the order tells which class
it is: the most direct number of what a model makes of it. What `video.shuffle_gap` measured (VERSION 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from reports import compare, splits, stats, table

ORDER = 25

EVALUATION = "video.shuffle_gap"
PAIRS, WITHIN, NORMALISED = "pairs", "pair_top1", "top1_normalised"
# A shuffled or reversed clip has no right class of the pair, so neither direction is better there.
VIEWS = {
    "original": table.Column("Original", better="up"),
    "shuffled": table.Column("Shuffled"),
    "reversed": table.Column("Reversed"),
}
CHANGE = "Change to baseline"
NONE = (
    "Accuracy within pairs is in none of these results: their data name no classes that are each "
    f"other's reversal, or they are of before it was measured ({EVALUATION} VERSION 2)."
)


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    ours = rows[rows["evaluation"] == EVALUATION]
    # Rows stand as holes until something is measured; then what nothing has is no hole.
    has_pairs = ours.empty or PAIRS in set(ours["subset"])
    built = compare.build(
        frame,
        rows if has_pairs else rows.head(0),
        compare.Comparison(
            title="Right within a pair",
            caption=(
                "Of clips whose class has a reversal (the same frames backwards are another class): how "
                "often the logit of the clip's class is above that of its reversal; chance is 50, where a "
                "model that sees no order stays. Reversed: clips played backwards, judged by the class "
                "of the original, so a model that goes by the order falls below 50. Normalised gap, over "
                "all classes: (Original - Shuffled) / (Original - 1 / classes) of top-1, the share of "
                "what is known beyond chance that the order carries; none where nothing is known beyond "
                f"chance. {table.OVER_SEEDS} {table.OVER_PAIRS}"
            ),
            shown=list(_shown(rows)),
            cells=compare.cells(rows),
            paper=None,
            sweep=lambda backbone: "ablation",
        ),
    )
    return built if has_pairs else replace(built, notes=(NONE,))


def _shown(rows: pd.DataFrame) -> Iterator[compare.Shown]:
    """Those of the reported split; those of unbiased scenes and of reversed clips where they were measured."""
    pairs = rows[(rows["evaluation"] == EVALUATION) & (rows["subset"] == PAIRS)]
    measured = set(zip(pairs["split"], pairs["view"], strict=True))
    for split in (splits.REPORTED, splits.UNBIASED):
        named, unbiased = splits.shown(rows, EVALUATION, split), split == splits.UNBIASED
        kind = ", unbiased" if unbiased else ""
        there = {view for name, view in measured if name in splits.STANDS_FOR[split]}
        if unbiased and not there:
            continue
        for view, column in VIEWS.items():
            if view == "reversed" and view not in there:
                continue
            yield compare.Shown(
                replace(column, group=f"{named}, within pairs"),
                stats.Measure(EVALUATION, split, view, PAIRS, WITHIN),
                change=table.Column(f"{column.name}{kind}", CHANGE, "up")
                if view == "original"
                else None,
            )
        yield compare.Shown(
            table.Column("Normalised gap", f"{named}, all classes", "up"),
            stats.Measure(EVALUATION, split, "gap", metric=NORMALISED),
            change=table.Column(f"Normalised gap{kind}", CHANGE, "up"),
        )
