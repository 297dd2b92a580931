"""Accuracy on each variant of ImageNet-9, by method, with the paper's numbers as hollow marks; below, what
each method changes against the baseline, on a scale that shows a point.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import published, stats, style, table
from reports.compare import BASELINE
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
HEIGHT, CHANGE = 1.75, 1.15  # of a panel, and of that of the changes; inches
NOTHING = (
    1.0  # percent: a column of less is left out, as an empty one would take the width of the others
)
NAME = 30  # characters of a line of a method's name


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, shift.EVALUATION)
    methods = _methods(rows)
    if not methods:
        return None
    most = _challenge(rows, methods)
    shown = [view for view in GROUPS if view != "challenge" or (most or 0.0) >= NOTHING]
    paper = published.table("backgrounds")
    changed = {backbone: _changing(names) for backbone, names in methods.items()}
    heights = [HEIGHT if kind == "accuracy" else CHANGE for kind, _ in _kinds(changed)]
    figure.set_size_inches(style.PAGE_WIDTH, sum(heights) + 0.45)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (kind, backbone) in zip(panels[:, 0], _kinds(changed), strict=True):
        if kind == "accuracy":
            _panel(axes, rows, paper, backbone, methods[backbone], shown)
            axes.set_title(style.wrapped(backbone, 90))
            axes.set_ylabel("top-1 accuracy (%)")
        else:
            _changes(axes, rows, backbone, methods[backbone], shown)
            axes.set_ylabel("change (points)")
    panels[-1, 0].set_xticks(range(len(shown)), [GROUPS[view] for view in shown])
    handles = _legend(rows, methods)
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=3 if longest > NAME / 2 else 5,
        columnspacing=1.2,
        handletextpad=0.2,
        handlelength=1.2,
    )
    return (
        "Top-1 accuracy on the test variants of ImageNet-9; BG-Gap = Mixed-Same − Mixed-Rand, in "
        "points. Filled: mean over seeds; small dots: seeds; error bars: sample standard deviation "
        f"(ddof = 1); (2/3) means that 2 of 3 seeds have finished. Hollow: {paper.source}, on "
        f"{paper.data}.{_changes_text(changed)}{_left_out(most, shown)}"
    )


def _changing(names: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that there is a baseline for."""
    return tuple(name for name in names if name != BASELINE) if BASELINE in names else ()


def _kinds(changed: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """What each panel shows: (accuracy or change, backbone)."""
    return [
        (kind, backbone)
        for backbone, names in changed.items()
        for kind in ("accuracy", "change")
        if kind == "accuracy" or names
    ]


def _changes_text(changed: Mapping[str, tuple[str, ...]]) -> str:
    return (
        f" Below: accuracy minus that of the {BASELINE}, the mean of the differences paired by seed; "
        "error bars: their sample standard deviation."
        if any(changed.values())
        else ""
    )


def _left_out(most: float | None, shown: list[str]) -> str:
    if most is None or "challenge" in shown:
        return ""
    return f" Challenge is not drawn: at most {table.percent(most)} % of the objects withstand it."


def _challenge(frame: pd.DataFrame, methods: Mapping[str, tuple[str, ...]]) -> float | None:
    """The largest mean; None where it was not measured."""
    found = [
        stats.aggregate(frame, {"backbone": b, "method": name}, _measure("challenge")).mean
        for b, names in methods.items()
        for name in names
    ]
    return max((mean for mean in found if mean is not None), default=None)


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
        for i, method in enumerate(methods):
            place = position + (i - (len(methods) - 1) / 2) * step
            _point(axes, _number(frame, backbone, method, view), place, method)
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
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    _frame(axes, shown)


def _changes(
    axes: Axes, frame: pd.DataFrame, backbone: str, methods: tuple[str, ...], shown: list[str]
) -> None:
    """Each method at its place in the panel above."""
    step = SPREAD / max(1, len(methods))
    axes.axhline(0, color=style.colour(BASELINE), lw=0.9, zorder=1)
    for position, view in enumerate(shown):
        before = _number(frame, backbone, BASELINE, view)
        for i, method in enumerate(methods):
            if method != BASELINE:
                place = position + (i - (len(methods) - 1) / 2) * step
                after = _number(frame, backbone, method, view)
                _point(axes, stats.difference(after, before), place, method)
    _frame(axes, shown)


def _number(frame: pd.DataFrame, backbone: str, method: str, view: str) -> stats.Aggregate:
    return stats.aggregate(frame, {"backbone": backbone, "method": method}, _measure(view))


def _frame(axes: Axes, shown: list[str]) -> None:
    for position, view in enumerate(shown):
        if view in NEW_KIND:
            axes.axvline(position - 0.5, color=style.MUTED, lw=0.6, ls=(0, (3, 3)), zorder=0)
    axes.set_xlim(-0.5, len(shown) - 0.5)
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
                label=style.wrapped(method + fraction, NAME),
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
