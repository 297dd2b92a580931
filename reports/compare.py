"""Tables with one row per backbone and method: measured numbers beside the published ones.

What tables 1 to 3 of the paper and the ablations have in common. A table module says which numbers
it shows, as `Shown`, and of which cells; an empty table says which sweep would fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports import published, splits, stats, table
from reports.commands import not_run, nothing

BASELINE, ALL_LOSSES = "baseline", "+ TIME"
EQUAL_COMPUTE = stats.EQUAL_COMPUTE
LONGER = (
    f"{EQUAL_COMPUTE}: a step with {ALL_LOSSES} takes longer, for it encodes a shuffled clip too; this is the "
    "baseline for so many more epochs. Against it a difference is none of compute."
)
ENDS = (BASELINE, EQUAL_COMPUTE, ALL_LOSSES)


def ends(rows: pd.DataFrame) -> tuple[str, ...]:
    """The methods of tables 1 and 2: equal compute only where a sweep asks for it."""
    asked = set(rows["method"])
    return tuple(name for name in ENDS if name != EQUAL_COMPUTE or name in asked)


@dataclass(frozen=True)
class Shown:
    """One measured column and what belongs to it."""

    column: table.Column
    measure: stats.Measure
    paper: str = ""  # its name in the published table; it then stands beside the measured number
    change: table.Column | None = None  # its difference to the baseline, behind all numbers
    tile: str = ""  # what it is, where it stands at the top of the page
    in_brackets: bool = False  # its difference to the baseline, in brackets behind the number


@dataclass(frozen=True)
class Comparison:
    """What a table compares. `sweep` names the sweep that would fill a row, by its backbone."""

    title: str
    caption: str
    shown: Sequence[Shown]
    cells: Iterable[tuple[str, str]]  # backbone, method
    paper: published.Published | None  # None: nobody has published such numbers
    sweep: Callable[[str], str]
    notes: Sequence[str] = ()


def build(frame: pd.DataFrame, rows: pd.DataFrame, compared: Comparison) -> table.Table:
    """The table of its cells, of the `rows` of its evaluation in the `frame`."""
    shown, paper, sweep = compared.shown, compared.paper, compared.sweep
    compares = paper is not None and paper.compares(stats.data_sets(rows), rows["scale"].unique())
    asked, why_none = _asked(rows, compared.cells)
    if asked:
        known = paper.notes(stats.data_sets(rows), rows["scale"]) if paper else ()
        reported = {i.measure.evaluation for i in shown if i.measure.split == splits.REPORTED}
        of_split = [note for name in sorted(reported) for note in splits.notes(rows, name)]
        longer = (LONGER,) if any(method == EQUAL_COMPUTE for _, method in asked) else ()
        notes = (*known, *of_split, *longer, *compared.notes, *_left_out(rows, asked))
    else:
        notes = (why_none,) if why_none else nothing(frame, sweep(""), "measures this")
    return table.Table(
        title=compared.title,
        caption=compared.caption,
        labels=(table.BACKBONE, "Method"),
        columns=_columns(shown, compares),
        rows=tuple(
            _row(rows, (paper, compares), shown, backbone, method, not_run(frame, sweep(backbone)))
            for backbone, method in asked
        ),
        notes=notes,
    )


def _asked(
    rows: pd.DataFrame, cells: Iterable[tuple[str, str]]
) -> tuple[list[tuple[str, str]], str]:
    """The rows of the table, or none and why: where no sweep has any of them, every one would be a hole that
    nobody asked to be filled, and where sweeps have each several times, by further axes, it cannot be averaged.
    """
    asked = list(cells)
    named = zip(rows["backbone"], rows["method"], strict=True)
    here = rows.loc[np.array([cell in set(asked) for cell in named], dtype=bool)]
    further = here[
        [name for name in stats.axes(rows) if name not in ("backbone", "method")]
    ].notna()
    if here.empty or not further.any(axis=1).all():
        return ([] if here.empty else asked), ""
    names = ", ".join(further.columns[further.any()])
    sweeps = ", ".join(sorted(set(here["sweep"])))
    return (
        [],
        f"Its cells differ in more than backbone and method: {names}. See the sweep {sweeps}.",
    )


def _left_out(rows: pd.DataFrame, asked: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """What the rows of this table are without: "+ TIME at scale mini is without video.flow (why)"."""
    if "left_out" not in rows:  # of results made by hand
        return ()
    ran = rows[(rows["state"] != "SKIPPED") & (rows["left_out"].fillna("") != "")]
    cells = set(asked)
    found = {
        f"{method} at scale {scale} is {text}."
        for backbone, method, scale, text in zip(
            ran["backbone"], ran["method"], ran["scale"], ran["left_out"], strict=True
        )
        if (backbone, method) in cells
    }
    return tuple(sorted(found))


def _columns(shown: Sequence[Shown], compares: bool) -> tuple[table.Column, ...]:
    """Each number with the published one beside it and, where they are of the same thing, measured minus published;
    then the differences to the baseline.
    """
    columns = [table.Column("Seeds")]
    for item in shown:
        columns.append(item.column)
        columns += [table.Column("paper", item.column.group)] if item.paper else []
        columns += [table.Column("to paper", item.column.group)] if item.paper and compares else []
    return (*columns, *(item.change for item in shown if item.change))


def cells(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Every backbone with its methods in these rows, in the order of tables."""
    return [
        (backbone, method)
        for backbone in stats.labels(rows, "backbone", stats.BACKBONES)
        for method in stats.labels(rows[rows["backbone"] == backbone], "method", stats.IN_ORDER)
    ]


def tiles(
    frame: pd.DataFrame, shown: Sequence[Shown], first: Sequence[str] = ()
) -> tuple[tuple[str, str, str], ...]:
    """(what, number, explanation) for the top of the page: baseline against + TIME."""
    found = []
    for backbone in stats.labels(frame, "backbone", first):
        for item in (item for item in shown if item.tile):
            base, full = (
                stats.aggregate(frame, {"backbone": backbone, "method": method}, item.measure)
                for method in (BASELINE, ALL_LOSSES)
            )
            change = table.measured(stats.difference(full, base), signed=True)
            if base.mean is None or full.mean is None or change.value is None:
                continue
            found.append(
                (
                    f"{backbone}: {item.tile}",
                    f"{table.percent(base.mean)} → {table.percent(full.mean)}",
                    f"{BASELINE} → {ALL_LOSSES}: {change.text} over {change.n_seeds} paired "
                    f"seed{'s' if change.n_seeds != 1 else ''}",
                )
            )
    return tuple(found)


def _row(
    frame: pd.DataFrame,
    beside: tuple[published.Published | None, bool],
    shown: Sequence[Shown],
    backbone: str,
    method: str,
    hint: str,
) -> table.Row:
    paper, compares = beside
    cell, reference = ({"backbone": backbone, "method": name} for name in (method, BASELINE))
    numbers = [stats.aggregate(frame, cell, item.measure) for item in shown]
    cells = [table.seed_count(numbers)]
    for item, number in zip(shown, numbers, strict=True):
        measured = table.measured(number, not_run=hint, unit=item.column.unit)
        if item.in_brackets and method != BASELINE:
            base = stats.aggregate(frame, reference, item.measure)
            measured = table.with_change(measured, stats.difference(number, base))
        cells.append(measured)
        if item.paper and paper:
            value = paper.number(backbone, method, item.paper)
            cells.append(table.published(value, paper.source))
            cells += [_to_paper(number, value)] if compares else []
    for item, number in zip(shown, numbers, strict=True):
        if item.change and method == BASELINE:
            cells.append(table.text("reference"))
        elif item.change:
            base = stats.aggregate(frame, reference, item.measure)
            change = stats.difference(number, base)
            unit = item.change.unit
            cells.append(table.measured(change, not_run=hint, signed=True, unit=unit))
    return table.Row((backbone, method), tuple(cells))


def _to_paper(number: stats.Aggregate, value: float | None) -> table.TableCell:
    """Measured minus published: of the mean, for the published number has no seeds here."""
    if number.mean is None or value is None:
        return table.text(table.DASH)
    return table.text(table.percent(number.mean - value, signed=True))
