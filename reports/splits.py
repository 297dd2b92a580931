"""Which split of a data set tables and figures show: `test`, or `val` where there is no test split.

Between the rows of results and `stats.aggregate`: a `Measure` may name REPORTED or UNBIASED in place of
a split, and each run then answers with the one that it was measured on. `tune`, on which options are
chosen, is never shown.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from reports.index import distinct

REPORTED, UNBIASED = "reported", "reported_unbiased"
STANDS_FOR = {REPORTED: ("test", "val"), UNBIASED: ("test_unbiased", "val_unbiased")}
"""The first of these that the run measured. SSv2 has no public labels of its test split, and mini_ssv2 had
no test split before VERSION 2."""
TUNE = "tune"

NOTE = (
    "Split val: there is no test split with labels (of ssv2 none are public). Training validates on val too; "
    "what was chosen by it is flattered here."
)


def named(split: str, measured: Collection[str]) -> str:
    """The split that `split` stands for in a run that measured these."""
    choices = STANDS_FOR.get(split, (split,))
    return next((name for name in choices if name in measured), choices[-1])


def shown(frame: pd.DataFrame, evaluation: str, split: str = REPORTED) -> str:
    """For headings: `test`, `val`, or `test / val` of runs that differ. `test` where nothing is measured."""
    rows = distinct(frame, ["signature", "evaluation", "split"])
    rows = rows[rows["evaluation"] == evaluation]
    measured: dict[str, set[str]] = {}
    for signature, name in zip(rows["signature"], rows["split"], strict=True):
        measured.setdefault(signature, set()).add(name)
    choices = set(STANDS_FOR[split])
    found = {named(split, names) for names in measured.values() if names & choices}
    return " / ".join(sorted(found)) or STANDS_FOR[split][0]


def notes(frame: pd.DataFrame, evaluation: str) -> tuple[str, ...]:
    """What a table of REPORTED numbers says of `val`, if it shows it."""
    return (NOTE,) if "val" in shown(frame, evaluation).split(" / ") else ()
