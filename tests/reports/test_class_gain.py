"""The figure of gain per class, from numbers made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import _number, cell, frame
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports import style
from reports.figures import class_gain

GAINS = {"Moving up": 0.2, "Moving down": 0.3, "Holding": -0.1, "Covering": 0.0}
ABOUT = {"classes": [*GAINS], "subsets": {"temporal": [0, 1], "static": [2]}, "reversals": [[0, 1]]}


def results(gains: dict[str, float], **changes: str) -> pd.DataFrame:
    """Of seeds 0 and 1; the second gains 0.02 more, and its baseline is better."""
    return frame(*(
        cell(method, seed, numbers=[
            _number("video.shuffle_gap", "test", view, f"class: {name}", "top1", value)
            for name, gain in gains.items()
            for view, value in (
                ("original", 0.4 + 0.1 * seed + (gain + 0.02 * seed) * (method == "+ TIME")),
                ("shuffled", 0.9),
            )
        ], **changes)
        for method in ("baseline", "+ TIME") for seed in (0, 1)
    ))  # fmt: skip


def drawn(rows: pd.DataFrame) -> tuple[Figure, str | None]:
    with style.applied():
        figure = Figure()
        return figure, class_gain.draw(rows, figure)


def test_bars_are_the_paired_gains_sorted_and_marked_by_kind(tmp_path: Path) -> None:
    kept = pd.DataFrame({"evaluation": ["video.shuffle_gap"]})
    kept.attrs = ABOUT
    kept.to_parquet(tmp_path / "predictions.parquet")
    figure, caption = drawn(results(GAINS, run_dir=str(tmp_path)))
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Moving down", "Moving up", "Covering", "Holding"]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_width() for bar in bars] == pytest.approx([31.0, 21.0, 1.0, -9.0])
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in bars]
    assert looks[0] == looks[1] and len(set(looks)) == 3  # temporal twice, neither, static
    assert looks[3][1], "static classes are told from the others without colour"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "temporal class", "static class", "neither"
    ]  # fmt: skip
    assert caption and "smallest class has 500 clips" in caption


def test_its_data_are_all_classes_with_every_seed() -> None:
    many = {f"class {i:02d}": 0.001 * i for i in range(40)}
    figure, caption = drawn(results(many))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["class 39", "class 38"] and labels[-1] == "class 00"
    assert len(labels) == 2 * class_gain.ENDS and not figure.legends
    assert caption and "of 40 classes" in caption
    data = class_gain.data(results(many))
    assert len(data) == 40 and list(data["class"])[:2] == ["class 39", "class 38"]
    first = data.iloc[0]
    assert first["values"] == pytest.approx([3.9, 5.9])
    assert first["std"] == pytest.approx(np.std([3.9, 5.9], ddof=1))


def test_without_both_methods_there_is_nothing_to_draw() -> None:
    rows = results(GAINS)
    figure, caption = drawn(rows[rows["method"] == "baseline"])
    assert not figure.axes and caption is None
    assert class_gain.data(rows[rows["method"] == "baseline"]).empty
