"""Rows of numbers -> one long DataFrame, for `rows`: what rows share is said once for all of them.

A dictionary for each row would take gigabytes for 10,000 runs. Columns of text are categoricals, which
compare, group and filter like text, and take a byte or two a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

TEXT = ("evaluation", "split", "view", "subset", "metric")
"""Of a number; beside these it has value, n and n_failed."""

_PLACE = itemgetter(*TEXT)


class LongFrame:
    """Collects rows, and makes the frame of them."""

    def __init__(self) -> None:
        self._heads: list[Mapping[str, Any]] = []
        self._lengths: list[int] = []
        self._known: dict[tuple[str | None, ...], int] = {}
        self._places = array("i")  # which of the known
        self._values, self._n, self._failed = array("d"), array("q"), array("q")

    def add(self, head: Mapping[str, Any], numbers: Sequence[Mapping[str, Any]]) -> None:
        """Rows that differ in their number only."""
        if not numbers:
            return
        known = self._known
        places = [known.setdefault(place, len(known)) for place in map(_PLACE, numbers)]
        values = [np.nan if row["value"] is None else float(row["value"]) for row in numbers]
        counts = [(int(row["n"]), int(row.get("n_failed", 0))) for row in numbers]
        self._places.extend(places)
        self._values.extend(values)
        self._n.extend(n for n, _ in counts)
        self._failed.extend(failed for _, failed in counts)
        self._heads.append(head)
        self._lengths.append(len(numbers))

    def frame(self, columns: Sequence[str]) -> pd.DataFrame:
        """`columns`, and before the first of them that is not of a head's beginning, any others (the axes)."""
        axes = dict.fromkeys(key for head in self._heads for key in head if key not in columns)
        places = np.asarray(self._places, dtype=np.int32)
        text = zip(*self._known, strict=True) if self._known else ((),) * len(TEXT)
        numbers: dict[str, Any] = {
            **{n: _labels(found).take(places) for n, found in zip(TEXT, text, strict=True)},
            "value": np.asarray(self._values, dtype=np.float64),
            "n": np.asarray(self._n, dtype=np.int64),
            "n_failed": np.asarray(self._failed, dtype=np.int64),
        }
        made = {
            name: numbers[name] if name in numbers else self._of_heads(name)
            for name in (*columns, *axes)
        }
        return pd.DataFrame(made, columns=[*columns[:3], *axes, *columns[3:]], copy=False)

    def _of_heads(self, name: str) -> Any:
        """A column that is the same in all rows of a head."""
        values = [head.get(name) for head in self._heads]
        if any(isinstance(value, str) for value in values) or all(
            value is None for value in values
        ):
            return _labels(values).take(np.repeat(np.arange(len(values)), self._lengths))
        whole = not any(value is None for value in values)
        numbers = [np.nan if value is None else value for value in values]
        return np.repeat(
            np.asarray(numbers, dtype=np.int64 if whole else np.float64), self._lengths
        )


def categorical(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a categorical in place of each column of text."""
    text = [
        n for n in frame if frame[n].dtype == object or isinstance(frame[n].dtype, pd.StringDtype)
    ]
    return (
        frame.assign(**{str(name): frame[name].astype("category") for name in text})
        if text
        else frame
    )


def _labels(values: Sequence[str | None]) -> pd.Categorical:
    """With the categories in the order of the alphabet, whichever was met first."""
    known = sorted({value for value in values if value is not None})
    dtype = pd.CategoricalDtype(pd.Index(known, dtype="str"))
    return pd.Categorical(np.asarray(values, dtype=object), dtype=dtype)
