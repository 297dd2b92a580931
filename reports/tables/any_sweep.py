"""Every sweep as it is: its cells by its own axes, all that its evaluations measure, and what each axis does.

The tables of the paper show what the paper shows, and only of sweeps with its axes; this one needs none. No
number is marked as the best: of a metric that it does not know, a table cannot say which way is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from reports import any_sweep, stats, table
from reports.any_sweep import Sweep

ORDER = 900

MOST = (
    20_000  # numbers in the table of all, and in those of effects; so many take about two seconds
)
ON_PAGE = 300  # rows; a longer table is CSV alone
_PAIRED = (
    "Paired by seed, between cells that differ in this axis alone (one that an axis does not apply to differs from "
    "none in it); of several pairs of cells the mean. Backbones are not compared with one another."
)


def build(frame: pd.DataFrame) -> Mapping[str, table.Table]:
    """By file name: of each sweep its numbers, on as many sheets as they need, its effects, and all numbers."""
    found: dict[str, table.Table] = {}
    for sweep in any_sweep.of(frame):
        few = len(sweep.cells) * sum(map(len, sweep.sheets)) <= MOST
        # Whoever has thousands of cells asks of a few, and for the plainest numbers.
        sheets = sweep.sheets if few else sweep.sheets[:1]
        several = len(sheets) > 1
        for k, shown in enumerate(sheets or ((),), start=1):
            part = f" ({k} of {len(sheets)})" if several else ""
            name = f"sweep_{sweep.slug}" + (f"_{k}" if several else "")
            found[name] = _numbers(sweep, shown, part)
            if few and shown and (effects := _effects(sweep, shown, part)):
                found[f"sweep_{sweep.slug}_effects" + (f"_{k}" if several else "")] = effects
        if 0 < len(sweep.cells) * len(sweep.everything) <= MOST:
            found[f"sweep_{sweep.slug}_all"] = _everything(sweep)
    return found


def _numbers(sweep: Sweep, shown: tuple[any_sweep.SweepNumber, ...], part: str) -> table.Table:
    rows = []
    for cell in sweep.cells:
        numbers = [sweep.number(cell, item.measure) for item in shown]
        cells = [
            table.measured(number, unit=item.column.unit)
            for number, item in zip(numbers, shown, strict=True)
        ]
        rows.append(table.Row(_labels(sweep, cell), (_seeds(sweep, cell, numbers), *cells)))
    return table.Table(
        title=f"Sweep {sweep.name}{part}",
        caption=(
            f"All cells of the sweep {sweep.name} by its own axes; of each view its first metric. "
            f"{table.OVER_SEEDS}"
        ),
        labels=_headings(sweep),
        columns=(table.Column("Seeds"), *(item.column for item in shown)),
        rows=tuple(rows),
        notes=_notes(sweep, shown),
        sweep=sweep.name,
        aside=len(rows) > ON_PAGE or _further(sweep, shown),
    )


def _seeds(sweep: Sweep, cell: any_sweep.Labels, numbers: list[stats.Aggregate]) -> table.TableCell:
    """How many seeds are through; of a sweep without any number, what became of the cell."""
    if numbers:
        return table.seed_count(numbers)
    nothing = stats.Measure("", "", "")
    return table.measured(sweep.number(cell, nothing))


def _notes(sweep: Sweep, shown: tuple[any_sweep.SweepNumber, ...]) -> tuple[str, ...]:
    notes = [f"{axis}: {sweep.labels(axis)[0]}." for axis in _constant(sweep)]
    if any(label == any_sweep.NOT_APPLICABLE for cell in sweep.cells for label in cell.values()):
        notes.append(f"{any_sweep.NOT_APPLICABLE}: the axis does not apply to this cell.")
    if not shown:
        return (*notes, "Nothing is measured yet.")
    beside = len(sweep.everything) - sum(map(len, sweep.sheets))
    if beside > 0:
        every = f"all {len(sweep.everything)} numbers of a cell (of each class, layer, metric)"
        if len(sweep.cells) * len(sweep.everything) <= MOST:
            notes.append(f"sweep_{sweep.slug}_all.csv has {every}.")
        else:
            notes.append(f"`python -m bench.results --rows FILE` writes {every}.")
    return tuple(notes)


def _effects(
    sweep: Sweep, shown: tuple[any_sweep.SweepNumber, ...], part: str
) -> table.Table | None:
    rows = []
    several = len(sweep.labels(any_sweep.BACKBONE)) > 1
    for effect in any_sweep.effects(sweep):
        cells = [
            _effect(any_sweep.measured_effect(sweep, effect, item.measure), item) for item in shown
        ]
        labels = (effect.backbone,) if several else ()
        row = (*labels, effect.axis, effect.label, effect.first)
        rows.append(table.Row(row, (table.text(str(len(effect.pairs))), *cells)))
    if not rows:
        return None
    return table.Table(
        title=f"Effects in the sweep {sweep.name}{part}",
        caption=f"What each label of an axis changes against the axis's first one. {_PAIRED}",
        labels=(*([table.BACKBONE] if several else []), "Axis", "Label", "Against"),
        columns=(table.Column("Pairs"), *(item.column for item in shown)),
        rows=tuple(rows),
        sweep=sweep.name,
        aside=_further(sweep, shown),
    )


def _further(sweep: Sweep, shown: tuple[any_sweep.SweepNumber, ...]) -> bool:
    """Whether it is a sheet behind the first, which has the plainest numbers."""
    return bool(sweep.sheets) and shown is not sweep.sheets[0]


def _effect(number: stats.Aggregate, item: any_sweep.SweepNumber) -> table.TableCell:
    """Without a number no hole: what is missing is one in the table of the cells, and numbers of other inputs, e.g.
    of clips of another length, are not paired.
    """
    cell = table.measured(number, signed=True, unit=item.column.unit)
    return cell if cell.value is not None else replace(cell, status="skipped")


def _everything(sweep: Sweep) -> table.Table:
    """One row for each number: too long for a page."""
    return table.Table(
        title=f"All numbers of the sweep {sweep.name}",
        caption=f"Every number of the sweep {sweep.name}. {table.OVER_SEEDS}",
        labels=(*_headings(sweep), "Evaluation", "Split", "View", "Subset", "Metric"),
        columns=(table.Column("Value"), table.Column("Seeds"), table.Column("n")),
        rows=tuple(_each(sweep)),
        aside=True,
    )


def _each(sweep: Sweep) -> Iterator[table.Row]:
    largest = sweep.frame.assign(size=sweep.frame["value"].abs())
    units = {
        str(metric): any_sweep.unit_of(size)
        for metric, size in largest.groupby("metric")["size"].max().items()
    }
    for cell in sweep.cells:
        for measure in sweep.everything:
            number = sweep.number(cell, measure)
            value = table.measured(number, unit=units.get(measure.metric, table.PERCENT))
            size = "" if number.samples is None else str(number.samples)
            of = (measure.evaluation, measure.split, measure.view, measure.subset, measure.metric)
            cells = (value, table.seed_count([number]), table.text(size))
            yield table.Row((*_labels(sweep, cell), *of), cells)


def _constant(sweep: Sweep) -> tuple[str, ...]:
    """The axes with one label, which a note names instead of every row; never the last one left."""
    alone = tuple(axis for axis in sweep.axes if len({cell.get(axis) for cell in sweep.cells}) == 1)
    return alone if len(alone) < len(sweep.axes) else alone[1:]


def _headings(sweep: Sweep) -> tuple[str, ...]:
    constant = _constant(sweep)
    return tuple(
        table.BACKBONE if axis == any_sweep.BACKBONE else axis
        for axis in sweep.axes
        if axis not in constant
    )


def _labels(sweep: Sweep, cell: any_sweep.Labels) -> tuple[str, ...]:
    constant = _constant(sweep)
    return tuple(cell.get(axis, table.DASH) for axis in sweep.axes if axis not in constant)
