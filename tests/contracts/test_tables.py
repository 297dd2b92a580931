"""The rules of a table (`reports.contracts.TableModule`)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pytest
from frames import cell, frame, full, realistic, union

from bench import find
from reports import formats
from reports.contracts import TableModule
from reports.table import Table

NAMES = find.names("table")
FRAMES = {
    "finished": full,
    "half-way": realistic,
    "three backbones": union,
    "nothing done": lambda: frame(cell(state="PENDING")),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", FRAMES)
def test_it_is_a_table_whatever_has_been_measured(name: str, state: str) -> None:
    module: TableModule = find.load("table", name)
    results = FRAMES[state]()
    before = results.copy()
    built = module.build(results)
    several = built if isinstance(built, Mapping) else {name: built}
    assert all(isinstance(item, Table) for item in several.values()), (
        "build returns a Table or several"
    )
    pd.testing.assert_frame_equal(results, before)  # build changes no number that others read
    assert module.build(results) == built, "the same results give the same table"
    for part, item in several.items():
        assert item.title, "a table has a title"
        for _, column, reason in item.holes:
            assert reason, f"a number that is missing has a reason, in {column} too"
        for form, render in formats.FORMATS.items():
            assert render(item, part), f"it can be written as {form}"


@pytest.mark.parametrize("name", [n for n in NAMES if find.optional("table", n, "headline")])
@pytest.mark.parametrize("state", FRAMES)
def test_its_headlines_are_three_texts_each(name: str, state: str) -> None:
    for tile in find.load("table", name).headline(FRAMES[state]()):
        assert len(tile) == 3 and all(isinstance(text, str) for text in tile), (
            "headline gives (what, number, explanation)"
        )
