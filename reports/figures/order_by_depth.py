"""Figure 2: from which layers can the order of the frames still be read?

A linear probe on each layer's frame features predicts a frame's original position; `layer_00` is
after the embedding. One row of panels per backbone: clips in order on the left, where the time
embedding alone gives the answer away; shuffled clips on the right, where only content can.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
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
    # Unfinished runs are kept in `rows`, so that a mean over fewer seeds is marked as such.
    done = rows[(rows["evaluation"] == EVALUATION) & (rows["state"] == "DONE")]
    backbones = stats.labels(done, "backbone", stats.BACKBONES)
    if not backbones:
        return None
    figure.set_size_inches(style.PAGE_WIDTH, 2.5 * len(backbones) + 0.2)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(backbones), len(VIEWS), sharex=True, squeeze=False)
    for (i, backbone), (j, view) in product(enumerate(backbones), enumerate(VIEWS)):
        axes: Axes = panels[i, j]
        _panel(axes, rows, backbone, view)
        axes.set_title(f"{backbone}, {VIEWS[view]}")
        if i == len(backbones) - 1:
            axes.set_xlabel("layer (0 = after the embedding)")
        if j == 0:
            axes.set_ylabel("frame-order accuracy (%)")
    return (
        "Accuracy of a linear probe that predicts the original position of a frame from its "
        "features, by depth of the layer, on val. Left: frames in order, where the time embedding "
        "alone gives the answer away; right: frames shuffled, where only content can (the panels "
        "have different scales). Lines: mean over seeds; bands: sample standard deviation "
        "(ddof = 1); dashed: chance; (2/3) means that 2 of 3 seeds have finished."
    )


def _panel(axes: Axes, frame: pd.DataFrame, backbone: str, view: str) -> None:
    here = frame[(frame["backbone"] == backbone) & (frame["view"] == view)]
    here = here[here["evaluation"] == EVALUATION]  # another evaluation has a view of this name
    layers = stats.labels(here, "subset")
    last = len(layers) - 1
    ends: dict[str, stats.Aggregate] = {}
    highest = 0.0
    for method in stats.labels(here, "method", stats.METHODS):
        cell = {"backbone": backbone, "method": method}
        measures = [stats.Measure(EVALUATION, SPLIT, view, at, "frame_accuracy") for at in layers]
        numbers = [stats.aggregate(frame, cell, measure) for measure in measures]
        if any(number.mean is not None for number in numbers):
            highest = max(highest, _curve(axes, numbers, method))
            ends[method] = numbers[-1]
    chance = _chance(axes, here, last)
    axes.set_ylim(0, min(105.0, 1.2 * max(highest, 2 * chance)))
    axes.set_xlim(right=last + 0.32 * max(1, last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= last])
    _direct_labels(axes, ends, last)


def _curve(axes: Axes, numbers: Sequence[stats.Aggregate], method: str) -> float:
    """Draw mean and band over depth, with a break where a layer has no number; return its top."""
    means = np.array([np.nan if n.mean is None else n.mean for n in numbers])
    stds = np.array([n.std or 0.0 for n in numbers])
    depths, colour = np.arange(len(numbers)), style.colour(method)
    axes.plot(depths, means, color=colour, marker=style.marker(method), markersize=3)
    axes.fill_between(depths, means - stds, means + stds, color=colour, alpha=0.15, lw=0)
    return float(np.nanmax(means + stds))


def _chance(axes: Axes, frame: pd.DataFrame, depth: int) -> float:
    """Draw and return chance; it is the same for all methods, 1 / number of frames."""
    levels = frame.loc[frame["metric"] == "chance", "value"].dropna()
    if levels.empty:
        return 0.0
    level = 100.0 * float(levels.median())
    axes.plot([0, depth], [level, level], color=style.MUTED, lw=0.9, ls=(0, (4, 3)))
    axes.annotate(
        "chance",
        (0, level),
        xytext=(0, -2),
        textcoords="offset points",
        va="top",
        fontsize=6.5,
        color=style.MUTED,
    )
    return level


def _direct_labels(axes: Axes, numbers: dict[str, stats.Aggregate], depth: int) -> None:
    """The name of each method at the end of its curve, moved apart where they would overlap."""
    ends = {method: n.mean for method, n in numbers.items() if n.mean is not None}
    distance = 0.07 * axes.get_ylim()[1]
    heights = style.spread(list(ends.values()), distance, 0.0)
    for (method, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            method + numbers[method].fraction,
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
