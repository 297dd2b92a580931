"""Tables 1 and 2 with a baseline that was trained for as long as + TIME takes."""

from __future__ import annotations

import pandas as pd
from frames import cell, frame

from reports import compare, stats
from reports.tables import ablation, main_result, temporal_static

EQUAL = compare.EQUAL_COMPUTE
MEASURE = stats.Measure("video.shuffle_gap", "reported", "original")


def rows_of(*methods: str, **changes: object) -> pd.DataFrame:
    return frame(row for method in methods for row in cell(method, **changes))


def test_it_stands_between_the_two_where_a_sweep_asks_for_it() -> None:
    rows = rows_of("baseline", "+ TIME", EQUAL)
    for build in (main_result.build, temporal_static.build):
        built = build(rows)
        own = [row for row in built.rows if row.labels[0] == "TimeSformer"]
        assert [row.labels[1] for row in own] == ["baseline", EQUAL, "+ TIME"]
        number = stats.aggregate(rows, {"backbone": "TimeSformer", "method": EQUAL}, MEASURE)
        assert number.mean in [item.value for item in own[1].cells]
        assert compare.LONGER in built.notes
        # nothing is published for it
        paper = [
            c
            for c, column in zip(own[1].cells, built.columns, strict=True)
            if column.name == "paper"
        ]
        assert paper and all(item.value is None for item in paper)
    assert stats.plotted(rows, MEASURE) == {"TimeSformer": ("baseline", EQUAL, "+ TIME")}


def test_without_it_there_is_neither_row_nor_note() -> None:
    rows = rows_of("baseline", "+ TIME")
    for build in (main_result.build, temporal_static.build):
        built = build(rows)
        assert EQUAL not in {row.labels[1] for row in built.rows}
        assert compare.LONGER not in built.notes


def test_one_that_was_not_trained_yet_is_a_hole_with_its_reason() -> None:
    rows = frame(
        [
            *cell("baseline"),
            *cell("+ TIME"),
            *cell(EQUAL, state="NEW"),
            *cell(EQUAL, seed=1, state="NEW"),
        ]
    )
    holes = [h for h in main_result.build(rows).holes if h[0] == f"TimeSformer {EQUAL}"]
    assert holes and all("NEW" in reason for _, _, reason in holes)


def test_a_backbone_with_the_ends_alone_is_no_ablation() -> None:
    rows = frame(
        [
            row
            for name in ("TimeSformer", "X-ViT")
            for method in ("baseline", EQUAL, "+ TIME")
            for row in cell(method, backbone=name)
        ]
        + cell("+ order")
    )
    assert {row.labels[0] for row in ablation.build(rows).rows} == {"TimeSformer"}
