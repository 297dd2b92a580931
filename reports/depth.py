"""Curves over the layers of a backbone: mean and band of each method, and chance, each named at its end.

Used by the figure modules that draw what a probe says of each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports import stats, style

FONT_SIZE = 6.5  # of the name of a curve
LINE = 0.105  # inches of a line of it
APART = 0.07  # inches between two names
WIDTH = 13  # characters of a line of it
GAP = 0.06  # of the layers, between the last one and the names


@dataclass(frozen=True)
class Curves:
    """The curves of a panel, as its frame and its labels need them."""

    last: int  # layer
    bottom: float  # of all curves and bands, and chance
    top: float  # of all curves and bands
    chance: float
    ends: Mapping[str, stats.Aggregate]  # by method, at the last layer
    levels: Mapping[str, float]  # by name, of the lines that are the same for all methods


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
    axes.plot([0, last], [level, level], color=style.MUTED, lw=0.9, ls=(0, (4, 3)))
    return Curves(last, min([level, *bottoms]), max(tops), level, ends, {"chance": level})


def _curve(axes: Axes, numbers: Sequence[stats.Aggregate], method: str) -> tuple[float, float]:
    """Draw mean and band over depth, with a break where a layer has no number; return its ends."""
    means = np.array([np.nan if n.mean is None else n.mean for n in numbers])
    stds = np.array([n.std or 0.0 for n in numbers])
    depths, colour = np.arange(len(numbers)), style.colour(method)
    axes.plot(depths, means, color=colour, marker=style.marker(method), markersize=3)
    axes.fill_between(depths, means - stds, means + stds, color=colour, alpha=0.15, lw=0)
    return float(np.nanmin(means - stds)), float(np.nanmax(means + stds))


def room_for_labels(axes: Axes, drawn: Iterable[Curves], panel: float) -> None:
    """Layers on the axis, and to the right of them as much of the panel's width as the names need: beside
    the panel they would take it from all panels. `panel` is in inches.
    """
    panels = list(drawn)
    last = max(1, *(curves.last for curves in panels))
    names = [label.text for curves in panels for label in _labels(curves)]
    widest = max(style.inches(name, FONT_SIZE, "bold") for name in names)
    whole = last * (1.05 + GAP) / (1 - min(0.6, (widest + 0.03) / panel))
    axes.set_xlim(-0.05 * last, whole - 0.05 * last)
    axes.set_xticks(
        [tick for tick in MaxNLocator(integer=True).tick_values(0, last) if 0 <= tick <= last]
    )


def direct_labels(axes: Axes, drawn: Curves, panel: float) -> None:
    """The name of each line at its end, moved apart where they would overlap. `panel` is the height in inches."""
    labels = _labels(drawn)
    bottom, top = axes.get_ylim()
    sizes = [
        (LINE * (1 + label.text.count("\n")) + APART) * (top - bottom) / panel for label in labels
    ]
    heights = style.spread([label.end for label in labels], sizes, bottom)
    for label, height in zip(labels, heights, strict=True):
        axes.annotate(
            label.text,
            (drawn.last, label.end),
            xytext=(drawn.last + GAP * max(1, drawn.last), height),
            textcoords="data",
            va="center",
            fontsize=FONT_SIZE,
            fontweight="bold" if label.bold else "normal",
            linespacing=0.95,
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "lw": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 0,
            },
        ).set_in_layout(False)


@dataclass(frozen=True)
class _Label:
    text: str
    end: float
    colour: str
    bold: bool


def _labels(drawn: Curves) -> list[_Label]:
    curves = [
        _Label(style.wrapped(method + n.fraction, WIDTH), n.mean, style.colour(method), bold=True)
        for method, n in drawn.ends.items()
        if n.mean is not None
    ]
    levels = [_Label(name, level, style.MUTED, bold=False) for name, level in drawn.levels.items()]
    return [*curves, *levels]
