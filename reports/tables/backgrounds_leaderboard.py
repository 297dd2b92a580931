"""Backgrounds leaderboard: published models beside the measured ones.

The columns of the leaderboard and the table in the README of the Backgrounds Challenge, for every
(backbone, method) of the image sweeps and every model that `bench.evaluate` measured without a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from reports import compare, published, stats, table
from reports.commands import nothing

ORDER = 60

SHIFT = "image.background_shift"
CHALLENGE = "image.background_challenge"
SPLIT = "test"
COLUMNS = {
    "original": table.Column("Clean", better="up"),
    "mixed_same": table.Column("Mixed-Same", better="up"),
    "mixed_rand": table.Column("Mixed-Rand", better="up"),
    "bg_gap": table.Column("BG-Gap", better="down"),
    "challenge": table.Column("Challenge", better="up", from_zero=True),
}
MEASURED, PUBLISHED = "measured", "published"
HOW = "not measured; python -m bench.evaluate {} --model MODEL --data DIR"


@dataclass(frozen=True)
class _Entry:
    """One model of the leaderboard."""

    source: str
    name: str
    cells: Mapping[str, table.TableCell]  # by the names of COLUMNS

    @property
    def rank(self) -> tuple[object, ...]:
        """The highest challenge accuracy first, those at the floor alike, then the smallest gap; unknown ones
        last.
        """
        challenge, gap = (self.cells[name].value for name in ("challenge", "bg_gap"))
        if table.at_floor(self.cells["challenge"]):
            challenge = 0.0
        return (
            challenge is None,
            -(challenge or 0.0),
            gap is None,
            gap or 0.0,
            self.source,
            self.name,
        )


def build(frame: pd.DataFrame) -> table.Table:
    paper = published.table("backgrounds_leaderboard")
    sweeps = stats.of_evaluation(frame, SHIFT)
    models = {name: stats.evaluated(frame, name) for name in (SHIFT, CHALLENGE)}
    entries = [*_of_sweeps(sweeps), *_of_models(models)]
    data = stats.data_sets(pd.concat([sweeps, *models.values()]))
    notes: tuple[str, ...] = nothing(frame, "background", "measures this")
    left_out = sorted({name for e in (SHIFT, CHALLENGE) for name in stats.limited(frame, e)})
    partly = ", ".join(left_out)
    if entries:
        notes = (
            *paper.notes(data, (), f"Rows '{PUBLISHED}'"),
            "Measured models see images normalised with their own mean and standard deviation; "
            "those marked (official) with that of the original evaluator.",
        )
        # One ranking where numbers compare; else the measured models stand first, by themselves.
        entries = _ranked([*entries, *_published(paper)], together=set(data) <= {paper.data})
    return table.Table(
        title="Backgrounds leaderboard",
        caption=(
            "Top-1 accuracy on original images (Clean), with backgrounds of the same and of random "
            "classes, BG-Gap = Mixed-Same - Mixed-Rand, and Challenge: the share of foregrounds "
            "that no test background makes the model misclassify. Sorted by Challenge, then by "
            f"BG-Gap; best among the measured ones in bold. {table.OVER_SEEDS}"
        ),
        labels=("Source", "Model"),
        columns=tuple(COLUMNS.values()),
        rows=tuple(
            table.Row((entry.source, entry.name), tuple(entry.cells[name] for name in COLUMNS))
            for entry in entries
        ),
        notes=(*notes, f"Left out, measured on a part of each class only: {partly}.")
        if partly
        else notes,
    )


def _ranked(entries: list[_Entry], *, together: bool) -> list[_Entry]:
    return sorted(
        entries, key=lambda entry: (not together and entry.source != MEASURED, entry.rank)
    )


def _measure(name: str) -> stats.Measure:
    return stats.Measure(CHALLENGE if name == "challenge" else SHIFT, SPLIT, name)


def _of_sweeps(frame: pd.DataFrame) -> Iterator[_Entry]:
    """Every (backbone, method) that has a number; table 3 says what is missing."""
    ran = set(frame["evaluation"].dropna())
    for backbone, method in compare.cells(frame):
        labels = {"backbone": backbone, "method": method}
        numbers = {
            name: stats.aggregate(frame, labels, _measure(name))
            for name in COLUMNS
            if _measure(name).evaluation in ran
        }
        if any(number.mean is not None for number in numbers.values()):
            yield _entry(f"{backbone}, {method}", numbers)


def _of_models(frames: Mapping[str, pd.DataFrame]) -> Iterator[_Entry]:
    for model in stats.labels(pd.concat(frames.values()), stats.MODEL):
        numbers = {
            name: stats.aggregate(
                frames[_measure(name).evaluation], {stats.MODEL: model}, _measure(name)
            )
            for name in COLUMNS
        }
        yield _entry(model, {name: number for name, number in numbers.items() if number.runs})


def _entry(model: str, numbers: Mapping[str, stats.Aggregate]) -> _Entry:
    # What nobody asked for is a dash, but no hole.
    cells = {
        name: table.measured(numbers[name])
        if name in numbers
        else table.TableCell(table.DASH, "skipped", reason=HOW.format(_measure(name).evaluation))
        for name in COLUMNS
    }
    return _Entry(MEASURED, model, cells)


def _published(paper: published.Published) -> Iterator[_Entry]:
    for model, trainings in paper.values.items():
        for training in trainings:
            cells = {
                name: table.published(paper.number(model, training, name), paper.source)
                for name in COLUMNS
            }
            yield _Entry(PUBLISHED, f"{model} ({training})", cells)
