"""Figure 1: what is left of the accuracy when the order of the frames is taken away.

One row per method, one panel per backbone. The line joins the accuracy on the original clip with
that on the same frames shuffled: its length is the gap, the use the model makes of their order.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import splits, stats, style, table

ORDER = 10
TITLE = "Accuracy without the order of the frames"

EVALUATION = "video.shuffle_gap"
MARKERS = {"original": "o", "shuffled": "o", "reversed": "<", "single_frame": "s"}
NAMES = {
    "original": "original",
    "shuffled": "shuffled",
    "reversed": "reversed",
    "single_frame": "single frame",
}
# The dot of original lies in the ring of shuffled where there is no gap.
SIZES = {"original": 3.2, "shuffled": 6.4, "reversed": 3.6, "single_frame": 3.4}
# The two views that are not joined by the line sit below it, where they cannot hide its ends, each on a
# line of its own for its error bar.
LIFT = {"original": 0.0, "shuffled": 0.0, "reversed": 0.2, "single_frame": 0.36}
ROW = 0.42  # inches of a method
NAME = 18  # characters of a line of its name


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, EVALUATION)
    methods = stats.plotted(rows, stats.Measure(EVALUATION, splits.REPORTED, "original"))
    if not methods:
        return None
    heights = [len(names) for names in methods.values()]
    figure.set_size_inches(style.COLUMN_WIDTH, ROW * sum(heights) + 0.3 * len(heights) + 0.65)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(methods), 1, sharex=True, squeeze=False, height_ratios=heights)[
        :, 0
    ]
    for panel, backbone, names in zip(panels, methods, methods.values(), strict=True):
        _panel(panel, rows, backbone, names)
        panel.set_title(style.wrapped(backbone, 30))
    panels[-1].set_xlabel("top-1 accuracy (%)")
    figure.legend(
        handles=_legend(),
        loc="outside upper center",
        ncols=4,
        columnspacing=0.9,
        handletextpad=0.1,
        handlelength=1.4,
    )
    return (
        f"Top-1 accuracy on {splits.shown(rows, EVALUATION)} with the frames in their original order, shuffled, "
        "reversed, and from a single frame. Line: the gap between original and shuffled. Small "
        "dots: seeds; error bars: sample standard deviation (ddof = 1); (2/3) means that 2 of 3 "
        "seeds have finished."
    )


def _panel(axes: Axes, frame: pd.DataFrame, backbone: str, methods: tuple[str, ...]) -> None:
    for position, method in enumerate(methods):
        cell = {"backbone": backbone, "method": method}
        numbers = {
            view: stats.aggregate(frame, cell, stats.Measure(EVALUATION, splits.REPORTED, view))
            for view in MARKERS
        }
        _gap(axes, numbers["original"], numbers["shuffled"], position, method)
        for view, number in numbers.items():
            _point(axes, number, position + LIFT[view], view, method)
    axes.set_yticks(range(len(methods)), [style.wrapped(method, NAME) for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(style.colour(method))
        label.set_fontweight("bold")


def _gap(
    axes: Axes, original: stats.Aggregate, shuffled: stats.Aggregate, height: float, method: str
) -> None:
    if original.mean is None or shuffled.mean is None:
        return
    colour = style.colour(method)
    ends = [shuffled.mean, original.mean]
    axes.plot(ends, [height, height], color=colour, lw=2.2, alpha=0.35)
    axes.annotate(
        f"gap {table.percent(original.mean - shuffled.mean)}{original.fraction}",
        (sum(ends) / 2, height),
        xytext=(0, 3.5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=6.5,
        color=style.INK,
    )


def _point(axes: Axes, number: stats.Aggregate, height: float, view: str, method: str) -> None:
    if number.mean is None:
        return
    colour = style.colour(method)
    axes.scatter(number.values, [height] * len(number.values), s=5, color=colour, alpha=0.5, lw=0)
    axes.errorbar(
        number.mean,
        height,
        xerr=number.std,
        fmt=MARKERS[view],
        color=colour,
        markerfacecolor=colour if view == "original" else "white",
        markersize=SIZES[view],
        elinewidth=0.9,
        capsize=1.8,
        zorder=4 if view == "original" else 3,
    )


def _legend() -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[view],
            color=style.MUTED,
            markerfacecolor=style.MUTED if view == "original" else "white",
            markersize=SIZES[view],
            label=NAMES[view],
        )
        for view in MARKERS
    ]
