"""Tables show `test`, or `val` of runs without a test split, and never `tune`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from frames import cell, frame, full, top1

from reports import splits, stats
from reports.tables import ablation, main_result

BASELINE = {"backbone": "TimeSformer", "method": "baseline"}
MEASURE = stats.Measure("video.shuffle_gap", splits.REPORTED, "original")


def measured(*values: tuple[str, float], **changes: Any) -> pd.DataFrame:
    numbers = [row for split, value in values for row in top1(value, split=split)]
    return frame(cell(numbers=numbers, **changes))


@pytest.mark.parametrize(
    ("values", "shown", "value"),
    [
        ([("tune", 0.9), ("test", 0.5), ("test_unbiased", 0.3)], "test", 50.0),
        ([("train", 0.9), ("val", 0.7), ("test", 0.6)], "test", 60.0),
        ([("val", 0.7), ("val_unbiased", 0.4)], "val", 70.0),
        ([("tune", 0.9)], "test", None),
    ],
)
def test_the_split_that_is_shown(
    values: list[tuple[str, float]], shown: str, value: float | None
) -> None:
    rows = measured(*values)
    assert splits.shown(rows, MEASURE.evaluation) == shown
    assert stats.aggregate(rows, BASELINE, MEASURE).mean == (value and pytest.approx(value))


def test_each_run_answers_with_its_own_split() -> None:
    old = measured(("val", 0.7), ("val_unbiased", 0.2), signature="a" * 16, backbone="X-ViT")
    both = stats.checked(pd.concat([old, measured(("test", 0.5), ("tune", 0.9))]))
    assert splits.shown(both, MEASURE.evaluation) == "test / val"
    means = [
        stats.aggregate(both, {**BASELINE, "backbone": name}, MEASURE).mean
        for name in ("TimeSformer", "X-ViT")
    ]
    assert means == [pytest.approx(50), pytest.approx(70)]
    # seeds of one cell that were measured on other data are never averaged
    clash = stats.checked(pd.concat([full([0]), measured(("val", 0.7), seed=1, data_digest="0ld")]))
    assert "not averaged" in stats.aggregate(clash, BASELINE, MEASURE).problem


def test_a_table_of_val_says_why() -> None:
    of_val = full().replace({"split": {"test": "val", "test_unbiased": "val_unbiased"}})
    for build in (ablation.build, main_result.build):
        assert splits.NOTE in build(of_val).notes and splits.NOTE not in build(full()).notes
    assert {column.group for column in ablation.build(of_val).columns} >= {"val", "val_unbiased"}
    assert "Accuracy on val," in main_result.build(of_val).caption
