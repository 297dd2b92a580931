"""Search: the value of each trial in the order they were asked, and the best so far.

One panel per search of `bench.tune` at this scale, from its trials.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench import results
from reports import style

ORDER = 60
TITLE = "Search, trial by trial"

HEIGHT = 2.0  # of a panel, inches
VALUE, BEST = style.COLOURS["+ order"], style.COLOURS["+ TIME"]

Study = Mapping[str, Any]


def data(frame: pd.DataFrame) -> pd.DataFrame:
    """Every trial, with its value in percent, if it has one."""
    return pd.DataFrame(
        [
            {
                "search": study["title"],
                "metric": study["metric"],
                "trial": trial["number"],
                "state": trial["state"],
                "value": values.get(trial["number"]),
            }
            for study in _studies(frame)
            for values in [_complete(study) | _pruned(study)]
            for trial in study["trials"]
        ]
    )


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    studies = _studies(frame)
    if not studies:
        return None
    figure.set_size_inches(style.PAGE_WIDTH, HEIGHT * len(studies) + 0.2)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(studies), 1, squeeze=False)
    for axes, study in zip(panels[:, 0], studies, strict=True):
        _panel(axes, study)
    panels[-1, 0].set_xlabel("trial")
    return (
        "Every trial of a hyper-parameter search, one run with one seed each. Dots: trained to the "
        "end; line: the best of them so far; crosses: stopped early, at their last validation (never "
        "the best); ticks at the bottom: without a value (failed, or given to another worker, which "
        "repeats it as a later trial). The split is the one that decides, so the best value flatters "
        "the winner: its own sweep judges it by new seeds."
    )


def _studies(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [s for s in results.search_of(frame) if s["best"] is not None]


def _complete(study: Study) -> dict[int, float]:
    """Of each trial that was trained to the end its value in percent."""
    return {t["number"]: 100 * t["value"] for t in study["trials"] if t["state"] == "COMPLETE"}


def _pruned(study: Study) -> dict[int, float]:
    """Of each trial that was stopped early its last validation, in percent."""
    return {
        t["number"]: 100 * next(reversed(t["intermediate"].values()))
        for t in study["trials"]
        if t["state"] == "PRUNED" and t["intermediate"]
    }


def _panel(axes: Axes, study: Study) -> None:
    complete, pruned = _complete(study), _pruned(study)
    failed = [t["number"] for t in study["trials"] if t["state"] == "FAIL"]
    axes.scatter(list(complete), list(complete.values()), s=14, color=VALUE, lw=0, zorder=3)
    axes.scatter(list(pruned), list(pruned.values()), s=16, marker="x", color=style.MUTED, lw=1)
    numbers, line = _best_so_far(study, complete)
    axes.step(numbers, line, where="post", color=BEST, lw=1.2, zorder=2)
    best = study["best"]
    axes.scatter([best], [complete[best]], s=60, facecolor="none", edgecolor=BEST, lw=1.2, zorder=4)
    axes.margins(x=0.03, y=0.15)
    if failed:
        axes.plot(
            failed,
            [0.0] * len(failed),
            ls="none",
            marker="|",
            markersize=6,
            color=style.INK,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{_metric(study)} (%)")
    axes.set_title(f"{study['title']}: {_counts(study, complete, pruned, failed)}")


def _best_so_far(study: Study, complete: Mapping[int, float]) -> tuple[list[int], list[float]]:
    choose = max if study["direction"] == "maximize" else min
    numbers = sorted(complete)
    line = [choose(complete[n] for n in numbers[: i + 1]) for i in range(len(numbers))]
    last = max(t["number"] for t in study["trials"])
    return [*numbers, last], [*line, line[-1]]


def _metric(study: Study) -> str:
    metric, split = str(study["metric"]), str(study["split"])
    return f"top-1 on {split}" if metric == "val/top1" else metric.replace(" ", "\n", 1)


def _counts(
    study: Study, complete: Mapping[int, float], pruned: Mapping[int, float], failed: list[int]
) -> str:
    parts = [f"n = {len(complete)} to the end", f"{len(pruned)} stopped early"]
    parts += [f"{len(failed)} without a value"] if failed else []
    return f"{study['sampler']}, {', '.join(parts)}; best {complete[study['best']]:.1f}"
