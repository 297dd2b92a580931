"""The rules of a figure (`reports.contracts.FigureModule`)."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
from frames import cell, frame, full, realistic, union
from matplotlib.figure import Figure

from bench import find
from reports import style
from reports.contracts import FigureModule

NAMES = find.names("figure")
FRAMES = {
    "finished": full,
    "half-way": realistic,
    "three backbones": union,
    "nothing done": lambda: frame(cell(state="PENDING")),
}


def drawn(name: str, results: pd.DataFrame) -> tuple[Figure, str | None]:
    module: FigureModule = find.load("figure", name)
    figure = Figure()
    return figure, module.draw(results, figure)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", FRAMES)
def test_it_draws_with_a_caption_or_not_at_all(name: str, state: str) -> None:
    results = FRAMES[state]()
    before = results.copy()
    with style.applied():
        figure, caption = drawn(name, results)
        assert style.render(figure, "png")
    pd.testing.assert_frame_equal(results, before)  # draw changes no number that others read
    assert bool(caption) == bool(figure.axes), "a figure with axes has a caption, and no other has"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_results_give_the_same_picture(name: str) -> None:
    with style.applied():
        first, again = (style.render(drawn(name, realistic())[0], "png") for _ in range(2))
    assert first == again


LONG = "a method with a name of sixty characters, which reviewers ask"


def renamed(results: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Every label of these columns made longer, and those of the paper's methods kept apart."""
    changed = results.copy()
    for column in columns:
        labels = changed[column].astype(str)
        changed[column] = labels.where(labels.isin(("baseline", "+ TIME")), LONG + labels)
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_long_names_neither_break_a_figure_nor_halve_it(name: str) -> None:
    assert len(LONG) >= 60
    results = renamed(union(), "method", "backbone")
    with style.applied(), warnings.catch_warnings():
        warnings.simplefilter("error")  # "constrained_layout not applied"
        plain, _ = drawn(name, union())
        figure, _ = drawn(name, results)
        for each in (plain, figure):
            style.render(each, "png")
    assert len(figure.axes) == len(plain.axes)
    for axes in figure.axes:
        if axes.axison:
            width = axes.get_position().width * figure.get_size_inches()[0]
            assert width >= 1.0, "inches that are left of a panel for its numbers"


@pytest.mark.parametrize("font", style.FONTS)
def test_each_font_has_every_sign_of_a_figure(font: str) -> None:
    with style.applied(font), warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font of the family has
        figure = Figure()
        figure.text(0.1, 0.5, "original − shuffled, Δ |τ| ± 0.5 ✓ ✗ …")
        figure.subplots().set_xlim(-2, 2)
        assert style.render(figure, "pdf")
