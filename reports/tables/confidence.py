"""How sure the models are of what they say, and whether rightly: confidence, calibration error, likelihood.

What `video.shuffle_gap` measured on original and on shuffled clips (ece and nll since VERSION 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from reports import compare, splits, stats, table

ORDER = 26

EVALUATION = "video.shuffle_gap"
CHANGE = "Change to baseline"
# To be sure is better as little as to be unsure: what counts is whether it is right.
CONFIDENCE = {"original": "Original", "shuffled": "Shuffled"}
CALIBRATION = {
    "ece": table.Column("ECE", better="down"),
    "nll": table.Column("NLL", better="down", unit=table.NATS),
}
NONE = f"ECE and NLL are in none of these results: they are of before these were measured ({EVALUATION} VERSION 2)."


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    split = splits.shown(rows, EVALUATION)
    metrics = set(rows.loc[rows["evaluation"] == EVALUATION, "metric"])
    # The columns are kept until something is measured.
    calibrated = not metrics or bool(metrics & CALIBRATION.keys())
    return compare.build(
        frame,
        rows,
        compare.Comparison(
            title="Confidence and calibration",
            caption=(
                f"On {split}. Confidence: the mean probability of the first class, on clips in their original "
                "order and with shuffled frames. ECE, of original clips: the expected calibration error, the "
                "distance of accuracy and confidence, the mean over 15 bins weighted by their clips. NLL, of original "
                "clips: the mean of -log of the probability of the true class, in nats. L_debias lowers the "
                "confidence on shuffled clips by construction, so that it falls there is no evidence of "
                "what a model has learned; the independent evidence is the calibration on original clips. "
                f"{table.OVER_SEEDS} Only NLL is not percent. {table.OVER_PAIRS}"
            ),
            shown=[*_confidence(split), *(_calibration(split) if calibrated else ())],
            cells=compare.cells(rows),
            paper=None,
            sweep=lambda backbone: "ablation",
            notes=() if calibrated else (NONE,),
        ),
    )


def _confidence(split: str) -> Iterator[compare.Shown]:
    for view, name in CONFIDENCE.items():
        yield compare.Shown(
            table.Column(name, f"{split}, confidence"),
            stats.Measure(EVALUATION, splits.REPORTED, view, metric="confidence"),
            change=table.Column(f"{name} confidence", CHANGE),
        )


def _calibration(split: str) -> Iterator[compare.Shown]:
    for metric, column in CALIBRATION.items():
        yield compare.Shown(
            replace(column, group=f"{split}, original clips"),
            stats.Measure(EVALUATION, splits.REPORTED, "original", metric=metric),
            change=replace(column, group=CHANGE),
        )
