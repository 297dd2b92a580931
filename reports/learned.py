"""What each auxiliary loss has learned, beside the table of an ablation: the accuracy at its own labels
and that of always guessing the commonest of them, over the last epoch of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from bench.results import TRAINING, is_learned
from reports import stats, table

CAPTION = (
    "In training, last epoch: how often each auxiliary loss guesses its label, and the majority rate, "
    "the share of the commonest one."
)


def beside(built: table.Table, frame: pd.DataFrame) -> table.Table:
    """The table with an accuracy and a majority rate for each loss that has labels to guess, where any was
    trained. Its rows are labelled backbone, method.
    """
    training = frame[frame["evaluation"] == TRAINING]
    guessing = sorted(set(training.loc[training["metric"] == "majority", "view"]))
    if not guessing or not built.rows:
        return built
    columns = [
        table.Column(name, f"{objective}, training")
        for objective in guessing
        for name in ("accuracy", "majority")
    ]
    rows = tuple(
        replace(row, cells=(*row.cells, *_cells(training, _labels(row), guessing)))
        for row in built.rows
    )
    notes = (
        *built.notes,
        *_did_not_learn(training, built, guessing),
        *_confidence(training, built),
    )
    return replace(
        built,
        caption=f"{built.caption} {CAPTION}",
        columns=(*built.columns, *columns),
        rows=rows,
        notes=notes,
    )


def _labels(row: table.Row) -> dict[str, str]:
    return dict(zip(("backbone", "method"), row.labels, strict=True))


def _numbers(
    training: pd.DataFrame, labels: Mapping[str, str], objective: str, *metrics: str
) -> list[stats.Aggregate]:
    return [
        stats.aggregate(training, labels, stats.Measure(TRAINING, "train", objective, metric=name))
        for name in metrics
    ]


def _cells(
    training: pd.DataFrame, labels: Mapping[str, str], guessing: list[str]
) -> Iterator[table.TableCell]:
    """A dash where the method has no such loss: nothing is missing there."""
    for objective in guessing:
        for number in _numbers(training, labels, objective, "accuracy", "majority"):
            there = number.problem or number.values
            yield table.measured(number) if there else table.text(table.DASH)


def _did_not_learn(
    training: pd.DataFrame, built: table.Table, guessing: list[str]
) -> Iterator[str]:
    for objective in guessing:
        where = []
        for row in built.rows:
            right, most, error = (
                {run.seed: run.value for run in number.measured if run.value is not None}
                for number in _numbers(
                    training, _labels(row), objective, "accuracy", "majority", "standard_error"
                )
            )
            seeds = [
                s
                for s in right
                if not is_learned(
                    accuracy=right[s], majority=most.get(s, 0), standard_error=error.get(s, 0)
                )
            ]
            where += (
                [f"{' '.join(row.labels)} (seed {', '.join(map(str, seeds))})"] if seeds else []
            )
        if where:
            yield (
                f"{objective} did not learn in {', '.join(where)}: its accuracy is not above the majority "
                "rate by more than its standard error, so what this row shows is not its doing."
            )


def _confidence(training: pd.DataFrame, built: table.Table) -> Iterator[str]:
    """Of losses without labels."""
    for objective in sorted(set(training.loc[training["metric"] == "confidence", "view"])):
        found = []
        for row in built.rows:
            (number,) = _numbers(training, _labels(row), objective, "confidence")
            if number.values:
                found.append(f"{table.measured(number).text} in {' '.join(row.labels)}")
        if found:
            yield (
                f"{objective} has no labels to guess. The confidence that it lowers was, in training, "
                f"{', '.join(found)}."
            )
