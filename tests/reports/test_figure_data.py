"""The numbers of a figure as files beside it, and the figure of order by content."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pandas as pd
import pytest
from frames import _number, cell, frame
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from reports import figure_data, made, settings, stats, style
from reports.asked import noting
from reports.figures import content_order_by_depth

SPLIT = "test"
VALUES = {  # of layers 0, 1 and 2
    ("video.seriation", "rank", "kendall"): (0.8, 0.5, 0.4),
    ("video.pair_order", "known_classes", "accuracy"): (0.6, 0.55, 0.52),
    ("video.pair_order", "new_classes", "accuracy"): (0.5, 0.51, 0.49),
}


def measured(method: str, seed: int, evaluations: str) -> list[dict[str, Any]]:
    numbers = []
    for (name, view, metric), values in VALUES.items():
        if name not in evaluations.split():
            continue
        layers = [(f"layer_{i:02d}", value + 0.02 * seed) for i, value in enumerate(values)]
        pixels = [("pixels", 0.86)] if name == "video.seriation" else []
        for subset, value in [*layers, *pixels, ("temporal", 0.1)]:
            numbers.append(_number(name, SPLIT, view, subset, metric, value))
            numbers.append(_number(name, SPLIT, view, subset, "chance", 0.5))
    return cell(method=method, seed=seed, numbers=numbers, evaluations=evaluations)


BOTH = "video.pair_order video.seriation"


def results(*evaluations: str) -> pd.DataFrame:
    return frame(
        *(measured(m, s, e) for m in ("baseline", "+ TIME") for s, e in enumerate(evaluations))
    )


def figure_of(rows: pd.DataFrame) -> tuple[Figure, str | None]:
    with style.applied():
        figure = Figure()
        return figure, content_order_by_depth.draw(rows, figure)


def test_order_by_content_has_a_panel_for_each_measure_and_its_own_scale() -> None:
    figure, caption = figure_of(results(BOTH, BOTH))
    assert len(figure.axes) == 3 and caption and f"on {SPLIT}." in caption
    ranks, *pairs = figure.axes
    assert ranks.get_ylim() == (0, 105) and all(axes.get_ylim()[0] > 40 for axes in pairs)
    drawn = [line.get_ydata() for line in ranks.lines]
    assert any(len(y) == 3 and y[0] == pytest.approx(81) for y in drawn)  # mean of 80 and 82
    assert any(len(y) == 2 and y[0] == pytest.approx(86) for y in drawn)  # the pixels
    for axes in pairs:
        assert any(len(y) == 2 and y[0] == 50 for y in (line.get_ydata() for line in axes.lines))


@pytest.mark.parametrize(("name", "panels"), [("video.seriation", 1), ("video.pair_order", 2)])
def test_one_of_the_two_is_enough(name: str, panels: int) -> None:
    assert len(figure_of(results(name))[0].axes) == panels


def test_the_files_beside_a_figure_have_what_it_draws() -> None:
    rows = results(BOTH, BOTH)
    (built,) = made._figures("content_order_by_depth", settings.settings(rows)[0])
    assert sorted(built.files) == ["data.csv", "data.json", "pdf", "png"]
    numbers = json.loads(built.files["data.json"])
    place = {"method": "+ TIME", "view": "rank", "subset": "layer_01", "metric": "kendall"}
    (one,) = [n for n in numbers if place.items() <= n.items()]
    assert one["mean"] == pytest.approx(51) and one["std"] == pytest.approx(2**0.5)
    assert one["values"] == pytest.approx([50, 52]) and one["seeds"] == [0, 1]
    assert len(one["signatures"]) == 2 and one["samples"] == 500
    table = list(csv.DictReader(io.StringIO(built.files["data.csv"].decode())))
    assert len(table) == len(numbers)
    assert {row["method"] for row in table} == {"baseline", "'+ TIME"}  # a text, no formula


def test_what_was_asked_for_in_vain_or_outside_is_not_written() -> None:
    rows = results(BOTH)
    there = stats.Measure("video.seriation", SPLIT, "rank", "layer_00", "kendall")
    cell_of = {"backbone": "TimeSformer", "method": "baseline"}
    with noting() as asked:
        stats.aggregate(rows, cell_of, there)
        stats.aggregate(rows, {**cell_of, "method": "+ flow"}, there)
        stats.aggregate(rows, cell_of, there)
    stats.aggregate(rows, {**cell_of, "method": "+ TIME"}, there)
    assert len(asked) == 3
    assert list(figure_data.of_aggregates(asked)["method"]) == ["baseline"]
    assert figure_data.files(figure_data.of_aggregates([])) == {}


def test_the_names_of_the_curves_and_of_chance_lie_beside_them() -> None:
    figure, _ = figure_of(results(BOTH, BOTH))
    for axes in figure.axes:
        names = {text.get_text(): text for text in axes.texts}
        assert {"baseline", "+ TIME", "chance"} <= set(names)
        assert all(text.get_position()[0] > 2 for text in names.values()), "2 is the last layer"
        assert axes.get_xlim()[1] > 2.3


@given(st.text(max_size=90), st.integers(2, 30), st.integers(1, 3))
def test_a_wrapped_label_fits_and_a_short_one_is_whole(text: str, width: int, lines: int) -> None:
    found = style.wrapped(text, width, lines).split("\n")
    assert len(found) <= lines and all(len(line) <= width for line in found)
    if len(text) <= width and text.isalnum():
        assert found == [text]
    assert len(style.short(text, width)) <= width
