"""The table of what is right within pairs of reversed classes, from numbers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import cell, frame, full
from rendered import by_label

from reports import table
from reports.tables import within_pairs

BASE, TIME = (0.52, 0.55, 0.50), (0.75, 0.80, 0.78)  # by seed


def numbers(within: float, gap: float, split: str = "test", **views: float) -> list[dict[str, Any]]:
    """Of one split; the gap is the normalised one."""
    where = {"evaluation": "video.shuffle_gap", "split": split, "n": 400}
    views = {"original": within, "shuffled": 0.5, **views}
    rows = [
        {**where, "view": v, "subset": "pairs", "metric": "pair_top1", "value": x}
        for v, x in views.items()
    ]
    normalised = {"view": "gap", "subset": "all", "metric": "top1_normalised", "value": gap}
    return [*rows, {**where, **normalised}]


def results(*splits: str, **views: float) -> pd.DataFrame:
    found = {"baseline": (BASE, 0.02), "+ TIME": (TIME, 0.4)}
    return frame(*(
        cell(method, seed, numbers=[
            row for k, split in enumerate(splits)
            for row in numbers(value - 0.1 * k, gap + 0.01 * seed, split, **views)
        ])
        for method, (values, gap) in found.items()
        for seed, value in enumerate(values)
    ))  # fmt: skip


def shown(built: table.Table, method: str) -> dict[str, table.TableCell]:
    found = by_label(built, "TimeSformer", method)
    return {name.partition(" ")[2]: cell for name, cell in found.items()}


def test_numbers_and_their_paired_changes() -> None:
    built = within_pairs.build(results("test", "test_unbiased", reversed=0.3))
    cells = shown(built, "+ TIME")
    assert cells["test, within pairs: Original ↑"].value == pytest.approx(100 * np.mean(TIME))
    assert cells["test, within pairs: Shuffled"].text == "50.0 ± 0.0"
    assert cells["test, within pairs: Reversed"].text == "30.0 ± 0.0"
    assert cells["test, all classes: Normalised gap ↑"].text == "41.0 ± 1.0"
    paired = 100 * (np.array(TIME) - BASE)
    for kind in ("", ", unbiased"):
        change = cells[f"Change to baseline: Original{kind} ↑"]
        assert change.value == pytest.approx(paired.mean())
        assert change.std == pytest.approx(paired.std(ddof=1))
        assert cells[f"Change to baseline: Normalised gap{kind} ↑"].text == "+38.0 ± 0.0"
    unbiased = cells["test_unbiased, within pairs: Original ↑"]
    assert unbiased.value == pytest.approx(100 * np.mean(TIME) - 10)
    assert shown(built, "baseline")["Change to baseline: Original ↑"].text == "reference"
    assert not built.holes and "chance is 50" in built.caption


def test_columns_are_those_that_were_measured() -> None:
    columns = [c.full_heading for c in within_pairs.build(results("test")).columns]
    assert not any("unbiased" in name or "Reversed" in name for name in columns)
    assert within_pairs.build(results("val")).columns[1].group == "val, within pairs"


def test_data_without_pairs_are_a_note_and_no_hole() -> None:
    rows = full()
    built = within_pairs.build(rows[rows["subset"] != "pairs"])
    assert not built.rows and built.notes == (within_pairs.NONE,)


def test_what_is_planned_is_a_hole_until_it_is_measured() -> None:
    plan = {"evaluations": "video.shuffle_gap", "state": "PENDING"}
    built = within_pairs.build(frame(cell(**plan), cell("+ TIME", **plan)))
    assert len(built.rows) == 2 and built.holes and "PENDING" in built.holes[0][2]
