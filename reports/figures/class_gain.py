"""Gain per class: which classes does + TIME help on original clips, and which does it cost?

One panel per backbone, a bar per class: accuracy with + TIME minus that of the baseline, paired by seed. The
classes that need the order of frames are marked, as kept beside the predictions of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench import results
from reports import splits, stats, style
from reports.compare import ALL_LOSSES, BASELINE

ORDER = 12
TITLE = "Gain per class"

EVALUATION = "video.shuffle_gap"
CLASS = "class: "
ENDS = (
    15  # of each backbone: the largest gains and the largest losses, where there are more classes
)
NAME = 52  # characters of a class
ROW = 0.155  # inches
# By kind of class; the hatch tells them apart without colour.
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "temporal": {"facecolor": "#d55e00"},
    "static": {"facecolor": "#9ab8d0", "hatch": "////"},
    "": {"facecolor": "#b5b5b5"},
}


@dataclass(frozen=True)
class _Gain:
    name: str
    kind: str  # temporal, static, or neither
    change: stats.Aggregate

    @property
    def mean(self) -> float:
        return self.change.mean or 0.0


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    rows = stats.of_evaluation(frame, EVALUATION)
    gains = _gains(rows)
    if not gains:
        return None
    shown = {backbone: _ends(found) for backbone, found in gains.items()}
    heights = [len(part) + 1.5 for part in shown.values()]
    inches = ROW * sum(heights) + 0.3 * len(shown) + 0.7
    figure.set_size_inches(style.PAGE_WIDTH, inches)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (backbone, part) in zip(panels, shown.items(), strict=True):
        _panel(axes, part)
        axes.set_title(style.wrapped(backbone, 60))
    panels[-1].set_xlabel(f"{ALL_LOSSES} minus {BASELINE}, top-1 on original clips (points)")
    kinds = [kind for kind in LOOKS if any(g.kind == kind for part in shown.values() for g in part)]
    if kinds != [""]:
        looks = [Patch(**LOOKS[kind], edgecolor="white", label=_named(kind)) for kind in kinds]
        figure.legend(handles=looks, loc="outside upper right", ncols=len(looks))
    return _caption(rows, gains)


def data(frame: pd.DataFrame) -> pd.DataFrame:
    """All classes, also those that are not drawn."""
    return pd.DataFrame([
        {
            "backbone": backbone, "class": gain.name, "kind": gain.kind, "mean": gain.change.mean,
            "std": gain.change.std, "samples": gain.change.samples,
            "seeds": [run.seed for run in gain.change.measured], "values": list(gain.change.values),
            "signatures": list(gain.change.signatures),
        }
        for backbone, found in _gains(stats.of_evaluation(frame, EVALUATION)).items()
        for gain in found
    ])  # fmt: skip


def _gains(rows: pd.DataFrame) -> Mapping[str, list[_Gain]]:
    """By backbone, the largest first; of backbones that have both methods."""
    subsets = rows.loc[rows["evaluation"] == EVALUATION, "subset"].dropna()
    names = sorted({name for name in subsets if name.startswith(CLASS)})
    found: dict[str, list[_Gain]] = {}
    for backbone in stats.labels(rows, "backbone", stats.BACKBONES) if names else ():
        kinds = _kinds(rows, backbone)
        for name in names:
            measure = stats.Measure(EVALUATION, splits.REPORTED, "original", name)
            after, before = (
                stats.aggregate(rows, {"backbone": backbone, "method": method}, measure)
                for method in (ALL_LOSSES, BASELINE)
            )
            plain, change = name.removeprefix(CLASS), stats.difference(after, before)
            if change.mean is not None:
                found.setdefault(backbone, []).append(_Gain(plain, kinds.get(plain, ""), change))
    return {
        backbone: sorted(part, key=lambda gain: (-gain.mean, gain.name))
        for backbone, part in found.items()
    }


def _kinds(rows: pd.DataFrame, backbone: str) -> Mapping[str, str]:
    """Which classes are temporal and which static, as a run kept it; nothing where none did."""
    for method in (BASELINE, ALL_LOSSES):
        labels = {"backbone": backbone, "method": method}
        for folder in stats.run_dirs(rows, labels, EVALUATION).values():
            if kept := results.subsets(folder):
                return {name: kind for kind in LOOKS for name in kept.get(kind, ())}
    return {}


def _ends(found: list[_Gain]) -> list[_Gain]:
    return found if len(found) <= 2 * ENDS else [*found[:ENDS], *found[-ENDS:]]


def _panel(axes: Axes, gains: list[_Gain]) -> None:
    for place, gain in enumerate(gains):
        axes.barh(place, gain.mean, height=0.72, edgecolor="white", lw=0, **LOOKS[gain.kind])
        if gain.change.std is not None:
            axes.errorbar(
                gain.mean, place, xerr=gain.change.std, color=style.INK, elinewidth=0.7, capsize=1.5
            )
    axes.axvline(0, color=style.MUTED, lw=0.8)
    axes.set_yticks(range(len(gains)), [_short(gain) for gain in gains])
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _short(gain: _Gain) -> str:
    return style.short(gain.name, NAME) + gain.change.fraction


def _named(kind: str) -> str:
    return f"{kind} class" if kind else "neither"


def _caption(rows: pd.DataFrame, gains: Mapping[str, list[_Gain]]) -> str:
    changes = [gain.change for found in gains.values() for gain in found]
    clips = min((change.samples or 1 for change in changes), default=1)
    half = 196 * (0.5 / clips) ** 0.5
    most = max(map(len, gains.values()))
    left_out = (
        f" Drawn are the {ENDS} largest gains and the {ENDS} largest losses of {most} classes."
        if most > 2 * ENDS
        else ""
    )
    return (
        f"What {ALL_LOSSES} changes on each class of {splits.shown(rows, EVALUATION)}, original clips: "
        f"accuracy minus that of the {BASELINE}, sorted.{left_out} Bars: mean over seeds of the paired "
        "differences; lines: their sample standard deviation (ddof = 1); (2/3) means that 2 of 3 seeds "
        f"have both. The smallest class has {clips} clips: between two models of one seed a difference of "
        f"up to {half:.0f} points there may be chance (95 %)."
    )
