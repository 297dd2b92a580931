"""A sweep of axes of one's own as a picture: a curve over one numeric axis, a heat map over two, else dots.

Sweeps over backbones and methods alone have figures of their own. What is drawn are the first numbers of
`reports.any_sweep`, as many as there are panels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import any_sweep, intervals, stats, style
from reports.any_sweep import Labels, Sweep, SweepNumber

ORDER = 90
TITLE = "Sweeps of other axes"

PANELS = 3
LINES = 8  # more cannot be told apart
MAPS = 4
DOTS = 40  # rows
TICKS = 6
_OF_THE_PAPER = {any_sweep.BACKBONE, "method"}
_DECADES = 20  # a numeric axis whose ends differ by such a factor is drawn in logarithms


def parts(frame: pd.DataFrame) -> Mapping[str, tuple[str, pd.DataFrame]]:
    """A figure for each sweep with an axis that no figure of the paper has."""
    return {
        f"sweep_{sweep.slug}": (f"Sweep {sweep.name}", sweep.frame)
        for sweep in any_sweep.of(frame)
        if _varied(sweep) - _OF_THE_PAPER
    }


def draw(frame: pd.DataFrame, figure: Figure) -> str | None:
    found = any_sweep.of(frame)
    if len(found) != 1 or not _varied(found[0]) - _OF_THE_PAPER:
        return None
    sweep = found[0]
    shown = [item for sheet in sweep.sheets for item in sheet if _has(sweep, item)][:PANELS]
    if not shown:
        return None
    figure.set_layout_engine("constrained")
    numeric = any_sweep.numeric(sweep)
    if len(numeric) == 1:
        return _curves(figure, sweep, shown, numeric[0])
    if len(numeric) == 2:
        return _maps(figure, sweep, shown, numeric[0], numeric[1])
    return _dots(figure, sweep, shown)


def _varied(sweep: Sweep) -> set[str]:
    return {axis for axis in sweep.axes if len(sweep.labels(axis)) > 1}


def _has(sweep: Sweep, item: SweepNumber) -> bool:
    return any(sweep.number(cell, item.measure).mean is not None for cell in sweep.cells)


def _heading(item: SweepNumber) -> str:
    return textwrap.fill(item.column.name, 30) + "\n" + textwrap.fill(item.column.group, 36)


def _name(cell: Labels, leave_out: Sequence[str], sweep: Sweep) -> str:
    """Of a line or a row, by the axes that are not drawn."""
    kept = [axis for axis in sweep.axes if axis in _varied(sweep) and axis not in leave_out]
    return " · ".join(cell[axis] for axis in kept if axis in cell)


def _short(name: str) -> str:
    """So that a label neither breaks a figure nor halves it: each part by itself, for the end of a long one must
    not hide the others.
    """
    parts = name.split(" · ")
    most = max(12, 44 // len(parts))
    return " · ".join(
        part if len(part) <= most else part[: most - 1].rstrip() + "…" for part in parts
    )


# --- one numeric axis ---


def _curves(figure: Figure, sweep: Sweep, shown: Sequence[SweepNumber], axis: str) -> str:
    lines: dict[str, list[Labels]] = {}
    for cell in sweep.cells:
        lines.setdefault(_name(cell, [axis], sweep), []).append(cell)
    drawn = dict(list(lines.items())[:LINES])
    figure.set_size_inches(style.PAGE_WIDTH, 2.3 + 0.16 * (len(drawn) if len(drawn) > 1 else 0))
    for panel, item in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for k, (name, cells) in enumerate(drawn.items()):
            _line(
                panel,
                sweep,
                item,
                axis,
                cells,
                _short(name),
                style.OTHER_COLOURS[k % len(style.OTHER_COLOURS)],
            )
        panel.set_title(_heading(item), fontsize=7)
        panel.set_xlabel(_short(axis))
        _scale(panel, sweep, axis)
    handles, names = figure.axes[0].get_legend_handles_labels()
    if len(drawn) > 1:
        figure.legend(handles, names, loc="outside lower center", ncols=min(2, len(drawn)))
    more = f" {len(lines) - len(drawn)} more lines are in the table." if len(lines) > LINES else ""
    full = [name for name in drawn if _short(name) != name]
    return (
        f"The first numbers of the sweep {sweep.name} over {axis}. Line: mean over seeds; small dots: seeds; band: "
        f"95 % interval of the mean (Student's t), where there are several seeds.{more}"
        + (f" In full: {'; '.join(full)}." if full else "")
    )


def _line(
    panel: Axes,
    sweep: Sweep,
    item: SweepNumber,
    axis: str,
    cells: Sequence[Labels],
    name: str,
    colour: str,
) -> None:
    unit = item.column.unit.percent
    found = []
    for cell in cells:
        place = any_sweep.value(cell.get(axis, ""))
        number = sweep.number(cell, item.measure)
        if (
            place is None and number.mean is not None
        ):  # the axis does not apply: as it is at every value
            panel.axhline(number.mean * unit, color=colour, lw=1, ls="--", label=name)
        elif place is not None and number.mean is not None:
            found.append((place, number))
    found.sort(key=lambda pair: pair[0])
    if not found:
        return
    places = [place for place, _ in found]
    means = [(number.mean or 0.0) * unit for _, number in found]
    panel.plot(places, means, color=colour, marker="o", markersize=3.5, label=name)
    ends = [intervals.of_mean(number) for _, number in found]
    low = [unit * (end[0] if end else np.nan) for end in ends]
    high = [unit * (end[1] if end else np.nan) for end in ends]
    panel.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
    for place, number in found:
        dots = [value * unit for value in number.values]
        panel.scatter([place] * len(dots), dots, s=5, color=colour, alpha=0.5, lw=0)


def _scale(panel: Axes, sweep: Sweep, axis: str) -> None:
    """With the sweep's own labels at its values, where there is room for them."""
    values = {any_sweep.value(label) or 0.0: label for label in sweep.labels(axis)}
    if min(values) > 0 and max(values) / min(values) >= _DECADES:
        panel.set_xscale("log")
    if len(values) <= TICKS:
        panel.set_xticks(list(values), [_short(label) for label in values.values()])
        panel.minorticks_off()
    else:
        panel.xaxis.set_major_formatter("{x:g}")


# --- two numeric axes ---


def _maps(figure: Figure, sweep: Sweep, shown: Sequence[SweepNumber], x: str, y: str) -> str:
    groups: dict[str, list[Labels]] = {}
    for cell in sweep.cells:
        groups.setdefault(_name(cell, [x, y], sweep), []).append(cell)
    drawn = dict(list(groups.items())[:MAPS])
    columns, rows = sweep.labels(x), sweep.labels(y)
    columns, rows = (tuple(sorted(labels, key=stats.natural)) for labels in (columns, rows))
    height = len(drawn) * (0.9 + 0.26 * len(rows))
    figure.set_size_inches(style.PAGE_WIDTH, max(2.0, height))
    panels = figure.subplots(len(drawn), len(shown), squeeze=False)
    for i, (name, cells) in enumerate(drawn.items()):
        for j, item in enumerate(shown):
            _map(panels[i, j], sweep, item, cells, (x, columns), (y, rows))
            panels[i, j].set_title(
                _heading(item) + (f"\n{_short(name)}" if name else ""), fontsize=7
            )
    left = f" {len(groups) - len(drawn)} more maps are in the table." if len(groups) > MAPS else ""
    return (
        f"The first numbers of the sweep {sweep.name} over {x} and {y}: means over seeds. Hatched: no number, for the "
        f"reason in the table.{left}"
    )


def _map(
    panel: Axes, sweep: Sweep, item: SweepNumber, cells: Sequence[Labels], x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
) -> None:  # fmt: skip
    values = np.full((len(y[1]), len(x[1])), np.nan)
    for cell in cells:
        if cell.get(x[0]) in x[1] and cell.get(y[0]) in y[1]:
            number = sweep.number(cell, item.measure)
            if number.mean is not None:
                place = y[1].index(cell[y[0]]), x[1].index(cell[x[0]])
                values[place] = number.mean * item.column.unit.percent
    panel.set_facecolor("#eeeeee")
    panel.patch.set_hatch("////")
    panel.patch.set_edgecolor("#bbbbbb")
    if not np.isnan(values).all():
        panel.imshow(values, cmap="cividis", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "white" if value <= middle else "black"
                panel.text(
                    j,
                    i,
                    item.column.unit.written(value),
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=6.5,
                )
    panel.set_xlim(-0.5, len(x[1]) - 0.5)
    panel.set_ylim(len(y[1]) - 0.5, -0.5)
    panel.grid(visible=False)
    panel.set_xticks(range(len(x[1])), [_short(label) for label in x[1]])
    panel.set_yticks(range(len(y[1])), [_short(label) for label in y[1]])
    panel.set_xlabel(_short(x[0]))
    panel.set_ylabel(_short(y[0]))


# --- anything else ---


def _dots(figure: Figure, sweep: Sweep, shown: Sequence[SweepNumber]) -> str:
    cells = sweep.cells[:DOTS]
    figure.set_size_inches(style.PAGE_WIDTH, 0.9 + 0.2 * len(cells))
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    names = [_short(_name(cell, (), sweep)) for cell in cells]
    for panel, item in zip(panels, shown, strict=True):
        unit = item.column.unit.percent
        for place, cell in enumerate(cells):
            number = sweep.number(cell, item.measure)
            if number.mean is None:
                continue
            values = [value * unit for value in number.values]
            panel.scatter(values, [place] * len(values), s=5, color=style.MUTED, alpha=0.6, lw=0)
            ends = intervals.of_mean(number)
            if ends:
                panel.plot([unit * end for end in ends], [place, place], color=style.INK, lw=0.9)
            panel.scatter([number.mean * unit], [place], s=16, color=style.INK, zorder=3)
        panel.set_title(_heading(item), fontsize=7)
        panel.set_yticks(range(len(cells)), names)
        panel.set_ylim(len(cells) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0)
    more = (
        f" {len(sweep.cells) - DOTS} more cells are in the table."
        if len(sweep.cells) > DOTS
        else ""
    )
    full = [name for cell in cells if _short(name := _name(cell, (), sweep)) != name]
    return (
        f"The first numbers of the sweep {sweep.name}. Large dot: mean over seeds; small dots: seeds; line: 95 % "
        f"interval of the mean (Student's t), where there are several seeds.{more}"
        + (f" In full: {'; '.join(full)}." if full else "")
    )
