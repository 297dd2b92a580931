"""Order by content: how much of the order of the frames do the layers show without any time embedding?

One row of panels per backbone. Left, seriation: shuffled frames put in order by how alike their tokens
are, beside what the pixels alone give. Then a linear probe that says which of two frames was filmed
first, of clips of the classes it has learned from, and of other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import depth, splits, stats, style

ORDER = 21
TITLE = "Order of the frames by content and depth"

SERIATION, PAIRS = "video.seriation", "video.pair_order"
# heading, evaluation, view, metric, what is on the axis
COLUMNS = (
    ("seriation", SERIATION, "rank", "kendall", "rank correlation |τ| (%)"),
    ("pairs, known classes", PAIRS, "known_classes", "accuracy", "right order (%)"),
    ("pairs, new classes", PAIRS, "new_classes", "accuracy", "right order (%)"),
)
HEIGHT = 2.1  # of a panel, inches
AROUND = 0.45  # of that, for title and axis
BESIDE = 0.55  # inches of each column, for its axis

Methods = Mapping[str, tuple[str, ...]]  # by backbone


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    split = splits.REPORTED
    columns = [column for column in COLUMNS if _methods(frame, column, split)]
    backbones = _backbones([_methods(frame, column, split) for column in columns])
    if not columns:
        return None
    figure.set_size_inches(style.PAGE_WIDTH, HEIGHT * len(backbones) + 0.2)
    figure.set_layout_engine("constrained")
    # Backbones are compared down a column, so its panels have one scale.
    panels = figure.subplots(len(backbones), len(columns), sharex=True, sharey="col", squeeze=False)
    places = list(product(enumerate(backbones), enumerate(columns)))
    drawn = {
        (i, j): _panel(panels[i, j], frame, backbone, column, split)
        for (i, backbone), (j, column) in places
    }
    for j, (_, evaluation, *_) in enumerate(columns):
        _scale(panels[0, j], [drawn[i, j] for i in range(len(backbones))], evaluation)
    depth.room_for_labels(panels[0, 0], drawn.values(), style.PAGE_WIDTH / len(columns) - BESIDE)
    for (i, backbone), (j, (heading, *_, unit)) in places:
        depth.direct_labels(panels[i, j], drawn[i, j], HEIGHT - AROUND)
        panels[i, j].set_title(style.wrapped(f"{backbone}, {heading}", 34), fontsize=7)
        panels[i, j].set_ylabel(unit)
        if i == len(backbones) - 1:
            panels[i, j].set_xlabel("layer (0 = after the embedding)")
    shown = [number for panel in drawn.values() for number in panel.ends.values()]
    return _caption(
        splits.shown(frame, columns[0][1]), min(number.samples or 1 for number in shown)
    )


def _measure(column: tuple[str, ...], split: str, subset: str = "layer_00") -> stats.Measure:
    _, evaluation, view, metric, _ = column
    return stats.Measure(evaluation, split, view, subset, metric)


def _methods(frame: pd.DataFrame, column: tuple[str, ...], split: str) -> Methods:
    """The methods of each backbone that have this measure."""
    measure = _measure(column, split)
    return stats.plotted(stats.of_evaluation(frame, measure.evaluation), measure)


def _backbones(columns: list[Methods]) -> list[str]:
    return list(dict.fromkeys(backbone for methods in columns for backbone in methods))


def _panel(
    axes: Axes, frame: pd.DataFrame, backbone: str, column: tuple[str, ...], split: str
) -> depth.Curves:
    measure = _measure(column, split)
    rows = stats.of_evaluation(frame, measure.evaluation)
    methods = _methods(frame, column, split).get(backbone, ())
    drawn = depth.curves(axes, rows, backbone, methods, measure)
    pixels = _measure(column, split, "pixels")
    for method in methods[:1]:  # the same for all
        number = stats.aggregate(rows, {"backbone": backbone, "method": method}, pixels)
        if number.mean is not None:
            axes.plot([0, drawn.last], [number.mean] * 2, color=style.MUTED, lw=0.9, ls=":")
            drawn = replace(drawn, levels={**drawn.levels, "pixels": number.mean})
    return drawn


def _scale(axes: Axes, drawn: list[depth.Curves], evaluation: str) -> None:
    """A rank correlation from 0 to 100; of pairs, where half is chance, what the curves need."""
    if evaluation == SERIATION:
        axes.set_ylim(0, 105)
        return
    highest = max(60.0, *(panel.top for panel in drawn))
    axes.set_ylim(min(panel.bottom for panel in drawn) - 4, min(105.0, highest + 3))


def _caption(split: str, clips: int) -> str:
    half = 50 * 1.96 / clips**0.5
    return (
        f"What the layers show of the order of the frames without being told it, on {split}. Seriation: "
        "shuffled frames are put in order by how alike their tokens are (the Fiedler vector of their "
        "similarities, the mean of each place taken away), scored by |Kendall's rank correlation| with "
        "the true order, either direction; nothing is fitted; dotted: the same of the pixels. Pairs: a "
        "linear probe of the difference of two frames' features, in a pass without time embedding on "
        "shuffled frames, says which was filmed first; of clips of the classes that it has learned "
        "from, and of classes that it has not. A model can hold an order that no one direction of its "
        f"features shows. Of one model on {clips} clips a share of one half is uncertain by up to "
        f"± {half:.1f} points (95 %): curves nearer to chance are not above it. "
        "Lines: mean over seeds; bands: sample standard deviation (ddof = 1); dashed: chance; (2/3) "
        "means that 2 of 3 seeds have finished."
    )
