"""Tables show `test`, or `val` of runs without a test split, and never `tune`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from frames import cell, frame, full, top1
from matplotlib.figure import Figure

from bench import find
from reports import splits, stats
from reports.made import ordered
from reports.tables import ablation, main_result

BASELINE = {"backbone": "TimeSformer", "method": "baseline"}
EXTRA = ("test_hard", "test_seed")
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


def test_further_splits_change_no_table_and_no_figure() -> None:
    """`test_hard` and `test_seed` of the built-in videos."""
    results = full()
    others = [results[results["split"] == "test"].assign(split=name, value=0.25) for name in EXTRA]
    both = stats.checked(pd.concat([results, *others], ignore_index=True))
    assert set(both["split"]) == {"test", "test_unbiased", *EXTRA}
    for name in set(ordered("table")) - {"any_sweep"}:  # which has a table of all numbers
        module = find.load("table", name)
        assert module.build(both) == module.build(results), name
    for name in ordered("figure"):
        figures = Figure(), Figure()
        module = find.load("figure", name)
        captions = [module.draw(f, d) for f, d in zip((both, results), figures, strict=True)]
        drawn = [
            [line.get_xydata().tolist() for axes in figure.axes for line in axes.get_lines()]
            for figure in figures
        ]
        assert captions[0] == captions[1] and drawn[0] == drawn[1], name
