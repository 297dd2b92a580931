"""Curves over the layers of a backbone: mean and band of each method, named at its end, and chance.

Used by the figure modules that draw what a probe says of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports import stats, style


@dataclass(frozen=True)
class Curves:
    """The curves of a panel, as its frame and its labels need them."""

    last: int  # layer
    bottom: float  # of all curves and bands, and chance
    top: float  # of all curves and bands
    chance: float
    ends: dict[str, stats.Aggregate]  # by method, at the last layer


def curves(
    axes: Axes,
    frame: pd.DataFrame,
    backbone: str,
    methods: Sequence[str],
    measure: stats.Measure,
) -> Curves:
    """Draw a panel, but for its vertical scale and the names of its curves. `measure` is of one layer;
    the chance beside it has its place, as the metric `chance`.
    """
    ours = frame["evaluation"] == measure.evaluation
    layers = [n for n in stats.labels(frame[ours], "subset") if n.startswith("layer_")]
    ends: dict[str, stats.Aggregate] = {}
    bottoms: list[float] = []
    tops, last, level = [0.0], 0, 0.0
    for method in methods:
        cell = {"backbone": backbone, "method": method}
        numbers = [stats.aggregate(frame, cell, replace(measure, subset=n)) for n in layers]
        while numbers and numbers[-1].mean is None:  # another backbone is deeper
            numbers.pop()
        if numbers:
            low, high = _curve(axes, numbers, method)
            bottoms.append(low)
            tops.append(high)
            ends[method] = numbers[-1]
            last = max(last, len(numbers) - 1)
            level = stats.aggregate(frame, cell, replace(measure, metric="chance")).mean or level
    _chance(axes, level, last)
    return Curves(last, min([level, *bottoms]), max(tops), level, ends)


def _curve(axes: Axes, numbers: Sequence[stats.Aggregate], method: str) -> tuple[float, float]:
    """Draw mean and band over depth, with a break where a layer has no number; return its ends."""
    means = np.array([np.nan if n.mean is None else n.mean for n in numbers])
    stds = np.array([n.std or 0.0 for n in numbers])
    depths, colour = np.arange(len(numbers)), style.colour(method)
    axes.plot(depths, means, color=colour, marker=style.marker(method), markersize=3)
    axes.fill_between(depths, means - stds, means + stds, color=colour, alpha=0.15, lw=0)
    return float(np.nanmin(means - stds)), float(np.nanmax(means + stds))


def _chance(axes: Axes, level: float, depth: int) -> None:
    """Chance is the same for all methods."""
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


def direct_labels(axes: Axes, drawn: Curves, distance: float) -> None:
    """The name of each method at the end of its curve, moved apart where they would overlap.

    `distance` is a part of the panel's height.
    """
    ends = {method: n.mean for method, n in drawn.ends.items() if n.mean is not None}
    depth = drawn.last
    bottom, top = axes.get_ylim()
    heights = style.spread(list(ends.values()), distance * (top - bottom), bottom)
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
