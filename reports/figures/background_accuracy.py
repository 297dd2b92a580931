"""Accuracy on each variant of ImageNet-9, by method, with the paper's numbers as hollow marks."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import published, stats, style
from reports.tables import background_shift as shift

ORDER = 60
TITLE = "Accuracy on each variant"

GROUPS = {
    **shift.WITH_FOREGROUND,
    **shift.WITHOUT_FOREGROUND,
    "bg_gap": "BG-Gap\n(points)",
    "challenge": "Challenge",
}
NEW_KIND = ("no_fg", "bg_gap", "challenge")  # a line before these: other questions than before
SPREAD = 0.62  # of a group's width is for its methods
HEIGHT = 2.1  # of a panel, inches


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, shift.EVALUATION)
    methods = _methods(rows)
    if not methods:
        return None
    shown = [view for view in GROUPS if view != "challenge" or shift.CHALLENGE in _measured(rows)]
    figure.set_size_inches(style.PAGE_WIDTH, HEIGHT * len(methods) + 0.45)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    paper = published.table("backgrounds")
    for axes, (backbone, names) in zip(panels, methods.items(), strict=True):
        _panel(axes, rows, paper, backbone, names, shown)
        axes.set_title(backbone)
        axes.set_ylabel("top-1 accuracy (%)")
    panels[-1].set_xticks(range(len(shown)), [GROUPS[view] for view in shown])
    figure.legend(
        handles=_legend(rows, methods),
        loc="outside upper center",
        ncols=8,
        columnspacing=1.2,
        handletextpad=0.2,
        handlelength=1.2,
    )
    return (
        "Top-1 accuracy on the test variants of ImageNet-9; BG-Gap = Mixed-Same − Mixed-Rand, in "
        "points. Filled: mean over seeds; small dots: seeds; error bars: sample standard deviation "
        f"(ddof = 1); (2/3) means that 2 of 3 seeds have finished. Hollow: {paper.source}, on "
        f"{paper.data}."
    )


def _methods(frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """By backbone, those of the paper; variations of them are rows of the table, and crowd a panel."""
    found = stats.plotted(frame, _measure("original"))
    known = {
        backbone: tuple(name for name in names if name in shift.METHODS)
        for backbone, names in found.items()
    }
    return {backbone: names or found[backbone] for backbone, names in known.items()}


def _measure(view: str) -> stats.Measure:
    evaluation = shift.CHALLENGE if view == "challenge" else shift.EVALUATION
    return stats.Measure(evaluation, shift.SPLIT, view)


def _measured(frame: pd.DataFrame) -> set[str]:
    return set(frame["evaluation"].dropna())


def _panel(
    axes: Axes,
    frame: pd.DataFrame,
    paper: published.Published,
    backbone: str,
    methods: tuple[str, ...],
    shown: list[str],
) -> None:
    step = SPREAD / max(1, len(methods))
    for position, view in enumerate(shown):
        if view in NEW_KIND:
            axes.axvline(position - 0.5, color=style.MUTED, lw=0.6, ls=(0, (3, 3)), zorder=0)
        for i, method in enumerate(methods):
            place = position + (i - (len(methods) - 1) / 2) * step
            number = stats.aggregate(
                frame, {"backbone": backbone, "method": method}, _measure(view)
            )
            _point(axes, number, place, method)
            value = paper.number(backbone, method, view)
            if value is not None:
                axes.plot(
                    place + 0.32 * step,
                    value,
                    marker=style.marker(method),
                    markersize=3.6,
                    markerfacecolor="white",
                    markeredgecolor=style.colour(method),
                    markeredgewidth=0.7,
                    alpha=0.75,
                    zorder=2,
                )
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")


def _point(axes: Axes, number: stats.Aggregate, place: float, method: str) -> None:
    if number.mean is None:
        return
    colour = style.colour(method)
    axes.scatter([place] * len(number.values), number.values, s=4, color=colour, alpha=0.5, lw=0)
    axes.errorbar(
        place,
        number.mean,
        yerr=number.std,
        fmt=style.marker(method),
        color=colour,
        markersize=4.2,
        elinewidth=0.9,
        capsize=1.6,
        zorder=3,
    )


def _legend(frame: pd.DataFrame, methods: Mapping[str, tuple[str, ...]]) -> list[Line2D]:
    """Each method once, with how many of its seeds there are, and what hollow means."""
    handles = []
    for method in dict.fromkeys(name for names in methods.values() for name in names):
        numbers = [
            stats.aggregate(frame, {"backbone": b, "method": method}, _measure("original"))
            for b, names in methods.items()
            if method in names
        ]
        fraction = next((number.fraction for number in numbers if number.fraction), "")
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker=style.marker(method),
                markersize=4.5,
                color=style.colour(method),
                label=method + fraction,
            )
        )
    handles.append(
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=4,
            color=style.MUTED,
            markerfacecolor="white",
            label="paper",
        )
    )
    return handles
