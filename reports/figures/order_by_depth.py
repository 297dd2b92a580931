"""Figure 2: from which layers can the order of the frames still be read?

A linear probe on each layer's frame features predicts a frame's original position; `layer_00` is
after the embedding. One row of panels per backbone: clips in order on the left, where the time
embedding alone gives the answer away; shuffled clips on the right, where only content can.
"""

from __future__ import annotations

from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import depth, splits, stats, style

ORDER = 20
TITLE = "Order of the frames by depth"

EVALUATION = "video.order_probe"
HEIGHT = 2.5  # of a panel, inches
AROUND = 0.45  # of that, for title and axis
WIDTH = 2.9  # of a panel without its axis, inches
VIEWS = {"ordered": "frames in order", "shuffled": "frames shuffled"}


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, EVALUATION)
    backbones = stats.plotted(rows, _measure("ordered"))
    if not backbones:
        return None
    height = HEIGHT if len(backbones) == 1 else 0.85 * HEIGHT
    figure.set_size_inches(style.PAGE_WIDTH, height * len(backbones) + 0.2)
    figure.set_layout_engine("constrained")
    # Backbones are compared down a column, so its panels have one scale.
    panels = figure.subplots(len(backbones), len(VIEWS), sharex=True, sharey="col", squeeze=False)
    places = list(product(enumerate(backbones), enumerate(VIEWS)))
    drawn = {
        (i, j): depth.curves(panels[i, j], rows, backbone, backbones[backbone], _measure(view))
        for (i, backbone), (j, view) in places
    }
    for j in range(len(VIEWS)):
        column = [drawn[i, j] for i in range(len(backbones))]
        tops = [max(panel.top, 2 * panel.chance) for panel in column]
        panels[0, j].set_ylim(0, min(105.0, 1.2 * max(tops)))
    depth.room_for_labels(panels[0, 0], drawn.values(), WIDTH)
    for (i, backbone), (j, view) in places:
        axes: Axes = panels[i, j]
        depth.direct_labels(axes, drawn[i, j], height - AROUND)
        axes.set_title(style.wrapped(f"{backbone}, {VIEWS[view]}", 44))
        if i == len(backbones) - 1:
            axes.set_xlabel("layer (0 = after the embedding)")
        if j == 0:
            axes.set_ylabel("frame-order accuracy (%)")
    return (
        "Accuracy of a linear probe that predicts the original position of a frame from its "
        f"features, by depth of the layer, on {splits.shown(rows, EVALUATION)}. Left: frames in "
        "order, where the time embedding "
        "alone gives the answer away, and where this probe is the very head that L_order trains: "
        "what it says of + order and + TIME is that their training worked, not that content is "
        "used. Right: frames shuffled, where only content can tell (the two "
        "columns have different scales). Lines: mean over seeds; bands: sample standard deviation "
        "(ddof = 1); dashed: chance; (2/3) means that 2 of 3 seeds have finished."
    )


def _measure(view: str) -> stats.Measure:
    return stats.Measure(EVALUATION, splits.REPORTED, view, "layer_00", "frame_accuracy")
