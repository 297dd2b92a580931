"""The rules of a figure (`reports.contracts.FigureModule`)."""

from __future__ import annotations

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
