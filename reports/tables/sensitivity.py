"""Sensitivity: what + TIME does when one thing of its recipe is changed (sweeps/sensitivity.yaml).

The rows are the labels of that sweep's axes `frames` and `variant`; "<what is varied>: <value>" is
a variant's label. The published numbers are those of table 2 of the paper, for the recipe as
released; no other value of the recipe has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from reports import published, splits, stats, table
from reports.commands import nothing

ORDER = 40

EVALUATION = "video.shuffle_gap"
AXES = ("backbone", "method", "frames", "variant")
RELEASED = "as released"
NO_VARIANT = "-"  # of a cell that the axis does not apply to
FRAMES = "frames"
VARIED = (FRAMES, "order weight", "debias weight", "flow weight")
VIEWS = {"original": "Original", "shuffled": "Shuffled", "gap": "Gap"}
CHANGES = ("original", "gap")


@dataclass(frozen=True)
class _Setting:
    """One cell of the sweep, in the words of the table."""

    varied: str
    value: str
    labels: Mapping[str, str]
    reference: Mapping[str, str]  # the cell as released that it is one change away from

    @property
    def released(self) -> bool:
        return self.labels == self.reference


def build(frame: pd.DataFrame) -> table.Table:
    rows = stats.of_evaluation(frame, EVALUATION)
    paper = published.table("temporal_static")
    found = settings(rows)
    columns = [table.Column("Seeds")]
    split = splits.shown(rows, EVALUATION)
    for name in VIEWS.values():
        columns += [table.Column(name, split), table.Column("paper", split)]
    columns += [table.Column(VIEWS[view], "Change to as released") for view in CHANGES]
    if found:
        notes = paper.notes(stats.data_sets(rows), frame["scale"])
        notes += splits.notes(rows, EVALUATION)
    else:
        notes = nothing(frame, "sensitivity", "varies the recipe")
    return table.Table(
        title="Sensitivity",
        caption=(
            "Top-1 accuracy when one thing of the recipe is changed and all else is as released: "
            "all weights 1, 8 frames, one permutation per batch with the identity among them. "
            f"Gap = Original - Shuffled. {table.OVER_SEEDS} {table.OVER_PAIRS}"
        ),
        labels=("Varied", "Value", "Backbone", "Method"),
        columns=tuple(columns),
        rows=tuple(_row(rows, paper, setting) for setting in found),
        notes=notes,
    )


def settings(frame: pd.DataFrame) -> list[_Setting]:
    """The cells of the sweep, in the order of the table; none where no sweep has these axes."""
    if not set(AXES) <= set(frame.columns):
        return []
    cells = frame[list(AXES)].dropna().drop_duplicates().to_dict("records")
    labels = [{axis: str(cell[axis]) for axis in AXES} for cell in cells]
    usual = {cell["frames"] for cell in labels if cell["variant"] == RELEASED}
    found = [_setting(cell, labels, usual) for cell in labels]
    return sorted(found, key=_rank)


def _setting(labels: Mapping[str, str], cells: list[dict[str, str]], usual: set[str]) -> _Setting:
    varied, _, value = labels["variant"].partition(": ")
    if labels["variant"] in (RELEASED, NO_VARIANT):
        varied, value = FRAMES, labels["frames"]
    same = [
        cell
        for cell in cells
        if all(cell[axis] == labels[axis] for axis in ("backbone", "method"))
        and cell["variant"] in (RELEASED, NO_VARIANT)
        and cell["frames"] in usual
    ]
    return _Setting(varied, value, labels, same[0] if same else {})


def _rank(setting: _Setting) -> tuple[object, ...]:
    known = {name: position for position, name in enumerate((*stats.BACKBONES, *stats.METHODS))}
    return (
        VARIED.index(setting.varied) if setting.varied in VARIED else len(VARIED),
        setting.varied,
        stats.natural(setting.value),
        *((known.get(setting.labels[axis], 99), setting.labels[axis]) for axis in AXES[:2]),
    )


def _row(frame: pd.DataFrame, paper: published.Published, setting: _Setting) -> table.Row:
    numbers = {view: top1(frame, setting.labels, view) for view in VIEWS}
    backbone, method = setting.labels["backbone"], setting.labels["method"]
    cells = [table.seed_count(tuple(numbers.values()))]
    for view, number in numbers.items():
        known = paper.number(backbone, method, f"all {view}") if setting.released else None
        cells += [table.measured(number), table.published(known, paper.source)]
    cells += [_change(frame, setting, numbers[view], view) for view in CHANGES]
    value = f"{setting.value}, {RELEASED}" if setting.released else setting.value
    return table.Row((setting.varied, value, backbone, method), tuple(cells))


def _change(
    frame: pd.DataFrame, setting: _Setting, measured: stats.Aggregate, view: str
) -> table.TableCell:
    if setting.released:
        return table.text("reference")
    # Clips of other lengths are other inputs, and numbers of other inputs are never paired.
    if setting.varied == FRAMES or not setting.reference:
        return table.text("not paired")
    return table.measured(
        stats.difference(measured, top1(frame, setting.reference, view)), signed=True
    )


def top1(frame: pd.DataFrame, labels: Mapping[str, str], view: str) -> stats.Aggregate:
    """Top-1 of a cell on the reported split."""
    return stats.aggregate(frame, labels, stats.Measure(EVALUATION, splits.REPORTED, view))
