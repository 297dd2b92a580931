"""Search: which of the searched values the result depends on, and how much.

One panel per search of `bench.tune` at this scale, from its trials.json. The importances are
Optuna's (PED-ANOVA): how differently a parameter is spread among the best trials and among all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import results
from reports import style

ORDER = 61
TITLE = "Search, importance of the parameters"

BAR = 0.24  # inches per parameter
COLOUR = style.COLOURS["+ order"]

Study = Mapping[str, Any]


def data(frame: pd.DataFrame) -> pd.DataFrame:
    """Every parameter and its share of the importance in percent."""
    return pd.DataFrame(
        [
            {"search": study["title"], "parameter": name, "share": 100 * share}
            for study in _studies(frame)
            for name, share in study["importances"].items()
        ]
    )


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    studies = _studies(frame)
    if not studies:
        return None
    rows = [len(s["importances"]) for s in studies]
    figure.set_size_inches(style.PAGE_WIDTH, BAR * sum(rows) + 0.35 * len(studies) + 0.4)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(
        len(studies), 1, squeeze=False, sharex=True, height_ratios=[n + 0.5 for n in rows]
    )
    for axes, study in zip(panels[:, 0], studies, strict=True):
        _panel(axes, study)
    panels[-1, 0].set_xlabel("share of the importance (%)")
    return (
        "How much the value of a trial depends on each searched parameter: PED-ANOVA over the trials "
        "that were trained to the end, which compares where the best tenth (at least five) of them lie "
        "with where all lie; the shares add up to 100 %. It says nothing about the direction, and little when n is "
        "small: one seed per trial, and their noise counts as much as anything."
    )


def _studies(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [s for s in results.search_of(frame) if s["importances"]]


def _panel(axes: Axes, study: Study) -> None:
    shares = sorted(study["importances"].items(), key=lambda item: item[1])
    places = range(len(shares))
    percent = [100 * share for _, share in shares]
    axes.barh(places, percent, height=0.6, color=COLOUR)
    for place, value in zip(places, percent, strict=True):
        axes.annotate(
            f"{value:.0f}",
            (value, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
    axes.set_yticks(
        list(places), [style.short(name.removeprefix("objectives."), 40) for name, _ in shares]
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 106)
    n = sum(t["state"] == "COMPLETE" for t in study["trials"])
    axes.set_title(f"{study['title']}: {study['metric']}, n = {n} trials")
