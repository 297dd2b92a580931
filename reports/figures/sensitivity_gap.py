"""Sensitivity: gap and accuracy when one thing of the recipe of + TIME is changed.

One row per setting of `reports/tables/sensitivity.py`; the vertical lines are the baseline and
+ TIME as released, so that a row is read against both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import splits, stats, style
from reports.tables import sensitivity as rows_of

ORDER = 30
TITLE = "Sensitivity, one change at a time"

VIEWS = {"gap": "gap, original − shuffled (points)", "original": "top-1, original frames (%)"}
ROW = 0.2  # inches
NAME = 36  # characters of a setting


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, rows_of.EVALUATION)
    settings = [s for s in rows_of.settings(rows) if rows_of.top1(rows, s.labels, "gap").values]
    backbones = stats.labels(
        pd.DataFrame({"backbone": [s.labels["backbone"] for s in settings]}),
        "backbone",
        stats.BACKBONES,
    )
    if not backbones:
        return None
    parts = [[s for s in settings if s.labels["backbone"] == name] for name in backbones]
    heights = [_height(part) for part in parts]
    figure.set_size_inches(style.PAGE_WIDTH, ROW * sum(heights) + 0.35 * len(parts) + 0.4)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(
        len(parts), len(VIEWS), sharex="col", squeeze=False, height_ratios=heights
    )
    for i, (name, part) in enumerate(zip(backbones, parts, strict=True)):
        for j, view in enumerate(VIEWS):
            _panel(panels[i, j], rows, part, view)
            panels[i, j].set_title(style.wrapped(name, 44) if j == 0 else "")
            panels[-1, j].set_xlabel(VIEWS[view])
        panels[i, 1].set_yticklabels([])
    # A gap is read against none at all, an accuracy against the other accuracies.
    panels[0, 0].set_xlim(left=min(0.0, panels[0, 0].get_xlim()[0]))
    return (
        f"Gap and accuracy on {splits.shown(rows, rows_of.EVALUATION)} when one thing of the recipe "
        "is changed and all else is as released (all weights 1, 8 frames). "
        "Vertical lines: baseline and + TIME as released. Large marker: mean over seeds; error "
        "bars: sample standard deviation (ddof = 1); small "
        "dots: seeds; (2/3) means that 2 of 3 seeds have finished."
    )


def _places(settings: Sequence[rows_of._Setting]) -> list[float]:
    """Vertical places, with half a row between the groups."""
    places, place = [], 0.0
    for position, setting in enumerate(settings):
        if position:
            place += 1.0 if setting.varied == settings[position - 1].varied else 1.5
        places.append(place)
    return places


def _height(settings: Sequence[rows_of._Setting]) -> float:
    return _places(settings)[-1] + 1.5


def _panel(
    axes: Axes, frame: pd.DataFrame, settings: Sequence[rows_of._Setting], view: str
) -> None:
    places = _places(settings)
    names = []
    for setting, place in zip(settings, places, strict=True):
        number = rows_of.top1(frame, setting.labels, view)
        method = setting.labels["method"]
        names.append(f"{_name(setting)}{number.fraction}")
        if number.mean is None:
            continue
        colour = style.colour(method)
        if setting.released:
            axes.axvline(number.mean, color=colour, lw=0.9, alpha=0.6, zorder=1)
        seeds = [place] * len(number.values)
        axes.scatter(number.values, seeds, s=5, color=colour, alpha=0.5, lw=0, zorder=2)
        axes.errorbar(
            number.mean,
            place,
            xerr=number.std,
            fmt=style.marker(method),
            color=colour,
            markersize=4,
            elinewidth=0.9,
            capsize=1.8,
            zorder=3,
        )
    axes.set_yticks(places, [style.short(name, NAME) for name in names])
    axes.set_ylim(places[-1] + 0.75, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for label, setting in zip(axes.get_yticklabels(), settings, strict=True):
        label.set_color(style.colour(setting.labels["method"]))
        label.set_fontweight("bold" if setting.released else "normal")


def _name(setting: rows_of._Setting) -> str:
    if setting.varied == rows_of.FRAMES:
        return f"{setting.labels['method']}, {setting.value} frames"
    number = stats.natural(setting.value)[1] == ""
    return f"{setting.varied} {setting.value}" if number else f"{setting.varied}: {setting.value}"
