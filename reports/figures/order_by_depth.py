"""Figure 2: from which layers can the order of the frames still be read?

A probe on each layer's frame features predicts the position of a frame; `layer_00` is after the
embedding. One row of panels per backbone: clips in their order on the left, shuffled on the right.
"""

from __future__ import annotations

from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import stats, style

ORDER = 20
TITLE = "Order of the frames by depth"

EVALUATION = "video.order_probe"
SPLIT = "val"
VIEWS = {"ordered": "frames in order", "shuffled": "frames shuffled"}


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, EVALUATION)
    rows = rows[(rows["evaluation"] == EVALUATION) & (rows["state"] == "DONE")]
    backbones = stats.labels(rows, "backbone", stats.BACKBONES)
    if not backbones:
        return None
    figure.set_size_inches(style.PAGE_WIDTH, 2.5 * len(backbones) + 0.2)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(backbones), len(VIEWS), sharex=True, sharey=True, squeeze=False)
    for (i, backbone), (j, view) in product(enumerate(backbones), enumerate(VIEWS)):
        axes: Axes = panels[i, j]
        _panel(axes, rows, backbone, view)
        axes.set_title(f"{backbone}, {VIEWS[view]}")
        if i == len(backbones) - 1:
            axes.set_xlabel("layer (0 = after the embedding)")
        if j == 0:
            axes.set_ylabel("frame-order accuracy (%)")
    return (
        "Accuracy of a probe that predicts the position of a frame from its features, by depth "
        "of the layer. Lines: mean over seeds; bands: sample standard deviation (ddof = 1); "
        "dashed: chance."
    )


def _panel(axes: Axes, frame: pd.DataFrame, backbone: str, view: str) -> None:
    here = frame[(frame["backbone"] == backbone) & (frame["view"] == view)]
    layers = stats.labels(here, "subset")
    ends: dict[str, float] = {}
    for method in stats.labels(here, "method", stats.METHODS):
        cell = {"backbone": backbone, "method": method}
        curve = _curve(frame, cell, view, layers, "frame_accuracy")
        if not curve:
            continue
        depths, means, low, high = (list(column) for column in zip(*curve, strict=True))
        axes.plot(
            depths, means, color=style.colour(method), marker=style.marker(method), markersize=3
        )
        axes.fill_between(depths, low, high, color=style.colour(method), alpha=0.15, lw=0)
        ends[method] = means[-1]
    _chance(axes, frame, backbone, view, layers)
    axes.set_ylim(0, 105)
    axes.set_xlim(right=len(layers) - 1 + 0.32 * max(1, len(layers) - 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= len(layers) - 1])
    _direct_labels(axes, ends, len(layers) - 1)


def _curve(
    frame: pd.DataFrame, cell: dict[str, str], view: str, layers: tuple[str, ...], metric: str
) -> list[tuple[int, float, float, float]]:
    """(depth, mean, mean - std, mean + std) of every layer that has a number."""
    points = []
    for layer in layers:
        measure = stats.Measure(EVALUATION, SPLIT, view, layer, metric)
        number = stats.aggregate(frame, cell, measure)
        if number.mean is not None:
            std = number.std or 0.0
            depth = int(layer.removeprefix("layer_"))
            points.append((depth, number.mean, number.mean - std, number.mean + std))
    return points


def _chance(
    axes: Axes, frame: pd.DataFrame, backbone: str, view: str, layers: tuple[str, ...]
) -> None:
    """Chance is the same for all methods: it depends on the number of frames only."""
    wanted = (frame["backbone"] == backbone) & (frame["view"] == view)
    levels = frame.loc[wanted & (frame["metric"] == "chance"), "value"].dropna()
    if levels.empty:
        return
    level = 100.0 * float(levels.median())
    axes.plot([0, len(layers) - 1], [level, level], color=style.MUTED, lw=0.9, ls=(0, (4, 3)))
    axes.annotate(
        "chance",
        (0, level),
        xytext=(0, -2),
        textcoords="offset points",
        va="top",
        fontsize=6.5,
        color=style.MUTED,
    )


def _direct_labels(axes: Axes, ends: dict[str, float], depth: int) -> None:
    """The name of each method at the end of its curve, moved apart where they would overlap."""
    for (method, end), height in zip(
        ends.items(), style.spread(list(ends.values()), 7.0, 0.0), strict=True
    ):
        axes.annotate(
            method,
            (depth, end),
            xytext=(depth + 0.06 * max(1, depth), height),
            textcoords="data",
            va="center",
            fontsize=6.5,
            fontweight="bold",
            color=style.colour(method),
            arrowprops={
                "arrowstyle": "-",
                "color": style.colour(method),
                "lw": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 0,
            },
        )
