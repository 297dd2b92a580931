"""A sweep of any axes as data: its cells, the numbers that its evaluations give, and what each axis does.

Between the rows of results and the table and figure of every sweep (`tables/any_sweep.py`,
`figures/any_sweep.py`). Nothing here knows the name of an axis but `backbone`, whose labels are not compared
with one another, nor that of an evaluation. The paper's tables are views of the same rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bench.results import EVALUATED, TRAINING
from reports import splits, stats, table

Labels = Mapping[str, str]
"""Of a cell, by axis."""

NOT_APPLICABLE = "-"
"""The label of a cell that an axis does not apply to (`when` in a sweep)."""
BACKBONE = "backbone"
WHOLE = "all"
"""The subset of an evaluation's whole split."""
_DETAIL = re.compile(r"(class|pair): |only_bg_t/")  # numbers of one class, pair or image
FIRST = {
    "split": tuple(
        name for names in zip(*splits.STANDS_FOR.values(), strict=True) for name in names
    ),
    "view": ("original", "shuffled", "gap", "ordered"),
    "subset": (WHOLE, "temporal", "static"),
    "metric": ("top1", "accuracy", "frame_accuracy", "kendall", "passes"),
}
"""What is shown before all else."""
COLUMNS = 12
"""At most so many numbers stand side by side."""
RAW = table.Unit("number", 3, 0.01)
"""Of numbers that are no shares of one."""


@dataclass(frozen=True)
class Sweep:
    """One sweep of a setting."""

    name: str
    frame: pd.DataFrame  # its rows alone

    @cached_property
    def order(self) -> Mapping[str, Sequence[str]]:
        """The axes with their labels, in the order of the sweep's file. Results from before that was kept have the
        axes sorted, the labels as the tables of the paper have them.
        """
        kept = set(self.frame["axes"].dropna()) if "axes" in self.frame else set()
        order: dict[str, list[str]] = {}
        for text in sorted(kept):  # several only where results of several places are merged
            for axis, labels in json.loads(text).items():
                order.setdefault(axis, [])
                order[axis] += [label for label in labels if label not in order[axis]]
        known = (*stats.BACKBONES, *stats.IN_ORDER)
        for axis in stats.axes(self.frame):
            found = stats.labels(self.frame, axis, known)
            order.setdefault(axis, [])
            order[axis] += [label for label in found if label not in order[axis]]
        return {axis: labels for axis, labels in order.items() if labels}

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.order)

    @cached_property
    def cells(self) -> tuple[Labels, ...]:
        """In the order of the sweep's file."""
        rows = self.frame[list(self.axes)].drop_duplicates().itertuples(index=False, name=None)
        found = [dict(zip(self.axes, map(_text, labels), strict=True)) for labels in rows]
        cells = [{axis: text for axis, text in cell.items() if text} for cell in found]
        return tuple(sorted(cells, key=self._place))

    def _place(self, cell: Labels) -> list[int]:
        order = self.order.items()
        return [labels.index(cell[axis]) if axis in cell else -1 for axis, labels in order]

    def labels(self, axis: str) -> tuple[str, ...]:
        """Of an axis where it applies, in the order of the sweep's file."""
        found = {cell.get(axis) for cell in self.cells} - {NOT_APPLICABLE}
        return tuple(label for label in self.order.get(axis, ()) if label in found)

    @cached_property
    def sheets(self) -> tuple[tuple[SweepNumber, ...], ...]:
        """The numbers to show, those of an evaluation side by side, as many evaluations as fit."""
        sheets: list[list[SweepNumber]] = []
        for shown in _by_evaluation(self.frame):
            parts = [shown[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS)]
            for part in parts:
                if sheets and len(sheets[-1]) + len(part) <= COLUMNS:
                    sheets[-1] += part
                else:
                    sheets.append(list(part))
        return tuple(map(tuple, sheets))

    @cached_property
    def everything(self) -> tuple[stats.Measure, ...]:
        """Every number that is not of `tune`."""
        return _measures(self.frame)

    def number(self, cell: Labels, measure: stats.Measure) -> stats.Aggregate:
        return stats.aggregate(self.frame, cell, measure)

    @property
    def slug(self) -> str:
        """Its name for files: safe everywhere and different for different sweeps."""
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", self.name).strip("_")[:60]
        if safe == self.name:
            return safe
        return f"{safe}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class SweepNumber:
    """A number of a sheet."""

    measure: stats.Measure
    column: table.Column


@dataclass(frozen=True)
class Effect:
    """What a label of an axis does, against the axis's first one: over all pairs of cells that differ in this alone."""

    axis: str
    label: str
    first: str
    backbone: str  # within which; "" where the sweep has one
    pairs: tuple[tuple[Labels, Labels], ...]


def of(frame: pd.DataFrame) -> tuple[Sweep, ...]:
    """Every sweep of these results, by name."""
    names = sorted(set(frame["sweep"]) - {EVALUATED, ""})
    found = [Sweep(name, frame[frame["sweep"] == name]) for name in names]
    return tuple(sweep for sweep in found if sweep.axes)


# --- numbers ---


def _measures(frame: pd.DataFrame) -> tuple[stats.Measure, ...]:
    """The plain ones first: top-1 of original samples, of the whole split."""
    shown = frame[frame["evaluation"].notna() & (frame["evaluation"] != TRAINING)]
    shown = shown[shown["split"] != splits.TUNE]
    names = ["evaluation", "split", "view", "subset", "metric"]
    found = shown[names].drop_duplicates().itertuples(index=False, name=None)
    return tuple(sorted((stats.Measure(*map(str, values)) for values in found), key=_plainest))


def _plainest(measure: stats.Measure) -> tuple[object, ...]:
    ranks = (_rank(getattr(measure, name), first) for name, first in FIRST.items())
    return (measure.evaluation, *ranks)


def _rank(name: str, first: Sequence[str]) -> tuple[int, str]:
    return (first.index(name) if name in first else len(first), name)


def _by_evaluation(frame: pd.DataFrame) -> list[list[SweepNumber]]:
    """What to show of each evaluation, those of accuracy first."""
    by_name: dict[str, list[stats.Measure]] = {}
    for measure in _measures(frame):
        by_name.setdefault(measure.evaluation, []).append(measure)
    largest = (
        frame.assign(size=frame["value"].abs()).groupby(["evaluation", "metric"])["size"].max()
    )
    found = [[_shown(m, float(largest.get((name, m.metric), 0.0))) for m in _main(measures)]
             for name, measures in by_name.items()]  # fmt: skip
    return sorted(found, key=lambda shown: shown[0].measure.metric != FIRST["metric"][0])


def _main(measures: Sequence[stats.Measure]) -> list[stats.Measure]:
    """Of each view the first metric, on the split that is reported and on its unbiased twin (where there is none
    of these: on all), of the whole split or, where nothing is of the whole, of each layer or whatever there is.
    """
    here = {m.split for m in measures}
    named = {splits.named(name, here) for name in splits.STANDS_FOR} & here or here
    chosen = [m for m in measures if m.split in named and not _DETAIL.match(m.view)]
    whole = [m for m in chosen if m.subset == WHOLE]
    chosen = whole or [m for m in chosen if not _DETAIL.match(m.subset)] or list(measures)
    first: dict[tuple[str, str, str], stats.Measure] = {}
    for measure in chosen:
        first.setdefault((measure.split, measure.view, measure.subset), measure)
    return list(first.values())


def _shown(measure: stats.Measure, largest: float) -> SweepNumber:
    parts = [measure.view, *([] if measure.subset == WHOLE else [measure.subset])]
    name = ", ".join(part.replace("_", " ") for part in parts)
    group = f"{measure.evaluation}, {measure.metric.replace('_', ' ')}, {measure.split}"
    return SweepNumber(measure, table.Column(name, group, unit=unit_of(largest)))


def unit_of(largest: float) -> table.Unit:
    """Of numbers of which none is further from zero."""
    return table.PERCENT if largest <= 1 else RAW


# --- effects ---


def effects(sweep: Sweep) -> Iterator[Effect]:
    """Of each label but the first of each axis; backbones are not compared, but each has effects of its own."""
    backbones = sweep.labels(BACKBONE) if BACKBONE in sweep.axes else ()
    for backbone in backbones if len(backbones) > 1 else ("",):
        cells = [cell for cell in sweep.cells if not backbone or cell.get(BACKBONE) == backbone]
        for axis in sweep.axes:
            first, *others = sweep.labels(axis) or ("",)
            for label in others if axis != BACKBONE else ():
                pairs = tuple(_pairs(cells, axis, label, first))
                if pairs:
                    yield Effect(axis, label, first, backbone, pairs)


def _pairs(
    cells: Sequence[Labels], axis: str, label: str, first: str
) -> Iterator[tuple[Labels, Labels]]:
    """Cells with this label, each with those of the first one that are alike in all else. An axis that does not
    apply to one of two cells does not tell them apart.
    """
    exact: dict[frozenset[tuple[str, str]], Labels] = {}
    loose: list[Labels] = []
    for cell in (c for c in cells if c.get(axis) == first):
        if NOT_APPLICABLE in cell.values():
            loose.append(cell)
        else:
            exact[_but(cell, axis)] = cell
    for cell in (c for c in cells if c.get(axis) == label):
        if NOT_APPLICABLE in cell.values():
            others = list(exact.values())
        else:
            others = [exact[key]] if (key := _but(cell, axis)) in exact else []
        for other in (*others, *loose):
            if all(_alike(cell.get(name), other.get(name)) for name in {*cell, *other} - {axis}):
                yield cell, other


def _but(cell: Labels, axis: str) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in cell.items() if item[0] != axis)


def _alike(one: str | None, other: str | None) -> bool:
    return one == other or bool({one, other} & {None, NOT_APPLICABLE})


def measured_effect(sweep: Sweep, effect: Effect, measure: stats.Measure) -> stats.Aggregate:
    """The paired difference, seed by seed; of several pairs of cells their mean, for seeds that all of them have."""
    found = [
        stats.difference(sweep.number(cell, measure), sweep.number(other, measure))
        for cell, other in effect.pairs
    ]
    if len(found) == 1:
        return found[0]
    if problem := next((number.problem for number in found if number.problem), ""):
        return stats.Aggregate(tuple(run for number in found for run in number.runs), problem)
    runs: dict[int, list[stats.Run]] = {}
    for number in found:
        for run in number.runs:
            runs.setdefault(run.seed, []).append(run)
    return stats.Aggregate(tuple(_mean(seed, of, len(found)) for seed, of in sorted(runs.items())))


def _mean(seed: int, runs: Sequence[stats.Run], pairs: int) -> stats.Run:
    signatures = tuple(dict.fromkeys(name for run in runs for name in run.signatures))
    values = [run.value for run in runs if run.value is not None]
    if len(values) < pairs:
        reason = next((run.reason for run in runs if run.value is None and run.reason), "")
        why = f"has {len(values)} of {pairs} pairs of cells" + (f" ({reason})" if reason else "")
        return stats.Run(seed, "DONE", why, signatures)
    run = runs[0]
    value = float(np.mean(values))
    return stats.Run(
        seed, run.state, "", signatures, run.made_from, value, run.samples, run.data_seed
    )


# --- numeric axes ---


def numeric(sweep: Sweep) -> tuple[str, ...]:
    """The axes whose labels are several numbers."""
    return tuple(
        axis
        for axis in sweep.axes
        if len(sweep.labels(axis)) > 1 and all(value(label) is not None for label in sweep.labels(axis))
    )  # fmt: skip


def value(label: str) -> float | None:
    """The number that a label is, if it is one."""
    try:
        found = float(label)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _text(label: object) -> str:
    return "" if label is None or pd.isna(label) else str(label)  # type: ignore[call-overload]
