"""Figure 2: from which layers can the order of the frames still be read?

A linear probe on each layer's frame features predicts a frame's original position; `layer_00` is
after the embedding. One row of panels per backbone: clips in order on the left, where the time
embedding alone gives the answer away; shuffled clips on the right, where only content can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
HEIGHT = 2.5  # of a panel, inches
LABEL = 0.175  # inches between the labels of two curves
VIEWS = {"ordered": "frames in order", "shuffled": "frames shuffled"}


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, EVALUATION)
    first = stats.Measure(EVALUATION, SPLIT, "ordered", "layer_00", "frame_accuracy")
    backbones = stats.plotted(rows, first)
    if not backbones:
        return None
    height = HEIGHT if len(backbones) == 1 else 0.85 * HEIGHT
    figure.set_size_inches(style.PAGE_WIDTH, height * len(backbones) + 0.2)
    figure.set_layout_engine("constrained")
    # Backbones are compared down a column, so its panels have one scale.
    panels = figure.subplots(len(backbones), len(VIEWS), sharex=True, sharey="col", squeeze=False)
    places = list(product(enumerate(backbones), enumerate(VIEWS)))
    drawn = {
        (i, j): _curves(panels[i, j], rows, {"backbone": backbone}, backbones[backbone], view)
        for (i, backbone), (j, view) in places
    }
    for j in range(len(VIEWS)):
        tops = [drawn[i, j].top for i in range(len(backbones))]
        panels[0, j].set_ylim(0, min(105.0, 1.2 * max(tops)))
    last = max(panel.last for panel in drawn.values())
    panels[0, 0].set_xlim(right=last + 0.32 * max(1, last))
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0, 0].set_xticks([tick for tick in panels[0, 0].get_xticks() if 0 <= tick <= last])
    for (i, backbone), (j, view) in places:
        axes: Axes = panels[i, j]
        _direct_labels(axes, drawn[i, j], LABEL / height)
        axes.set_title(f"{backbone}, {VIEWS[view]}")
        if i == len(backbones) - 1:
            axes.set_xlabel("layer (0 = after the embedding)")
        if j == 0:
            axes.set_ylabel("frame-order accuracy (%)")
    return (
        "Accuracy of a linear probe that predicts the original position of a frame from its "
        "features, by depth of the layer, on val. Left: frames in order, where the time embedding "
        "alone gives the answer away; right: frames shuffled, where only content can (the two "
        "columns have different scales). Lines: mean over seeds; bands: sample standard deviation "
        "(ddof = 1); dashed: chance; (2/3) means that 2 of 3 seeds have finished."
    )


@dataclass(frozen=True)
class _Drawn:
    """The curves of a panel, as its frame and its labels need them."""

    last: int  # layer
    top: float  # of all curves and bands, and twice chance
    ends: dict[str, stats.Aggregate]  # by method, at the last layer


def _curves(
    axes: Axes, frame: pd.DataFrame, backbone: dict[str, str], methods: tuple[str, ...], view: str
) -> _Drawn:
    """Draw a panel, but for its vertical scale and the names of its curves."""
    layers = stats.labels(frame[frame["evaluation"] == EVALUATION], "subset")
    ends: dict[str, stats.Aggregate] = {}
    tops, last, chance = [0.0], 0, 0.0
    for method in methods:
        cell = {**backbone, "method": method}
        numbers = [
            stats.aggregate(frame, cell, _measure(view, layer, "frame_accuracy"))
            for layer in layers
        ]
        while numbers and numbers[-1].mean is None:  # another backbone is deeper
            numbers.pop()
        if numbers:
            tops.append(_curve(axes, numbers, method))
            ends[method] = numbers[-1]
            last = max(last, len(numbers) - 1)
            chance = (
                stats.aggregate(frame, cell, _measure(view, layers[0], "chance")).mean or chance
            )
    _chance(axes, chance, last)
    return _Drawn(last, max(*tops, 2 * chance), ends)


def _measure(view: str, layer: str, metric: str) -> stats.Measure:
    return stats.Measure(EVALUATION, SPLIT, view, layer, metric)


def _curve(axes: Axes, numbers: Sequence[stats.Aggregate], method: str) -> float:
    """Draw mean and band over depth, with a break where a layer has no number; return its top."""
    means = np.array([np.nan if n.mean is None else n.mean for n in numbers])
    stds = np.array([n.std or 0.0 for n in numbers])
    depths, colour = np.arange(len(numbers)), style.colour(method)
    axes.plot(depths, means, color=colour, marker=style.marker(method), markersize=3)
    axes.fill_between(depths, means - stds, means + stds, color=colour, alpha=0.15, lw=0)
    return float(np.nanmax(means + stds))


def _chance(axes: Axes, level: float, depth: int) -> None:
    """Chance is the same for all methods, 1 / number of frames."""
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


def _direct_labels(axes: Axes, drawn: _Drawn, distance: float) -> None:
    """The name of each method at the end of its curve, moved apart where they would overlap.

    `distance` is a part of the panel's height.
    """
    ends = {method: n.mean for method, n in drawn.ends.items() if n.mean is not None}
    depth = drawn.last
    distance *= axes.get_ylim()[1]
    heights = style.spread(list(ends.values()), distance, 0.0)
    for (method, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            method + drawn.ends[method].fraction,
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
