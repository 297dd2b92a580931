"""The leaderboard of video models: accuracy without the order of frames, and the arrow of time.

One panel per group of `tables/video_leaderboard.py`, one line per model in the order of the table. On
the left the line joins shuffled and original accuracy, its length is the gap; on the right how often
a probe tells forward from reversed, with its interval, against chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports import style, table
from reports.tables import video_leaderboard as board

ORDER = 15
TITLE = "Leaderboard of video models"

LINE = 0.42  # inches for one model
AROUND = 0.3  # for the title of a group
BOTTOM = 0.95  # for legend and axis
CLIPS = re.compile(r"(\d+ frames).*?(\d+ temporal views? x .+)")
NAME_LENGTH = 44

# marker, filled, size, place below the line that joins original and shuffled; the dot of original lies
# in the ring of shuffled where there is no gap
VIEWS = {
    "all shuffled": ("o", False, 6.4, 0.0, "shuffled"),
    "all original": ("o", True, 3.0, 0.0, "original"),
    "reversed": ("<", False, 3.6, 0.24, "reversed"),
    "still": ("s", False, 3.2, 0.24, "single frame"),
}
ARROWS = {
    "arrow": ("o", True, 4.4, -0.12, "direction, all classes"),
    "arrow temporal": ("D", False, 3.6, 0.12, "direction, temporal classes"),
}
COLOURS = {board.MEASURED: style.INK, board.PUBLISHED: style.MUTED}

Marks = dict[str, tuple[str, bool, float, float, str]]


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    groups: dict[str, list[board.LeaderboardEntry]] = {}
    for entry in board.entries(frame):
        groups.setdefault(entry.group, []).append(entry)
    if not groups:
        return None
    heights = [len(members) for members in groups.values()]
    inches = LINE * sum(heights) + AROUND * len(heights) + BOTTOM
    figure.set_size_inches(style.PAGE_WIDTH, inches)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(groups), 2, sharex="col", squeeze=False, height_ratios=heights)
    for (left, right), (group, members) in zip(panels, groups.items(), strict=True):
        left.set_title(group)
        _accuracies(left, members)
        _arrows(right, members)
    panels[-1][0].set_xlabel("top-1 accuracy (%)")
    panels[-1][1].set_xlabel("arrow of time: right about the direction (%)")
    figure.legend(
        handles=_legend(groups), loc="outside upper center", ncols=4, columnspacing=1.2, handletextpad=0.3
    )  # fmt: skip
    return (
        "Models evaluated without a run, by data set; the largest gap first. Left: top-1 accuracy with "
        "the frames in their original order, shuffled, reversed, and from a single frame; the line is "
        "the gap between original and shuffled. Right: how often a linear probe of the last feature "
        "tells forward from reversed, with Wilson's interval at 95 %; dashed: chance, where a model that "
        "cannot see order stays. Grey: published numbers. Models differ in frames and views, which "
        "stand below their names."
    )


def _accuracies(axes: Axes, members: Sequence[board.LeaderboardEntry]) -> None:
    for place, entry in enumerate(members):
        shuffled, original = (entry.cells[f"all {view}"].value for view in ("shuffled", "original"))
        if shuffled is not None and original is not None:
            low, high = sorted((shuffled, original))
            axes.plot([low, high], [place, place], color=COLOURS[entry.source], lw=2.2, alpha=0.3)
            inside = high < 75  # where the text has room to the right
            axes.annotate(
                f"gap {entry.cells['all gap'].text}",
                (high if inside else low, place),
                xytext=(6 if inside else -6, 0),
                textcoords="offset points",
                ha="left" if inside else "right",
                va="center",
                fontsize=6.5,
            )
        _marks(axes, entry, place, VIEWS)
    axes.set_yticks(range(len(members)), [_name(entry) for entry in members], fontsize=6)
    _rows(axes, len(members))


def _arrows(axes: Axes, members: Sequence[board.LeaderboardEntry]) -> None:
    for place, entry in enumerate(members):
        for name, (_, _, _, below, _) in ARROWS.items():
            if interval := entry.intervals.get(name):
                heights = [place + below, place + below]
                axes.plot(interval, heights, color=COLOURS[entry.source], lw=0.9)
        _marks(axes, entry, place, ARROWS)
        if entry.cells["arrow"].value is None:
            text = f"{table.DASH} not {entry.source}"
            axes.text(52, place, text, va="center", fontsize=6.5, color=style.MUTED)
    for chance in sorted(
        {entry.chance[name] for entry in members for name in ARROWS if name in entry.chance}
    ):
        axes.axvline(chance, color=style.MUTED, lw=0.8, ls=(0, (3, 3)), zorder=0)
    axes.set_yticks([])
    _rows(axes, len(members))


def _marks(axes: Axes, entry: board.LeaderboardEntry, place: int, marks: Marks) -> None:
    colour = COLOURS[entry.source]
    for name, (marker, filled, size, below, _) in marks.items():
        if (value := entry.cells[name].value) is not None:
            look = _look(marker, size, colour=colour, filled=filled)
            axes.plot(value, place + below, **look, zorder=3)


def _look(marker: str, size: float, *, colour: str, filled: bool) -> dict[str, Any]:
    return {
        "linestyle": "",
        "marker": marker,
        "color": colour,
        "markerfacecolor": colour if filled else "white",
        "markersize": size,
    }


def _rows(axes: Axes, count: int) -> None:
    axes.set_xlim(0, 100)
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _name(entry: board.LeaderboardEntry) -> str:
    """The model, and below it how its clips were shown."""
    found = CLIPS.search(entry.clips)
    clips = f"{found[1]}, {found[2]}" if found else entry.clips
    return f"{style.short(entry.model, NAME_LENGTH)}\n{style.short(clips, NAME_LENGTH)}"


def _legend(groups: dict[str, list[board.LeaderboardEntry]]) -> list[Line2D]:
    handles = [
        Line2D([], [], label=label, **_look(marker, size, colour=style.INK, filled=filled))
        for marks in (VIEWS, ARROWS)
        for marker, filled, size, _, label in marks.values()
    ]
    if any(entry.source == board.PUBLISHED for members in groups.values() for entry in members):
        look = _look("o", 3.6, colour=style.MUTED, filled=True)
        handles.append(Line2D([], [], label="published", **look))
    return handles
