"""Sweeps with axes of one's own: every finished cell stands in a table, and no number where there is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import full
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rendered import from_csv, from_html, from_json, from_markdown, from_tex
from sweeping import grid, readme, run

from bench import find
from bench.results import rows
from reports import any_sweep, build, formats, hypertext, latex, made, stats, style, table
from reports.settings import settings as settings_of


def tables(frame: pd.DataFrame) -> Mapping[str, table.Table]:
    built = find.load("table", "any_sweep").build(frame)
    assert isinstance(built, Mapping)
    return built


def texts(built: table.Table) -> dict[tuple[str, ...], list[str]]:
    return {row.labels: [cell.text for cell in row.cells] for row in built.rows}


def lr_alone() -> pd.DataFrame:
    return grid(
        "lr", {"lr": ["1e-4", "1e-3", "1e-2"]}, (0, 1),
        lambda labels, seed: None if (labels["lr"], seed) == ("1e-2", 1) else 0.4 + 0.02 * seed,
    )  # fmt: skip


def test_the_example_of_the_readme_has_all_its_numbers() -> None:
    built = tables(readme())
    assert texts(built["sweep_mine"]) == {
        ("baseline", "-"): ["3 of 3", "41.0 ± 1.0", "30.8 ± 0.8", "10.2 ± 0.3"],
        ("+ order", "0.5"): ["3 of 3", "51.0 ± 1.0", "38.2 ± 0.8", "12.8 ± 0.2"],
        ("+ order", "1"): ["3 of 3", "61.0 ± 1.0", "45.8 ± 0.8", "15.3 ± 0.3"],
    }
    # Against the baseline, which the axis weight does not apply to, both weights count.
    effects = texts(built["sweep_mine_effects"])
    assert effects["method", "+ order", "baseline"][:2] == ["2", "+15.0 ± 0.0"]
    assert effects["weight", "1", "0.5"][:2] == ["1", "+10.0 ± 0.0"]
    every = built["sweep_mine_all"]
    assert len(every.rows) == 3 * 6 and {row.cells[2].text for row in every.rows} == {"500"}


def test_a_sweep_over_lr_alone() -> None:
    built = tables(lr_alone())["sweep_lr"]
    assert built.labels == ("lr",)
    assert texts(built) == {
        ("1e-4",): ["2 of 2", "41.0 ± 1.4", "30.8 ± 1.1", "10.2 ± 0.4"],
        ("1e-3",): ["2 of 2", "41.0 ± 1.4", "30.8 ± 1.1", "10.2 ± 0.4"],
        ("1e-2",): ["1 of 2", "40.0 (1/2)", "30.0 (1/2)", "10.0 (1/2)"],
    }
    assert {cell.reason for cell in built.rows[2].cells[1:]} == {"seed 1 FAILED: ERROR: stopped"}


@pytest.mark.parametrize("results", [readme, lr_alone])
def test_the_tables_of_the_paper_say_truly_why_they_do_not_apply(results: object) -> None:
    """In place of a hole for every row that nobody asked for."""
    frame = results()  # type: ignore[operator]
    report = made.report(settings_of(frame)[0], made.ordered("table"), ())
    named = {item.name for item in report.filled}
    assert named == {name for name in tables(frame) if not name.endswith("_all")}
    own = {hole[0] for hole in report.holes}
    assert all("sweep" in title.lower() for title in own)
    ablation = next(item.table for item in report.tables if item.name == "ablation")
    assert ablation.rows == () and "not run" not in ablation.notes[0]
    if results is readme:
        why = "Its cells differ in more than backbone and method: weight. See the sweep mine."
        assert ablation.notes == (why,)


def test_the_paper_s_table_of_a_cell_that_further_axes_split_names_them() -> None:
    frame = pd.concat([full((0,)), readme()], ignore_index=True)
    frame = frame[~((frame["sweep"] == "ablation") & (frame["method"] == "+ order"))]
    ablation = find.load("table", "ablation").build(stats.checked(frame))
    reasons = {
        cell.reason for row in ablation.rows if row.labels[1] == "+ order" for cell in row.cells
    }
    assert reasons - {""} == {"not averaged: weight also varies; see the table of the sweep itself"}


def test_axes_and_labels_stand_in_the_order_of_the_sweep() -> None:
    """Also where another sweep has the same axes the other way round, and neither is sorted."""
    frame = pd.concat(
        [
            grid("first", {"a": ["z", "y"], "b": ["2", "10"]}, (0,), lambda *_: 0.5),
            grid("second", {"b": ["10", "2"], "a": ["y", "z"]}, (0,), lambda *_: 0.5),
        ],
        ignore_index=True,
    )
    built = tables(frame)
    assert built["sweep_first"].labels == ("a", "b")
    assert [row.labels for row in built["sweep_first"].rows][:3] == [
        ("z", "2"),
        ("z", "10"),
        ("y", "2"),
    ]
    assert built["sweep_second"].labels == ("b", "a")
    assert [row.labels for row in built["sweep_second"].rows][:2] == [("10", "y"), ("10", "z")]


def test_an_effect_is_that_of_all_pairs_which_differ_in_this_alone() -> None:
    value = {("1", "x"): 0.1, ("1", "y"): 0.2, ("2", "x"): 0.5, ("2", "y"): 0.8}
    frame = grid(
        "two", {"a": ["1", "2"], "b": ["x", "y"]}, (0, 1),
        lambda labels, seed: value[labels["a"], labels["b"]] + 0.01 * seed,
    )  # fmt: skip
    effects = texts(tables(frame)["sweep_two_effects"])
    assert effects["a", "2", "1"][:2] == ["2", "+50.0 ± 0.0"]  # (40 + 60) / 2
    assert effects["b", "y", "x"][:2] == ["2", "+20.0 ± 0.0"]  # (10 + 30) / 2


def test_a_mean_effect_is_of_seeds_that_all_pairs_have() -> None:
    frame = grid(
        "two", {"a": ["1", "2"], "b": ["x", "y"]}, (0, 1),
        lambda labels, seed: None if labels == {"a": "2", "b": "y"} and seed else 0.5,
    )  # fmt: skip
    cell = tables(frame)["sweep_two_effects"].rows[0].cells[1]
    assert cell.text == "0.0 (1/2)" and "1 of 2 pairs" in cell.reason


def test_backbones_are_not_compared_but_have_effects_of_their_own() -> None:
    frame = grid(
        "mine", {"backbone": ["A", "B"], "lr": ["1", "2"]}, (0, 1),
        lambda labels, seed: 0.3 + (labels["backbone"] == "B") * (labels["lr"] == "2") * 0.1,
    )  # fmt: skip
    effects = texts(tables(frame)["sweep_mine_effects"])
    assert {labels: cells[1] for labels, cells in effects.items()} == {
        ("A", "lr", "2", "1"): "0.0 ± 0.0",
        ("B", "lr", "2", "1"): "+10.0 ± 0.0",
    }


def test_a_number_beyond_one_is_no_percentage() -> None:
    frame = readme()
    frame.loc[frame["view"] == "gap", ["metric", "value"]] = ["nll", 2.5]
    assert texts(tables(frame)["sweep_mine"])["+ order", "1"][3] == "2.500 ± 0.000"


LABEL = st.one_of(
    st.sampled_from(
        ["<script>alert(1)</script>", "a|b", "=cmd()|' /C calc'!A0", r"\input{x}", "two\nlines", "\u202eabc", "漢字"]
    ),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60),
    st.sampled_from(["0.1", "1e-3", "10", "nan", "-1"]),
).filter(lambda text: text.strip() not in ("", "-"))  # fmt: skip


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[dict[str, list[str]], dict[tuple[int, int], float | None]]:
    names = draw(
        st.lists(
            st.sampled_from(["lr", "backbone", "method", "a b", "größe", "<b>"]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    axes = {name: draw(st.lists(LABEL, min_size=1, max_size=3, unique=True)) for name in names}
    cells = math.prod(map(len, axes.values()))
    number = st.one_of(st.none(), st.just(math.nan), st.floats(0, 1))
    values = {
        (cell, seed): draw(number)
        for cell in range(cells)
        for seed in range(draw(st.integers(1, 2)))
    }
    return axes, values


@given(sweeps())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_finished_cell_is_there_once_and_no_number_where_there_is_none(
    drawn: tuple[dict[str, list[str]], dict[tuple[int, int], float | None]],
) -> None:
    axes, values = drawn
    cells = [dict(zip(axes, labels, strict=True)) for labels in _product(axes)]
    frame = stats.checked(
        pd.DataFrame(
            [
                row
                for (k, seed), value in values.items()
                for row in run("s", cells[k], seed, value, axes=json.dumps(axes))
            ]
        )
    )
    built = tables(frame)
    sheets = [item for name, item in built.items() if not name.endswith(("_all", "_effects"))]
    measured = {k: [v for (cell, _), v in values.items() if cell == k] for k in range(len(cells))}
    has = [
        [v for v in measured[k] if v is not None and not math.isnan(v)] for k in range(len(cells))
    ]
    assert len(sheets) == 1
    (sheet,) = sheets
    assert len(sheet.rows) == len(cells) and len({row.labels for row in sheet.rows}) == len(cells)
    if any(v is not None for of in measured.values() for v in of):
        for row, found, of in zip(sheet.rows, has, measured.values(), strict=True):
            cell = row.cells[1]
            assert (cell.value is not None) == bool(found)
            assert cell.n_seeds == len(found) and cell.n_expected == len(of)
            assert bool(cell.reason) == (len(found) < len(of))
            if found:
                assert cell.value == pytest.approx(100 * np.mean(found))
    for item in built.values():
        cells_of = [[cell.text for cell in row.cells] for row in item.rows]
        for back in (
            from_markdown(formats.markdown(item)),
            from_csv(formats.csv(item)),
            from_json(formats.json(item)),
            from_html(hypertext.html(item)),
            from_tex(latex.latex(item)),
        ):
            # without the marks of footnotes and a guard against spreadsheets; labels are as a terminal shows them
            bare = [
                [re.sub(r" \[\w+\]$", "", text) for text in row[len(item.labels) :]] for row in back
            ]
            assert bare == cells_of


def _product(axes: Mapping[str, list[str]]) -> list[tuple[str, ...]]:
    return [tuple(labels) for labels in _grid(list(axes.values()))]


def _grid(lists: list[list[str]]) -> list[list[str]]:
    return [[]] if not lists else [[x, *rest] for x in lists[0] for rest in _grid(lists[1:])]


LONG = "a label of some sixty characters that nobody would write twice"


@pytest.mark.parametrize(
    ("axes", "panels"),
    [
        ({"lr": ["1e-4", "1e-3", "1e-2"], "loss": ["plain", LONG]}, 3),
        ({"lr": ["0.1", "0.2"], "epochs": ["5", "10"]}, 3),
        ({LONG: ["x", LONG, "z"], "backbone": ["TimeSformer", "X-ViT"]}, 3),
    ],
    ids=["curve", "map", "dots"],
)
def test_the_figure_fits_the_axes(axes: dict[str, list[str]], panels: int) -> None:
    frame = grid("s", axes, (0, 1, 2), lambda labels, seed: 0.5 + 0.01 * seed)
    with style.applied():
        figure = Figure()
        caption = find.load("figure", "any_sweep").draw(frame, figure)
        figure.draw_without_rendering()
        assert len(figure.axes) == panels and caption
        width = figure.get_window_extent().width
        for axes_of in figure.axes:  # no label has taken the room of the panel
            assert axes_of.get_window_extent().width > 0.15 * width


def test_a_value_that_failed_is_hatched_not_drawn() -> None:
    frame = grid(
        "s", {"lr": ["0.1", "0.2"], "epochs": ["5", "10"]}, (0,),
        lambda labels, seed: None if labels == {"lr": "0.2", "epochs": "10"} else 0.5,
    )  # fmt: skip
    with style.applied():
        figure = Figure()
        find.load("figure", "any_sweep").draw(frame, figure)
        shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["50.0"] * 3


def test_sweeps_of_backbones_and_methods_alone_have_figures_of_their_own() -> None:
    assert find.optional("figure", "any_sweep", "parts")(full((0,))) == {}


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with a hostile name of a sweep stay in the folder; the table of all numbers is CSV alone."""
    (tmp_path / "runs").mkdir()
    frame = grid("../../{x}$<b>", {"lr": ["1", "2"]}, (0,), lambda *_: 0.5)
    monkeypatch.setattr(rows, "load", lambda folder: frame)
    assert build.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    slug = any_sweep.of(frame)[0].slug
    made_of = sorted(p.name for p in (tmp_path / "out" / "mini").glob("sweep_*"))
    assert f"sweep_{slug}.png" in made_of and f"sweep_{slug}.tex" in made_of
    assert [n for n in made_of if "_all" in n] == [f"sweep_{slug}_all.csv"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<b>" not in page.replace("&lt;b&gt;", "") and f"sweep_{slug}.csv" in page
